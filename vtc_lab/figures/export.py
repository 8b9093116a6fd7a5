"""Write a figure in every format that a paper needs, with the table behind it and a record of how it was made."""

import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vtc_lab.clips.reading import ROOT, given_path
from vtc_lab.figures.style import writing
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError, plain

SUFFIXES = (".json", ".pdf", ".svg", ".png", ".csv")  # the record first, and last what not every figure has
FOLDER = ROOT / "figures" if (ROOT / "pyproject.toml").exists() else Path("figures")

_FOLDERS = r"(?:(?:(?!\.\w{1,5}\s|:\s)[^/\\'\"\n]|(?<=\w)'(?=\w))+[/\\])*"  # with spaces, but not behind a suffix
_PATHS = re.compile(rf"(?:file://|(?<![\w.:/\\~-]))(?:/[^\s/\\'\"]+/|[A-Za-z]:[/\\]){_FOLDERS}")  # not the last part
_Figure = TypeVar("_Figure", bound=Figure)
_CSS = 120  # pixels an inch in a notebook


class Picture(Figure):
    """A Figure that a notebook shows without pyplot, which must stay out of widget callbacks."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        with writing():
            self.savefig(data, format="png", dpi=2 * _CSS)
        return data.getvalue()


def _shown(picture: Picture) -> tuple[bytes, dict[str, int]]:
    """Return a PNG and its size in CSS pixels, half its own, so that it is sharp on a dense screen too."""
    width, height = (round(side * _CSS) for side in picture.get_size_inches())
    return picture._repr_png_(), {"width": width, "height": height}


if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
    # Once pyplot is imported, IPython would show every other Figure cropped and at pyplot's resolution.
    shell.display_formatter.formatters["image/png"].for_type(Picture, _shown)


def attach(figure: _Figure, data: pd.DataFrame | None = None, **config: object) -> _Figure:
    """Give a figure its tidy table and what made it, for `save_figure` to write out."""
    vars(figure)["vtc"] = {"data": data, "config": config}
    return figure


def save_figure(
    figure: Figure,
    name: str,
    folder: str | Path | None = None,
    *,
    data: pd.DataFrame | None = None,
    provenance: Mapping[str, object] | None = None,
    replace: bool = False,
) -> dict[str, Path]:
    """Write a figure as PDF, SVG and PNG, the table behind it as CSV, and how it was made as JSON.

    No file is replaced before all could be written. A figure in the way whose recorded config differs is an error, and
    so is a file that the JSON there does not list. The same figure from the same code gives the same bytes; no file
    holds a date or a local path. The JSON is also the Subject of the PDF and the Description of SVG and PNG.

    Parameters
    ----------
    figure : any matplotlib Figure, of this package or not (seaborn: `grid.figure`).
    name : of the files, without a folder; a suffix such as ".pdf" is taken off.
    folder : made if missing; by default `figures` in the repository, or in the current folder outside of one.
    data : tidy table, by default the one that this package's plots attach; without any there is no CSV.
    provenance : added to the config in the record (seed, reader, model revision ...).
    replace : also a figure of another config.

    Returns
    -------
    The path of each file by its suffix: ".json", ".pdf", ".svg", ".png", and ".csv" if there is a table.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(save_figure(attach(Figure(), seed=0), "empty", folder))
    ['.json', '.pdf', '.png', '.svg']
    """
    if not isinstance(figure, Figure):
        raise VTCError(f"a {type(figure).__name__} cannot be saved; give a Figure (of axes or a grid: .figure)")
    if not replace and (differs := other_state(figure, name, folder, provenance=provenance)):
        raise VTCError(f"figure {name!r} is there in another state ({differs}); choose another name, or replace=True")
    base = file_base(name, folder, SUFFIXES, "figure")
    data = getattr(figure, "vtc", {"data": None})["data"] if data is None else data
    suffixes = SUFFIXES[:-1] if data is None else SUFFIXES
    facts = record(_config(figure, provenance), suffixes)
    facts["inches"] = [round(float(side), 4) for side in figure.get_size_inches()]
    contents = {".json": f"{json.dumps(facts, indent=2)}\n".encode(), **_drawn(figure, base.name, json.dumps(facts))}
    if data is not None:
        contents[".csv"] = csv_bytes(data)
    return write_files(base, contents, "figure")


def other_state(
    figure: Figure, name: str, folder: str | Path | None = None, *, provenance: Mapping[str, object] | None = None
) -> str:
    """Return in words what differs in the config of the saved figure of this name, "" if nothing, or if there is none.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = save_figure(attach(Figure(), ratio=4, seed=0), "lftr", folder)
    ...     other_state(attach(Figure(), ratio=8, seed=0), "lftr", folder)
    'ratio is 4 there and 8 here'
    """
    base = file_base(name, folder, SUFFIXES, "figure")
    recorded = _recorded(base.with_name(f"{base.name}.json"))
    if not recorded:
        return ""
    config = json.loads(json.dumps(_plain(_config(figure, provenance), "provenance")))
    there, here = (defaultdict(lambda: "absent", _leaves(facts)) for facts in (recorded.get("config", {}), config))
    differs = [key for key in there | here if there[key] != here[key]]
    words = [f"{key} is {there[key]!s:.60} there and {here[key]!s:.60} here" for key in differs]
    return ", ".join(words[:2]) + (f", and {len(words) - 2} more" if words[2:] else "")


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the path and value of everything in nested dicts and lists."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{path}.{key}" if path else f"{key}")
    else:
        yield path, value


def _config(figure: Figure, provenance: Mapping[str, object] | None) -> dict[str, object]:
    return {**getattr(figure, "vtc", {"config": {}})["config"], **({} if provenance is None else provenance)}


def latex_line(files: Mapping[str, Path], width: str = "column") -> str:
    """Return the line that includes in LaTeX what `save_figure` wrote, as wide as the "column" or the "text"."""
    path = files[".pdf"]
    return rf"\includegraphics[width=\{width}width]{{{path.parent.name}/{path.name}}}"


def file_base(name: str, folder: str | Path | None, suffixes: Iterable[str], what: str) -> Path:
    """Return the path of the files of a figure or table, without suffix."""
    known = next((suffix for suffix in suffixes if str(name).endswith(suffix)), "")
    stem = str(name).removesuffix(known)
    if not (isinstance(name, str) and re.fullmatch(r"\w([\w .+=,()-]*[\w+=)-])?", stem)):
        raise VTCError(
            f"{name!r} cannot name a {what}; use letters, digits, spaces and .+=,()-_, and folder= beside it"
        )
    return given_path(FOLDER if folder is None else folder) / stem


def write_files(base: Path, contents: dict[str, bytes], what: str) -> dict[str, Path]:
    """Replace the files of a figure or table together; the first suffix is of the record that lists them all."""
    targets = {suffix: base.with_name(base.name + suffix) for suffix in contents}
    try:
        facts = _recorded(next(iter(targets.values())))
        earlier = set(facts.get("files", ()))
        for suffix, target in targets.items():
            if target.is_dir() or (target.exists() and suffix not in earlier):
                raise VTCError(f"{target} was not written by save_{what}; choose another name or move it")
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".vtc-export-", dir=base.parent) as scratch:
            for suffix in targets:
                Path(scratch, suffix).write_bytes(contents[suffix])
            for suffix, target in targets.items():
                os.replace(Path(scratch, suffix), target)
        if ".csv" in earlier - contents.keys():
            base.with_name(f"{base.name}.csv").unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise VTCError(
            f"cannot write {what} {base.name!r} into {base.parent}: {reason}; give a writable folder with room"
        ) from error
    return targets


def _recorded(file: Path) -> dict[str, Any]:
    """Return a record, which is a JSON or a comment that begins a LaTeX file; {} for any other file."""
    try:
        facts, _ = json.JSONDecoder().raw_decode(file.read_text("utf-8").removeprefix("% ") if file.is_file() else "")
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and "vtc_lab" in facts else {}


def _drawn(figure: Figure, title: str, about: str) -> dict[str, bytes]:
    """Return the PDF, SVG and PNG of a figure by suffix."""
    entries: dict[str, dict[str, Any]] = {
        "pdf": {"Title": title, "Subject": about, "CreationDate": None},
        "svg": {"Title": title, "Description": about, "Date": None},
        "png": {"Title": title, "Description": about},
    }
    files = {kind: io.BytesIO() for kind in entries}
    engine = figure.get_layout_engine()
    try:
        with writing():
            if isinstance(engine, ConstrainedLayoutEngine):
                _lay_out(figure, engine)
            for kind, file in files.items():
                figure.savefig(file, format=kind, metadata=entries[kind])
    except Exception as error:
        reason = " ".join(str(error).split())
        raise VTCError(f"figure {title!r} cannot be drawn: {reason}; mend its text, data or size") from error
    finally:
        if engine:
            figure.set_layout_engine(engine)
    return {f".{kind}": file.getvalue() for kind, file in files.items()}


def _lay_out(figure: Figure, engine: ConstrainedLayoutEngine) -> None:
    """Lay a figure out from its grid, because matplotlib goes on from the last layout and ends elsewhere each time."""
    spec: Any
    engine.execute(figure)  # places the titles of the whole figure, on which the next layout builds
    for axes in figure.axes:
        spec, in_layout = axes.get_subplotspec(), axes.get_in_layout()
        if spec and in_layout:
            axes.set_position(spec.get_position(axes.figure))
        elif axes.get_label() == "<colorbar>":  # matplotlib's name of axes that it puts beside others
            axes.set_position((0, 0, 0.01, 1))
        axes.set_in_layout(in_layout)  # set_position turned it off
    engine.execute(figure)
    figure.set_layout_engine("none")


def csv_bytes(data: pd.DataFrame) -> bytes:
    """Return a table as CSV; a named index becomes a column."""
    if not (isinstance(data, pd.DataFrame) and data.columns.is_unique):
        raise VTCError(f"the table is a {type(data).__name__}, or has a column twice; give a DataFrame that has none")
    try:
        table = data.reset_index() if any(name is not None for name in data.index.names) else data.copy()
    except ValueError as error:
        raise VTCError(f"the table cannot be written ({error}); give its index another name") from error
    texts = table.select_dtypes(exclude="number").columns
    table[texts] = table[texts].map(lambda value: _without_path(value) if isinstance(value, str | Path) else value)
    return table.to_csv(index=False, lineterminator="\n").encode()


def record(config: Mapping[str, object], files: Iterable[str]) -> dict[str, Any]:
    """Return how a figure or table was made, and the suffixes of its files, as JSON can hold it."""
    try:
        version = metadata.version("vtc_lab")
    except metadata.PackageNotFoundError:
        version = "not installed"
    # Of the package alone: a figure stays the same when only other files, such as figures, are committed.
    commit = _git("rev-list", "-1", "HEAD", "--", ".") or None
    versions = {module.__name__: module.__version__ for module in (np, torch, matplotlib)}
    return {
        "vtc_lab": version,
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--", ".")) if commit else None,
        "versions": {"python": platform.python_version(), **versions},
        "files": list(files),
        "config": _plain({**config}, "provenance"),
    }


def _git(*command: str) -> str | None:
    try:
        call = ["git", "--no-optional-locks", "-C", str(ROOT / "vtc_lab"), *command]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _plain(value: object, where: str) -> object:
    """Return a value as JSON can hold it, without local paths and addresses in memory."""
    facts: dict[str, object]
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str() | Path():
            return _without_path(value)
        case np.ndarray() | np.generic() | torch.Tensor():
            return _plain(value.tolist(), where)
        case list() | tuple():
            return [_plain(item, where) for item in value]
        case dict():
            return {_without_path(str(key)): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        case Clip():
            facts = {"path": value.path, "reader": value.reader, "times": value.times, "sha256": value.sha256}
        case VideoTokens():
            facts = {"encoder": value.encoder, "grid": value.grid}
        case Reduction():
            facts = {key: getattr(value, key) for key in ("method", "options", "notes", "encoder", "grid")}
            facts |= {"kept": len(value), "total": value.total, "ratio": value.total / len(value)}
        case _:
            raise VTCError(f"{where} is a {type(value).__name__}; give numbers, text, lists or dicts of them")
    return _plain(facts, where)


def _without_path(value: str | Path) -> str:
    """Return text in which each absolute local path is cut down to its last part."""
    text = plain(value)
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute() and len(path.parts) > 2:
            return path.name
    return _PATHS.sub("", text)
