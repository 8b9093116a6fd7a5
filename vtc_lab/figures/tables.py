"""A table for a paper: LaTeX with booktabs, and the numbers behind it as CSV."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from vtc_lab.export import _PACKAGE, _csv, _git, _is_tabled, _plain, _version
from vtc_lab.figures.marks import EVERYWHERE, GAPS, count, unit
from vtc_lab.sweeps.tidy import uneven
from vtc_lab.tokens import VTCError

_SUFFIXES = (".tex", ".csv")
_SIGNS = {"floor": "f", "error": "e", "empty": "n", "everywhere": ""}  # superscripts of what has no result
_WORDS = {reason: words for reason, (_, words) in GAPS.items()} | {"everywhere": EVERYWHERE}
_NONE = "--"


def save_table(
    table: pd.DataFrame,
    name: str,
    folder: str | Path | None = None,
    *,
    best: str | None = "max",
    provenance: dict[str, object] | None = None,
) -> dict[str, Path]:
    """Write a table of results as LaTeX (package booktabs) and as CSV.

    Both are written beside the target first and moved into place only then, so an error leaves earlier files as they
    were. The same table from the same code gives the same bytes. The LaTeX begins with a comment that says how it was
    made; the CSV holds the table as it is, unrounded.

    Parameters
    ----------
    table : of `bootstrap_interval`, by label and ratio (labels go down, ratios across), or of `compare`,
        `area_under_curve` or your own (row by row). Columns low and high go into the cell of the column before them.
    name : of the files, without a folder; ".tex" or ".csv" is taken off.
    folder : made if missing; by default `figures` in the repository, or in the current folder outside of one.
    best : "max" or "min": what is set in bold at each ratio, of the column before low; None for no bold. A mean over
        fewer samples than the rest does not compete.
    provenance : added to the comment (seed, model revision ...).

    Returns
    -------
    The path of each file by its suffix: ".tex" and ".csv". A cell without a result is "--"; it and a cell whose mean
    lacks rows are marked, and a note under the table gives the reason and the number of rows.

    Raises
    ------
    VTCError
        For an empty table or something else, a bad name or `best`, a folder that cannot be written to, or a name whose
        CSV belongs to a saved figure.

    Examples
    --------
    >>> table = pd.DataFrame({"label": ["lftr", "random"], "ratio": 8, "mean": [0.9, 0.5], "low": [0.8, 0.4],
    ...                       "high": [0.95, 0.6], "n": 9, "value": "right"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(save_table(table, "accuracy", folder)[".tex"].read_text().split("\\n", 1)[1])
    \\begin{tabular}{lc}
    \\toprule
     & $8\\times$ \\\\
    \\midrule
    lftr & \\bfseries 90.0 [80.0, 95.0] \\\\
    random & 50.0 [40.0, 60.0] \\\\
    \\bottomrule
    \\end{tabular}
    <BLANKLINE>
    """
    if not isinstance(table, pd.DataFrame) or table.empty:
        what = "an empty table" if isinstance(table, pd.DataFrame) else f"a {type(table).__name__}"
        raise VTCError(f"{what} cannot be saved; give a DataFrame with rows, such as vtc.bootstrap_interval returns")
    if best not in ("max", "min", None):
        raise VTCError(f"best is {best!r}; choose 'max', 'min' or None")
    stem = name[: -len(Path(name).suffix)] if isinstance(name, str) and Path(name).suffix in _SUFFIXES else name
    if not (isinstance(stem, str) and re.fullmatch(r"\w([\w .+=,()-]*[\w+=)-])?", stem)):
        raise VTCError(
            f"{name!r} cannot name a table; use letters, digits, spaces and .+=,()-_ (a folder goes into folder=)"
        )
    data = _csv(table)
    facts = {"vtc_lab": _version(), "commit": _git("rev-list", "-1", "HEAD", "--", ".")}
    facts |= {"data_sha256": hashlib.sha256(data).hexdigest(), "config": _plain(provenance or {}, "provenance")}
    latex = f"% {json.dumps(facts)}\n{_latex(table, best)}"
    if folder is None:
        folder = _PACKAGE.parent / "figures" if (_PACKAGE.parent / "pyproject.toml").exists() else "figures"
    folder = Path(folder)
    targets = {suffix: folder / f"{stem}{suffix}" for suffix in _SUFFIXES}
    if _is_tabled(targets[".csv"]):
        raise VTCError(f"{targets['.csv'].name} in {folder} is the table of the figure {stem!r}; choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace({targets[".tex"]: latex.encode(), targets[".csv"]: data})
    except OSError as error:
        reason = error.strerror or error
        raise VTCError(
            f"cannot write table {stem!r} into {folder}: {reason}; give a writable folder with room"
        ) from error
    return targets


def _latex(table: pd.DataFrame, best: str | None) -> str:
    """The tabular of a table, with its notes."""
    across = {"label", "ratio", "mean", "low", "high"} <= set(table.columns)
    numbers, texts, plain = _by_ratio(table) if across else _by_row(table)
    bold = np.zeros(texts.shape, bool)
    groups = table["ratio"].to_numpy() if "ratio" in table and not across else np.zeros(len(texts))
    for at, column in enumerate(texts.columns):
        if best and column in numbers:
            rivals = numbers[column].groupby(groups)
            bold[:, at] = (numbers[column] == rivals.transform(best)) & (rivals.transform("nunique") > 1)
    styler = texts.style.apply(lambda _: np.where(bold, "font-weight: bold", ""), axis=None)
    styler.format(escape="latex", subset=plain)
    if across:
        styler.format_index(escape="latex", axis=0)
    else:
        styler.format_index(escape="latex", axis=1).hide(axis="index")
    layout = "l" * across + "".join("l" if column in plain else "c" for column in texts.columns)
    lines = styler.to_latex(hrules=True, convert_css=True, column_format=layout)
    return lines.replace("\\bottomrule\n", f"\\bottomrule\n{_notes(table, len(layout))}")


def _by_ratio(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Means and cells with labels down and ratios across, and no column of plain text."""
    if table.duplicated(["label", "ratio"]).any():
        label, ratio = table[table.duplicated(["label", "ratio"])].iloc[0][["label", "ratio"]]
        raise VTCError(f"the table has more than one row for {label!r} at ratio {ratio:g}; save one value at a time")
    factor = unit(str(table["value"].iloc[0]))[1] if "value" in table else 1
    comparable = ~uneven(table) if {"missing", "everywhere"} <= set(table) else pd.Series(True, table.index)
    cells = table.assign(
        mean=table["mean"].where(comparable), text=[_cell(row._asdict(), factor) for row in table.itertuples()]
    )
    heads = {}
    for ratio, rows in table.groupby("ratio"):
        budgets = rows[["kept", "total"]].median() if {"kept", "total"} <= set(rows) else pd.Series([np.nan])
        kept = "" if budgets.isna().any() else f" ({count(budgets.kept)}/{count(budgets.total)})"
        heads[ratio] = f"${ratio:.3g}\\times${kept}"
    wide = [
        cells.pivot(index="label", columns="ratio", values=column)
        .reindex(index=table.label.unique(), columns=heads)
        .rename(columns=heads)
        .rename_axis(index=None, columns=None)
        for column in ("mean", "text")
    ]
    return wide[0], wide[1].fillna(_NONE), []


def _by_row(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Numbers and cells row by row, intervals folded into their estimates, and the columns of plain text."""
    columns = list(table.columns)
    estimate = columns[columns.index("low") - 1] if {"low", "high"} <= set(columns) and columns[0] != "low" else None
    shown = [column for column in columns if not (estimate and column in ("low", "high"))]
    plain = [column for column in shown if not pd.api.types.is_numeric_dtype(table[column])]
    texts = pd.DataFrame(index=range(len(table)))
    for column in shown:
        values = table[column].tolist()
        if column == estimate:
            rows = zip(values, table.low, table.high, strict=True)
            texts[column] = [_cell({"mean": value, "low": low, "high": high}, 1) for value, low, high in rows]
        else:
            texts[column] = [_number(value, column.startswith("p_")) for value in values]
    numbers = table[[estimate]].reset_index(drop=True) if estimate else pd.DataFrame()
    return numbers, texts, plain


def _cell(row: dict[str, object], factor: int) -> str:
    """A mean with its interval, with signs for rows that have no result."""
    digits = 1 if factor == 100 else 3
    mean, low, high = (f"{row[key] * factor:.{digits}f}" for key in ("mean", "low", "high"))
    text = _NONE if pd.isna(row["mean"]) else mean if pd.isna(row["low"]) else f"{mean} [{low}, {high}]"
    counts = _reasons(pd.DataFrame([row])) if "missing" in row else {}
    signs = ",".join(_SIGNS[reason] for reason, rows in counts.items() if rows and _SIGNS[reason])
    return _minus(text) + (f"\\textsuperscript{{{signs}}}" if signs else "")


def _reasons(table: pd.DataFrame) -> dict[str, int]:
    """How many rows have no result, by reason."""
    known = {reason: int(table[reason].sum()) for reason in ("floor", "error", "everywhere") if reason in table}
    return known | {"empty": int(table.missing.sum()) - sum(known.values())}


def _number(value: object, probability: bool) -> str:
    if not isinstance(value, str) and pd.isna(value):
        return _NONE
    if probability and value < 0.001:
        return "$<$0.001"
    return _minus(f"{value:.3g}") if isinstance(value, float) else str(value)


def _minus(text: str) -> str:
    """The text with minus signs for the hyphens that begin a number."""
    return re.sub(r"(?<!e)-(?=\d)", "$-$", text)


def _notes(table: pd.DataFrame, columns: int) -> str:
    """A line under the table for each reason why rows have no result."""
    counts = _reasons(table) if {"missing", "floor", "error"} <= set(table.columns) else {}
    return "".join(
        f"\\multicolumn{{{columns}}}{{l}}{{\\footnotesize \\textsuperscript{{{_SIGNS[reason]}}} "
        f"{_WORDS[reason]}: {rows} rows, which no mean includes}} \\\\\n"
        for reason, rows in counts.items()
        if rows
    )


def _replace(contents: dict[Path, bytes]) -> None:
    """Put all files into place, or none: what stood there is kept until all have arrived."""
    folder = next(iter(contents)).parent
    with tempfile.TemporaryDirectory(prefix=".vtc-export-", dir=folder) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        old.mkdir()
        for target, data in contents.items():
            (new / target.name).write_bytes(data)
            if target.exists():
                shutil.copy2(target, old)
        begun = []
        try:
            for target in contents:
                begun.append(target)
                (new / target.name).replace(target)
        except BaseException:
            for target in begun:
                with suppress(OSError):  # restore as much as can be restored
                    if (old / target.name).exists():
                        (old / target.name).replace(target)
                    else:
                        target.unlink(missing_ok=True)
            raise
