"""Name what a result depends on: the model, the code, the versions and the clip's bytes."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from vtc_lab.clips.reading import ROOT
from vtc_lab.models.state import model_files, weights_sample
from vtc_lab.reducers.inside import parts_of
from vtc_lab.reducers.registry import METHODS
from vtc_lab.tokens import VTCError

if TYPE_CHECKING:
    from vtc_lab.models.video_model import VideoModel

_LIBRARIES = ("torch", "torchvision", "transformers", "decord", "av")
_PACKAGE = ROOT / "vtc_lab"
_ROOMS = ("tokens.py", "measures.py", "clips", "reducers", "models", "qa", "sweeps")  # that make a result
_METHOD_FILES = str(_PACKAGE / "reducers" / "methods")  # each belongs to its own method alone


def digest(*parts: object) -> str:
    """Return one short name for several texts or numbers."""
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogatepass")).hexdigest()[:40]


def file_hash(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, remembered while its size and time of change are the same."""
    facts = os.stat(path)
    return _file_hash(str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns)


@cache
def _file_hash(path: str, *facts: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_FILES = sorted(file for room in _ROOMS for file in (_PACKAGE / room, *(_PACKAGE / room).rglob("*.py")))
_IMPORTED = {str(file): file_hash(file) for file in _FILES if file.is_file()}


def environment(methods: Iterable[str] = ()) -> str:
    """Return the versions of the libraries, and a hash of this package's code and that of some methods."""
    for file, found in _IMPORTED.items():
        if not os.path.exists(file) or file_hash(file) != found:
            raise VTCError(f"{file} was changed after it was imported; restart Python, or the kernel")
    code = [found for file, found in _IMPORTED.items() if not file.startswith(_METHOD_FILES)]
    code += [code_hash(METHODS[name].run, METHODS[name].least) for name in methods]
    return ", ".join([*(f"{name} {_version(name)}" for name in _LIBRARIES), f"vtc_lab {digest(*code)[:12]}"])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


def code_hash(*functions: Callable[..., Any]) -> str:
    """Return a hash of what functions do, as far as their source tells.

    Of this package's functions the whole files count. Of a user's the source counts, with that of the functions of the
    same module or notebook that they use, and the values of the variables that they use.
    """
    words, seen, waiting = [], set(), list(functions)
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if function in seen:
            continue
        seen.add(function)
        try:
            if (file := inspect.getsourcefile(function)) in _IMPORTED:
                words.append(_IMPORTED[str(file)])
                continue
            words.append(inspect.getsource(function))
            used = inspect.getclosurevars(function)
        except (OSError, TypeError, ValueError) as error:
            name = getattr(function, "__qualname__", repr(function))
            raise VTCError(
                f"the source of {name} is not to be found ({error}); define it in a file or a notebook cell, "
                "or leave out results"
            ) from error
        # A file may have been edited after it was imported: its text alone would not be what runs.
        words += [function.__code__.co_code.hex(), repr((function.__defaults__, function.__kwdefaults__))]
        for name, value in sorted({**used.globals, **used.nonlocals}.items()):
            value = inspect.unwrap(value) if callable(value) else value
            if inspect.isfunction(value) or inspect.isclass(value):
                if value.__module__ == function.__module__:
                    members = [value] if inspect.isfunction(value) else vars(value).values()
                    waiting += filter(inspect.isfunction, members)
                words.append(f"{name} {value.__module__} {value.__qualname__}")
            elif not inspect.ismodule(value):
                words.append(f"{name} {_text(value)}")
    return digest(*words)


def _text(value: Any) -> str:
    """Return what the value of a variable is, in full."""
    if isinstance(value, nn.Module):
        return f"{value} {weights_sample(value)}"
    if isinstance(value, Mapping):
        return repr([(key, _text(item)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return repr([_text(item) for item in value])
    return repr(value.tolist() if hasattr(value, "tolist") else value)


def identity(model: VideoModel) -> str:
    """Return which model this is: a hash of its files or the hub's commit, and of its revision; device type; dtype."""
    files = [f"{file.name} {file_hash(file)}" for file in model_files(model.spec)]
    commit = getattr(model.network.config, "_commit_hash", None) if model.spec else None
    if model.changed or not (files or commit or model.revision):
        words = "was changed since it was loaded or named" if model.changed else "was not made by load_model"
        raise VTCError(f"{model.name} {words}; set model.revision to a name for it as it is now, or leave out results")
    family = [code_hash(value) if inspect.isfunction(value) else repr(value) for value in vars(model.family).values()]
    content = digest(*files, commit, model.revision, weights_sample(model.network), *family)
    return f"{content} {model.network.device.type} {model.network.dtype}"


def result_origins(model: VideoModel, methods: Iterable[str]) -> dict[str, str]:
    """Return for each method a name of all that its results depend on beside sample and setting."""
    common = (identity(model), environment())
    code = {name: [(each.needs, code_hash(each.run, each.least)) for each in parts_of(name)] for name in methods}
    return {name: digest(*common, name, *chain.from_iterable(made)) for name, made in code.items()}


def portable(value: object) -> Any:
    """Return an option's value as plain JSON data, so that 2, 2.0 and a NumPy 2 are one.

    >>> portable(np.float64(2)), portable(0.5), portable(None), portable((1, 2.0))
    (2, 0.5, None, [1, 2])
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise VTCError(f"{value!r:.60} cannot be an option of a sweep, which stores it; give a number, a text or None")
