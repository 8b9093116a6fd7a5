"""Send the jobs of a sweep to other processes, on this machine or a cluster, and do them there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vtc_lab.reducers.inside import parts_of
from vtc_lab.reducers.registry import METHODS, Method
from vtc_lab.sweeps.jobs import Finished, Job, failed, work
from vtc_lab.sweeps.keys import environment, identity
from vtc_lab.tokens import VTCError

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

_PROCESS = os.getpid()  # where this was imported; a fork is another process
_LENT: dict[str, VideoModel | None] = {}  # of this process' own sweeps, for its threads and forks; None if one hangs
_LOADED: dict[str, VideoModel] = {}  # the one model that a worker has loaded
_MISSED: set[str] = set()  # sweeps whose model is another one here, so that it is loaded once for all their clips
_TURN = threading.Lock()  # threads share a model, and its memory


@dataclass(frozen=True)
class _Parcel:
    """A job with all that another process needs for it; without a spec, only the sweep's own has the model."""

    job: Job
    timeout: float | None
    sweep: str
    name: str
    spec: dict[str, Any] | None
    identity: str
    methods: bytes
    known: list[str]
    environment: str


def _pack(model: VideoModel, jobs: Sequence[Job], timeout: float | None, sweep: str) -> list[_Parcel]:
    names = {setting.method for job in jobs for setting in job.settings}
    used = sorted({each.name for name in names for each in parts_of(name) if each.stage == "before"})
    known = [name for name in used if METHODS[name].run.__module__.partition(".")[0] == "vtc_lab"]
    sent = _pickled({name: METHODS[name] for name in used if name not in known})
    spec = None if model.changed or model.revision else model.spec
    if spec:
        spec = spec | {"device": torch.device(spec["device"]).type}  # which GPU is the worker's own affair
    facts = (sweep, model.name, spec, identity(model) if spec else "", sent, known, environment(known))
    return [_Parcel(job, timeout, *facts) for job in jobs]


def _pickled(methods: dict[str, Method]) -> bytes:
    if not methods:
        return pickle.dumps({})
    names = " and ".join(map(repr, methods))
    try:
        import cloudpickle
    except ImportError as error:
        raise VTCError(f"method {names} must be sent to workers; install cloudpickle, or use no executor") from error
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


def _run(parcel: _Parcel) -> list[Finished]:
    """Do a job in a worker, which loads the model once."""
    if multiprocessing.parent_process() and ("OMP_NUM_THREADS" not in os.environ or os.getpid() != _PROCESS):
        torch.set_num_threads(1)  # there is a worker for each core; and after a fork more threads would hang
    with _TURN:
        here = environment(parcel.known)
        if parcel.environment != here:  # no result may depend on which worker made it
            raise VTCError(f"a worker has {here}, not {parcel.environment}; install the same there")
        if parcel.sweep not in _LENT:
            METHODS.update(pickle.loads(parcel.methods))
        return _in_time(_model(parcel), parcel)


def _in_time(model: VideoModel, parcel: _Parcel) -> list[Finished]:
    finished: list[Finished] = []
    problem: list[Any] = [VTCError(f"given up after timeout={parcel.timeout} seconds; run again, or give more")]

    def run() -> None:
        try:
            for part in work(model, parcel.job):
                finished.extend(part)
            problem.clear()
        except BaseException as error:
            problem[:] = [error]

    thread = threading.Thread(target=run, daemon=True)  # for which neither the next job nor the end of Python waits
    thread.start()
    thread.join(parcel.timeout)
    if thread.is_alive():  # it may still use the model, so the next job loads its own
        _LOADED.clear()
        _LENT.update({sweep: None for sweep in _LENT if sweep == parcel.sweep})
    rest = failed(parcel.job, problem[0]) if problem else ()
    return list({one[:2]: one for part in (*rest, finished.copy()) for one in part}.values())


def _model(parcel: _Parcel) -> VideoModel:
    if (lent := _LENT.get(parcel.sweep)) is not None:
        return lent
    if parcel.spec is None:
        raise VTCError(
            f"{parcel.name} was changed after it was loaded, given a revision or not made by load_model, and cannot be "
            "sent to other processes; sweep without an executor, or save it and load it again"
        )
    if parcel.identity not in _LOADED and parcel.sweep not in _MISSED:
        from vtc_lab.models.loading import load_model

        _LOADED.clear()
        model = load_model(**parcel.spec)
        _LOADED[identity(model)] = model
    if parcel.identity not in _LOADED:
        _MISSED.add(parcel.sweep)
        raise VTCError(f"a worker finds another model in {parcel.spec['name']}; give all of them the same files")
    return _LOADED[parcel.identity]


def work_elsewhere(
    model: VideoModel, executor: Executor, jobs: Sequence[Job], timeout: float | None, halted: Callable[[], bool]
) -> Generator[list[Finished], None, list[Job]]:
    """Yield what is finished; return the jobs that a broken pool left."""
    waiting: dict[Future, int] = {}
    left, sweep = [], str(uuid.uuid4())
    parcels = _pack(model, jobs, timeout, sweep)
    _LENT[sweep] = model
    try:
        for number, parcel in enumerate(parcels):
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
                    yield future.result()
                except BrokenExecutor:
                    left.append(number)
                except Exception as error:
                    yield from failed(jobs[number], error)
    finally:
        del _LENT[sweep]
        for future in waiting:
            future.cancel()
    return [jobs[number] for number in sorted(left)]
