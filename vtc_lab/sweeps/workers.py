"""Sending the jobs of a sweep to other processes, on this machine or a cluster, and doing them there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vtc_lab.clips.reading import ROOT
from vtc_lab.reducers.registry import METHODS, Method
from vtc_lab.sweeps.jobs import Finished, Job, failed, work
from vtc_lab.sweeps.keys import code_hash, digest, file_hash, revision, versions
from vtc_lab.tokens import VTCError

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

_PROCESS = f"{uuid.uuid4()} {os.getpid()}"  # where this was imported; a fork is another process
_LOADED: dict[str, VideoModel] = {}  # the one model that jobs in this process use
_MISSED: set[str] = set()  # sweeps whose model is not to be had here: it is not loaded again for each of their clips
_TURN = threading.Lock()  # threads share that model, and its memory


@dataclass(frozen=True)
class _Parcel:
    """A job with all that a fresh process needs for it."""

    job: Job
    spec: dict[str, object]
    weights: str
    sent: bytes
    known: list[str]
    environment: str
    sender: str
    sweep: str


def environment(methods: Iterable[str] = ()) -> str:
    """The libraries and the code here, of reading, encoding, asking, comparing and some methods."""
    from vtc_lab.models.loading import load_model
    from vtc_lab.models.video_model import VideoModel

    code = code_hash(work, VideoModel, load_model, *(METHODS[name].run for name in methods if name in METHODS))
    code = digest(code, file_hash(ROOT / "vtc_lab" / "clips" / "decoder.py"))[:12]
    return ", ".join([*(f"{name} {version}" for name, version in versions().items()), f"vtc_lab {code}"])


def _pack(model: VideoModel, jobs: Sequence[Job]) -> list[_Parcel]:
    """Jobs as other processes need them, with those methods that they cannot import."""
    if model.spec is None:
        raise VTCError("workers cannot load a model that was not made by load_model; sweep it without an executor")
    spec = model.spec | {"device": torch.device(model.spec["device"]).type}  # which GPU is the worker's own affair
    used = sorted({setting.method for job in jobs for setting in job.settings})
    sent = {name: METHODS[name] for name in used if METHODS[name].run.__module__.partition(".")[0] != "vtc_lab"}
    known = [name for name in used if name not in sent]
    facts = (spec, revision(model), _pickled(sent), known, environment(known), _process(), str(uuid.uuid4()))
    return [_Parcel(job, *facts) for job in jobs]


@contextmanager
def _lent(model: VideoModel) -> Iterator[None]:
    """Let jobs that turn out to run in threads of this process use this model, instead of loading it again."""
    _LOADED[revision(model)] = model
    try:
        yield
    finally:
        _LOADED.clear()


def _run(parcel: _Parcel) -> list[Finished]:
    """Do a job in a worker, which loads the model once."""
    if multiprocessing.parent_process() and ("OMP_NUM_THREADS" not in os.environ or _process() != _PROCESS):
        torch.set_num_threads(1)  # there is a worker for each core; and after a fork more threads would hang
    with _TURN:
        here = environment(parcel.known)
        if parcel.environment != here:  # no result may depend on which worker made it
            raise VTCError(f"a worker has {here}, not {parcel.environment}; install the same there")
        if parcel.sender != _process():
            METHODS.update(pickle.loads(parcel.sent))
        return [finished for part in work(_model(parcel), parcel.job) for finished in part]


def _model(parcel: _Parcel) -> VideoModel:
    from vtc_lab.models.loading import load_model

    if parcel.weights not in _LOADED and parcel.sweep not in _MISSED:
        _LOADED.clear()
        model = load_model(**parcel.spec)
        _LOADED[revision(model)] = model
    if parcel.weights not in _LOADED:
        _MISSED.add(parcel.sweep)
        raise VTCError(
            f"a worker finds another model in {parcel.spec['name']}; a processor or weights changed after loading "
            "cannot be sent to workers, so sweep without an executor, or else give all of them the same files"
        )
    return _LOADED[parcel.weights]


def _process() -> str:
    """A name for this process that no other has, on any machine."""
    return f"{_PROCESS.split()[0]} {os.getpid()}"


def _pickled(methods: dict[str, Method]) -> bytes:
    if not methods:
        return pickle.dumps({})
    names = " and ".join(map(repr, methods))
    try:
        import cloudpickle
    except ImportError as error:
        raise VTCError(
            f"method {names} must be sent to the workers; install cloudpickle, or use no executor"
        ) from error
    modules = {sys.modules[m.run.__module__] for m in methods.values() if m.run.__module__ != "__main__"}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(methods)
    except Exception as error:
        raise VTCError(f"method {names} cannot be sent to workers ({error}); use no executor") from error
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def work_elsewhere(
    model: VideoModel, executor: Executor, jobs: Sequence[Job], halted: Callable[[], bool]
) -> Iterator[tuple[int, list[Finished]]]:
    """Yield the number of a job and what is finished of it; return the numbers of the jobs that a broken pool left."""
    waiting: dict[Future, int] = {}
    left = []
    with _lent(model):
        try:
            for number, parcel in enumerate(_pack(model, jobs)):
                try:
                    waiting[executor.submit(_run, parcel)] = number
                except BrokenExecutor:
                    left.append(number)
                except RuntimeError as error:
                    raise VTCError(f"the executor takes no jobs ({error}); give one that is open") from error
            while waiting:
                if halted():  # a worker that has begun finishes its clip
                    waiting = {future: number for future, number in waiting.items() if not future.cancel()}
                for future in wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED).done:
                    number = waiting.pop(future)
                    try:
                        finished = [future.result()]
                    except BrokenExecutor:
                        left.append(number)
                        continue
                    except Exception as error:
                        finished = failed(jobs[number], error)
                    for part in finished:
                        yield number, part
        finally:
            for future in waiting:
                future.cancel()
    return sorted(left)
