"""One call that writes everything a paper needs of a figure, and says in each file how it was made."""

from __future__ import annotations

import hashlib
import io
import json
import math
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vtc_lab.figures.style import writing
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError

SUFFIXES = (".pdf", ".svg", ".png", ".csv", ".json")

_PACKAGE = Path(__file__).resolve().parents[1]
_PATHS = re.compile(r"(?:file://|(?<![\w.:/\\~-]))(?:/|[A-Za-z]:[/\\])(?:[^\s/\\'\"]+[/\\])+")  # all but the last part


def attach(figure: Figure, data: pd.DataFrame | None = None, **config: object) -> Figure:
    """Give a figure the table behind it and what made it, for `save_figure` to write out.

    Parameters
    ----------
    figure : any matplotlib Figure.
    data : its tidy table, or None if it has none.
    config : what made it: numbers, text, lists, dicts, arrays; of a Clip, VideoTokens or Reduction the facts are
        written and not the pixels or values.

    Returns
    -------
    The figure, with the attribute `vtc`.

    Examples
    --------
    >>> attach(Figure(), seed=0).vtc
    {'data': None, 'config': {'seed': 0}}
    """
    figure.vtc = {"data": data, "config": config}
    return figure


def save_figure(
    figure: Figure,
    name: str,
    folder: str | Path | None = None,
    *,
    data: pd.DataFrame | None = None,
    provenance: dict[str, object] | None = None,
) -> dict[str, Path]:
    """Write a figure as PDF, SVG and PNG, the table behind it as CSV, and how it was made as JSON.

    Everything is written beside the target first and moved into place only then, so an error leaves earlier files as
    they were. The same figure from the same code gives the same bytes; no file holds a date or a local path. The
    PDF's Subject and the Description of SVG and PNG hold the JSON too.

    Parameters
    ----------
    figure : any matplotlib Figure, of this package (see `attach`) or not (seaborn: `grid.figure`).
    name : of the files, without a folder; all are written, so a known suffix such as ".pdf" is taken off.
    folder : made if missing; by default `figures` in the repository, or in the current folder outside of one.
    data : the tidy table, if it is not the attached one; without any there is no CSV.
    provenance : added to the attached config (seed, reader, model revision ...).

    Returns
    -------
    The path of each file by its suffix: ".pdf", ".svg", ".png", ".json", and ".csv" if there is a table.

    Raises
    ------
    VTCError
        For something that is no figure, a bad name, a folder that cannot be written to, a figure that cannot be drawn,
        or a name whose CSV belongs to a saved table.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(save_figure(attach(Figure(), seed=0), "empty", folder))
    ['.json', '.pdf', '.png', '.svg']
    """
    if not isinstance(figure, Figure):
        raise VTCError(
            f"a {type(figure).__name__} cannot be saved; give a matplotlib Figure (of axes or a grid: .figure)"
        )
    base = file_base(name, folder, SUFFIXES, "figure")
    attached = getattr(figure, "vtc", {"data": None, "config": {}})
    data = attached["data"] if data is None else data
    if not (data is None or isinstance(data, pd.DataFrame)):
        raise VTCError(f"data is a {type(data).__name__}; give a pandas DataFrame or leave it out")
    table = None if data is None else csv_bytes(data)
    facts = _facts(figure, table, {**attached["config"], **(provenance or {})})
    targets = {
        suffix: base.with_name(base.name + suffix) for suffix in SUFFIXES if suffix != ".csv" or data is not None
    }
    leaving = base.with_name(f"{base.name}.csv")
    if data is not None and tells_of(base.with_name(f"{base.name}.tex"), leaving):
        raise VTCError(f"{leaving.name} in {base.parent} is of the table {base.name!r}; choose another name")
    contents = _contents(figure, base.name, table, facts)
    gone = {leaving: None} if data is None and tells_of(targets[".json"], leaving) else {}
    replace_files({path: contents[suffix] for suffix, path in targets.items()} | gone, "figure")
    return targets


def file_base(name: str, folder: str | Path | None, suffixes: tuple[str, ...], what: str) -> Path:
    """The path without suffix of the files of a figure or table, by default in `figures`."""
    stem = name[: -len(Path(name).suffix)] if isinstance(name, str) and Path(name).suffix in suffixes else name
    if not (isinstance(stem, str) and re.fullmatch(r"\w([\w .+=,()-]*[\w+=)-])?", stem)):
        raise VTCError(
            f"{name!r} cannot name a {what}; use letters, digits, spaces and .+=,()-_ (a folder goes into folder=)"
        )
    if folder is None:
        folder = _PACKAGE.parent / "figures" if (_PACKAGE.parent / "pyproject.toml").exists() else "figures"
    return Path(folder, stem)


