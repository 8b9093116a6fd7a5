"""What a result depends on, as hashes: the code as it is loaded, the model's weights, the clip's bytes, the versions.

A stored result is used again only while all of these are the same. Code is told apart by what it does: by the bytecode
and constants of every function that can be reached, in this package and in a notebook, but not by comments and
docstrings, and not by files on disk, which may be newer than what is loaded.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vtc_lab.tokens import VTCError

if TYPE_CHECKING:
    from vtc_lab.models.video_model import VideoModel

_LIBRARIES = ("torch", "torchvision", "transformers", "decord", "av")
_MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja", ".py")
_OF_LOADING = ("init_inputs", "init_kwargs", "verbose", "deprecation_warnings", "files_loaded")  # and of warning
_BLOCK = 4096  # numbers of a checksum
_PLAIN = (int, float, complex, str, bytes, bool, types.NoneType, type(...))
_DATA = (*_PLAIN, tuple, list, set, frozenset, dict, Tensor, np.ndarray, types.FunctionType)  # no registries, no caches


def digest(*parts: object) -> str:
    """One short name for several texts or numbers.

    >>> digest("a", 1) == digest("a", 1) != digest("a", 2)
    True
    """
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:40]


def versions() -> dict[str, str]:
    """The installed versions that a result may depend on; "" for what is not installed.

    >>> sorted(versions())
    ['av', 'decord', 'torch', 'torchvision', 'transformers']
    """
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, remembered for as long as its size and time of change are the same."""
    facts = os.stat(path)
    return _file_hash(str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns)


@cache
def _file_hash(path: str, *facts: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def revision(model: VideoModel) -> str:
    """Which model this is, as it is now: its files, weights, settings and processor, and the kind of device and dtype.

    What was changed since it was loaded counts too, except weights that are offloaded or packed by a quantiser, and
    code that was patched into it. Where the files lie does not matter.

    >>> import vtc_lab as vtc
    >>> model = vtc.load_model()
    >>> before = revision(model)
    >>> before.split()[1:]
    ['cpu', 'torch.float32']
    >>> model.processor.chat_template += " "
    >>> revision(model) == before
    False
    """
    network, source = model.network, Path(model.spec["name"]) if model.spec else None
    files = sorted(source.iterdir()) if source is not None and source.is_dir() else []
    parts = [f"{file.name} {file_hash(file)}" for file in files if file.suffix in _MODEL_FILES]
    parts += [f"{name} {_checksum(value)}" for name, value in network.state_dict().items()]
    computing = [network.config, network.config.get_text_config()._attn_implementation, network.generation_config]
    parts += [json.dumps(_settings(part), sort_keys=True) for part in (*computing, model.processor)]
    kind = (type(network).__qualname__, getattr(network.config, "_commit_hash", None))
    content = digest(*parts, *kind, code_hash(model.family))  # a user may have registered it
    return f"{content} {network.device.type} {network.dtype}"


def _checksum(value: object) -> str:
    """Exact sums of a tensor's bytes as numbers of 64 bits, block by block: a hash takes 20 times as long."""
    if not isinstance(value, Tensor) or value.is_meta or hasattr(value, "__tensor_flatten__"):
        return "unseen"  # offloaded, or packed by a quantiser
    bits = value.detach().contiguous().flatten().view(torch.uint8)
    bits = bits.clone() if bits.storage_offset() % 8 else bits
    words = bits[: len(bits) // 8 * 8].view(torch.int64)
    whole = len(words) // _BLOCK * _BLOCK
    blocks = words[:whole].view(-1, _BLOCK).sum(1)
    blocks = blocks * torch.arange(1, len(blocks) + 1, device=blocks.device)  # moved blocks are another tensor
    sums = torch.stack([blocks.sum(), words[whole:].sum(), bits[8 * len(words) :].sum(dtype=torch.int64)])
    return f"{value.dtype} {tuple(value.shape)} {sums.tolist()}"


def _settings(value: object) -> object:
    """What decides how a processor or a configuration works, as JSON data without where it was loaded from."""
    if isinstance(value, _PLAIN):
        return value if isinstance(value, int | float | str | None) else repr(value)
    if isinstance(value, Mapping):
        return {str(key): _settings(item) for key, item in value.items() if not _is_place(str(key))}
    if isinstance(value, list | tuple):
        return [_settings(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, type | types.FunctionType):
        return code_hash(value)
    kind = type(value).__qualname__
    if hasattr(value, "special_tokens_map"):
        return [kind, _tokenizer_settings(value)]
    if hasattr(value, "tokenizer"):  # a processor's own to_dict leaves out what it computes
        return [kind, {key: _settings(part) for key, part in vars(value).items() if not key.startswith("_")}]
    if hasattr(value, "to_dict"):
        return [kind, _settings(value.to_dict())]
    return re.sub("0x[0-9a-f]+", "", repr(value))


def _tokenizer_settings(tokenizer: object) -> dict[str, object]:
    named = {key: value for key, value in vars(tokenizer).items() if isinstance(value, (*_PLAIN, list, dict))}
    found = {key: value for key, value in named.items() if not (key.startswith("_") or key in _OF_LOADING)}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Each call leaves in the backend how it cut and padded, which comes before the tokens.
    words = tokenizer.get_vocab() if backend is None else backend.to_str().partition('"added_tokens"')[2]
    return _settings(found | {"special": tokenizer.special_tokens_map, "words": words})


def _is_place(name: str) -> bool:
    """Whether a setting says where something was loaded from."""
    return name.endswith(("name_or_path", "_file")) or name == "_commit_hash"


def _tensor_hash(value: Tensor) -> str:
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy()).hexdigest()


def code_hash(*roots: object) -> str:
    """A name for what functions and classes do, with all that they use outside of installed libraries.

    Parameters
    ----------
    roots : functions or classes, of this package, a user's module or a notebook.

    Returns
    -------
    Text that is the same in another process with the same code, and another one when a function that is reached, a
    default, or a plain constant that is used has changed. What is looked up by a computed name is not seen.

    Examples
    --------
    >>> def area(side, factor=2):
    ...     return factor * side**2
    >>> before = code_hash(area)
    >>> area.__defaults__ = (3,)
    >>> code_hash(area) != before
    True
    """
    seen: set[int] = set()
    return digest(*(word for root in roots for word in _words(root, set(), seen)))


def _words(value: object, names: Iterable[str], seen: set[int]) -> Iterator[str]:
    """Words that change with what a value does; of a module those parts count whose names are used."""
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, (tuple, list)):
        yield from (word for item in value for word in _words(item, names, seen))
    elif isinstance(value, (set, frozenset)):
        yield from sorted(digest(*_words(item, names, seen)) for item in value)
    elif isinstance(value, dict) and all(isinstance(item, _DATA) for item in value.values()):
        yield from (word for pair in value.items() for item in pair for word in _words(item, names, seen))
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} {_tensor_hash(value)}"
    elif isinstance(value, np.ndarray):
        yield digest(value.dtype, value.shape, value.tolist() if value.dtype.hasobject else value.tobytes().hex())
    elif isinstance(value, partial):
        yield from _words((value.func, value.args, value.keywords), names, seen)
    elif isinstance(value, types.MethodType):
        yield from _words((value.__func__, value.__self__), names, seen)
    elif isinstance(value, types.ModuleType):
        yield f"{value.__name__} {_library(value.__name__)}"
        if not _library(value.__name__):
            for name in sorted(set(names) & set(vars(value))):
                yield from _words(vars(value)[name], names, seen)
    elif isinstance(value, (type, types.FunctionType)):
        # What exec makes says that it is a builtin, and those are no Python functions.
        module = value.__module__ if isinstance(value, type) else value.__globals__.get("__name__", "__main__")
        yield f"{value.__qualname__} {_library(module)}"
        if not _library(module) and id(value) not in seen:
            seen.add(id(value))
            yield from _class(value, seen) if isinstance(value, type) else _function(value, seen)
    else:
        yield str(getattr(value, "__name__", ""))  # of what is written in C
        yield from _words(type(value), names, seen)
        if not _library(type(value).__module__) and id(value) not in seen:
            seen.add(id(value))
            yield from _words(getattr(value, "__dict__", {}), names, seen)