def _contents(figure: Figure, stem: str, table: bytes | None, facts: dict[str, object]) -> dict[str, bytes | None]:
    """The bytes of all files of a figure by suffix."""
    line = json.dumps(facts)
    about = {
        "pdf": {"Title": stem, "Subject": line, "CreationDate": None},
        "svg": {"Title": stem, "Description": line, "Date": None},
        "png": {"Title": stem, "Description": line},
    }
    drawn = {kind: io.BytesIO() for kind in about}
    try:
        with writing(), _laid_out(figure):
            for kind, entries in about.items():
                figure.savefig(drawn[kind], format=kind, metadata=entries)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise VTCError(f"figure {stem!r} cannot be drawn: {reason}; mend its text, data or size") from error
    contents = {f".{kind}": file.getvalue() for kind, file in drawn.items()}
    return contents | {".csv": table, ".json": f"{json.dumps(facts, indent=2)}\n".encode()}


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """Lay a figure out once, from its grid; matplotlib goes on from the last layout, and ends elsewhere each time."""
    engine = figure.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine):
        yield
        return
    engine.execute(figure)  # places the whole figure's titles, which the next one builds upon
    for axes in figure.axes:
        parents = getattr(axes, "_colorbar_info", {"parents": [axes]})["parents"]
        if parents[0].get_subplotspec() and axes.get_in_layout():
            axes.set_position(parents[0].get_subplotspec().get_position(axes.figure))
            axes.set_in_layout(True)  # which set_position takes back
    engine.execute(figure)
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def replace_files(contents: dict[Path, bytes | None], what: str) -> None:
    """Put files into their folder, and take away those of None, or do nothing at all: all are written elsewhere first.

    An error names the figure or table (`what`) by the first file.
    """
    first = next(iter(contents))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".vtc-export-", dir=first.parent) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            old.mkdir()
            for target, data in contents.items():
                if data is not None:
                    (new / target.name).write_bytes(data)
                if target.exists():
                    shutil.copy2(target, old)
            _move(contents, new, old)
    except OSError as error:
        reason = error.strerror or error
        raise VTCError(
            f"cannot write {what} {first.stem!r} into {first.parent}: {reason}; give a writable folder with room"
        ) from error


def _move(contents: dict[Path, bytes | None], new: Path, old: Path) -> None:
    """Move all files of `new` to their places; if one fails, put back what is kept in `old`."""
    begun = []
    try:
        for target, data in contents.items():
            begun.append(target)
            if data is None:
                target.unlink()
            else:
                (new / target.name).replace(target)
    except BaseException:
        for target in begun:
            with suppress(OSError):  # restore as much as can be restored
                if (old / target.name).exists():
                    (old / target.name).replace(target)
                else:
                    target.unlink(missing_ok=True)
        raise


def tells_of(file: Path, table: Path) -> bool:
    """Whether the JSON of a figure, or of a table the first line of its LaTeX, is of this CSV as it is on disk."""
    try:
        text = file.read_text(encoding="utf-8")
        facts = json.loads(text.splitlines()[0].removeprefix("% ") if file.suffix == ".tex" else text)
        return facts["data_sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def csv_bytes(data: pd.DataFrame) -> bytes:
    """A table as CSV bytes; a named index is a column of it, any other is not."""
    table = data.reset_index() if any(name is not None for name in data.index.names) else data.copy()
    texts = table.select_dtypes(exclude="number").columns
    table[texts] = table[texts].map(_without_path)
    return table.to_csv(index=False, lineterminator="\n").encode()


def _facts(figure: Figure, table: bytes | None, config: dict[str, object]) -> dict[str, object]:
    """How a figure was made, in what JSON can hold."""
    made_by = origin()
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    return {
        **made_by,
        "dirty": bool(_git("status", "--porcelain", "--", ".")) if made_by["commit"] else None,
        "versions": {**versions, "matplotlib": matplotlib.__version__},
        "inches": [round(float(side), 4) for side in figure.get_size_inches()],
        "data_sha256": None if table is None else hashlib.sha256(table).hexdigest(),
        "config": plain(config, "provenance"),
    }


def origin() -> dict[str, str | None]:
    """Version and commit of the package."""
    try:
        version = metadata.version("vtc_lab")
    except metadata.PackageNotFoundError:
        version = "not installed"
    # Of the package alone: a figure stays the same when only other files, such as figures, are committed.
    return {"vtc_lab": version, "commit": _git("rev-list", "-1", "HEAD", "--", ".") or None}


def _git(*command: str) -> str | None:
    try:
        call = ["git", "--no-optional-locks", "-C", str(_PACKAGE), *command]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def plain(value: object, where: str) -> object:
    """A value in what JSON can hold, the same in every process: no address in memory, no local path."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str() | Path():
            return _without_path(value)
        case np.ndarray() | np.generic() | torch.Tensor():
            return plain(value.tolist(), where)
        case list() | tuple():
            return [plain(item, where) for item in value]
        case dict():
            return {str(key): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        case Clip():
            facts = {"path": value.path, "reader": value.reader, "times": value.times, "sha256": value.sha256}
        case VideoTokens():
            facts = {"encoder": value.encoder, "grid": value.grid}
        case Reduction():
            facts = {key: getattr(value, key) for key in ("method", "options", "notes", "encoder", "grid")}
            facts |= {"kept": len(value), "total": value.total, "ratio": value.total / len(value)}
        case _:
            raise VTCError(f"{where} is a {type(value).__name__}; give numbers, text, lists or dicts of them")
    return plain(facts, where)


def _without_path(value: object) -> object:
    """Text in which each absolute local path is cut down to its last part; anything else as it is."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() and len(path.parts) > 2:
            return path.name
    return _PATHS.sub("", text)