def _function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    names: set[str] = set()
    yield from _code(function.__code__, names, function.__doc__, seen)
    for default in (function.__defaults__ or (), *sorted((function.__kwdefaults__ or {}).items())):
        yield from _words(default, names, seen)
    for cell in function.__closure__ or ():
        yield from _words(cell.cell_contents if cell != types.CellType() else None, names, seen)
    for name in sorted(names & set(function.__globals__)):
        if name.startswith("__"):
            continue  # where a file lies does not matter
        yield name
        yield from _words(function.__globals__[name], names, seen)


def _code(code: types.CodeType, names: set[str], doc: str | None, seen: set[int]) -> Iterator[str]:
    names.update(code.co_names)
    yield digest(code.co_code.hex(), *code.co_names, *code.co_varnames)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant, names, None, seen)
        else:
            yield from _words(None if constant is doc else constant, (), seen)


def _class(kind: type, seen: set[int]) -> Iterator[str]:
    for base in kind.__bases__:
        yield from _words(base, (), seen)
    for name, member in sorted(vars(kind).items()):
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, cached_property):
            member = member.func
        elif isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        if isinstance(member, types.FunctionType) or not name.startswith("__"):
            yield name
            yield from _words(member, (), seen)


def _library(module: str | None) -> str:
    """The name and version of the installed library that a module is of; "" for this package and a user's own code."""
    root = (module or "builtins").partition(".")[0]
    if root in ("vtc_lab", "__main__"):
        return ""
    if root in sys.stdlib_module_names:
        return root
    found = sys.modules.get(root)
    parts = Path(getattr(found, "__file__", None) or "").parts
    installed = {"site-packages", "dist-packages"} & set(parts)
    return f"{root} {getattr(found, '__version__', '')}" if installed else ""


def portable(value: object) -> object:
    """An option's value as plain JSON data, so that 2, 2.0 and a NumPy 2 are one.

    Raises
    ------
    VTCError
        For a value that is none: an array, an object.

    Examples
    --------
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
