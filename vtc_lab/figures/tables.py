"""A table for a paper: LaTeX with booktabs, and the numbers behind it as CSV."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from vtc_lab.figures.export import csv_bytes, file_base, record, write_files
from vtc_lab.figures.marks import EVERYWHERE, GAPS, count, unit
from vtc_lab.sweeps.tidy import NOT_RUN, uneven
from vtc_lab.tokens import VTCError

_SUFFIXES = (".tex", ".csv")
_WORDS = {reason: words for reason, (_, words) in GAPS.items()} | {
    "everywhere": EVERYWHERE,
    "unfit": "only for values that are true or false",
}
_SIGNS = {"minimum": "f", "error": "e", "empty": "n", "absent": "a", "everywhere": "u", "unfit": "b"}  # superscripts
_COUNTED = ("minimum", "error", "everywhere")  # columns of the package's tables that say why rows are missing
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

    Files are replaced as by `save_figure`, but the LaTeX lists them: it begins with a comment that says how it was
    made. The same table from the same code gives the same bytes. The CSV holds the table as it is, unrounded.

    Parameters
    ----------
    table : of `bootstrap_interval`, by label and ratio (labels go down, ratios across), or of `compare`,
        `area_under_curve` or your own (row by row). Columns low and high go into the cell of the column before them,
        minimum, error and everywhere into marks and notes.
    name : of the files, without a folder; ".tex" or ".csv" is taken off.
    folder : made if missing; by default `figures` in the repository, or in the current folder outside of one.
    best : "max" or "min": what is set in bold at each ratio, of the column before low; None for no bold. A mean over
        fewer samples than the rest does not compete.
    provenance : added to the comment (seed, model revision ...).

    Returns
    -------
    The path of each file by its suffix: ".tex" and ".csv". A cell without a result is "--"; it and a cell whose mean
    lacks rows that others have are marked, and a note under the table gives the reason and the number of rows. The
    tokens kept are in the head of a ratio if all means over all samples have the same, and else in the cells that
    differ.

    Raises
    ------
    VTCError
        For an empty table or something else, a bad name or `best`, a folder that cannot be written to, or another's
        file in the way.

    Examples
    --------
    >>> import tempfile
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
    base = file_base(name, folder, _SUFFIXES, "table")
    facts = record(dict(provenance or {}), list(_SUFFIXES))
    latex = f"% {json.dumps(facts)}\n{_latex(table, best)}"
    return write_files(base, {".tex": latex.encode(), ".csv": csv_bytes(table)}, "table")


def _latex(table: pd.DataFrame, best: str | None) -> str:
    """The tabular of a table, with its notes."""
    across = {"label", "ratio", "mean", "low", "high"} <= set(table.columns)
    marks: Counter[str] = Counter()  # how many cells have the mark of a reason
    numbers, texts, words = _by_ratio(table, marks) if across else _by_row(table, marks)
    bold = np.zeros(texts.shape, bool)
    groups = table["ratio"].to_numpy() if "ratio" in table and not across else np.zeros(len(texts))
    for at, column in enumerate(texts.columns):
        if best and column in numbers:
            rivals = numbers[column].groupby(groups)
            bold[:, at] = (numbers[column] == rivals.transform(best)) & (rivals.transform("nunique") > 1)
    styler = texts.style.apply(lambda _: np.where(bold, "font-weight: bold", ""), axis=None)
    for column in words:
        styler.format(escape="latex", subset=(texts.index[table[column].notna()], [column]))
    if across:
        styler.format_index(escape="latex", axis=0)
    else:
        styler.format_index(escape="latex", axis=1).hide(axis="index")
    layout = "l" * across + "".join("l" if column in words else "c" for column in texts.columns)
    lines = styler.to_latex(hrules=True, convert_css=True, column_format=layout)
    return lines.replace("\\bottomrule\n", f"\\bottomrule\n{_notes(table, marks, len(layout))}")


def _by_ratio(table: pd.DataFrame, marks: Counter[str]) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Means and cells with labels down and ratios across, and no column of plain text."""
    if table.duplicated(["label", "ratio"]).any():
        label, ratio = table[table.duplicated(["label", "ratio"])].iloc[0][["label", "ratio"]]
        raise VTCError(f"the table has more than one row for {label!r} at ratio {ratio:g}; save one value at a time")
    factor = unit(str(table["value"].iloc[0]))[1] if "value" in table else 1
    comparable = ~uneven(table) if {"missing", "everywhere"} <= set(table) else pd.Series(True, table.index)
    budgets = _budgets(table)
    full = budgets[comparable & table["mean"].notna()].groupby(table["ratio"])
    shared = {ratio: kept.iloc[0] if kept.nunique() == 1 else "" for ratio, kept in full}
    ratios = sorted(table["ratio"].dropna().unique())
    digits = next(many for many in range(3, 18) if len({f"{ratio:.{many}g}" for ratio in ratios}) == len(ratios))
    heads = {ratio: f"${ratio:.{digits}g}\\times${shared.get(ratio, '')}" for ratio in ratios}
    own = budgets.where(budgets != table["ratio"].map(shared), "").where(table["mean"].notna(), "")
    texts = [
        _marked(_interval(row, factor) + kept, _reasons_of(row), marks)
        for row, kept in zip(table.to_dict("records"), own, strict=True)
    ]
    cells = table.assign(mean=table["mean"].where(comparable), text=texts)
    wide = [
        cells.pivot(index="label", columns="ratio", values=column)
        .reindex(index=table.label.unique(), columns=heads)
        .rename(columns=heads)
        .rename_axis(index=None, columns=None)
        for column in ("mean", "text")
    ]
    return wide[0], wide[1].map(lambda text: _marked(_NONE, ["absent"], marks) if pd.isna(text) else text), []


def _budgets(table: pd.DataFrame) -> pd.Series:
    """The tokens kept of all in words, "" where they are not known."""
    if not {"kept", "total"} <= set(table):
        return pd.Series("", table.index)
    pairs = zip(table["kept"], table["total"], strict=True)
    texts = ["" if pd.isna(kept) or pd.isna(total) else f" ({count(kept)}/{count(total)})" for kept, total in pairs]
    return pd.Series(texts, table.index)


def _by_row(table: pd.DataFrame, marks: Counter[str]) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Numbers and cells row by row, intervals folded into their estimates, and the columns of plain text."""
    columns = list(table.columns)
    estimate = columns[columns.index("low") - 1] if {"low", "high"} <= set(columns) and columns[0] != "low" else None
    folded = [*(("low", "high") if estimate else ()), *(_COUNTED if {"missing", *_COUNTED} <= set(columns) else ())]
    shown = [column for column in columns if column not in folded]
    words = [column for column in shown if not pd.api.types.is_numeric_dtype(table[column])]
    texts = []
    for row in table.to_dict("records"):
        judged = row | {"mean": row[estimate]} if estimate else row
        reasons, cells = _reasons_of(judged), {}
        for column in shown:
            if column == estimate:
                cells[column] = _marked(_interval(judged, 1), reasons, marks)
            elif isinstance(row[column], str) or not pd.isna(row[column]):
                cells[column] = _number(row[column], str(column).startswith("p_"))
            else:
                unfit = column == "p_mcnemar" and row.get("n", 0) > 0
                cells[column] = _marked(_NONE, ["unfit"] if unfit else reasons or ["empty"], marks)
        texts.append(cells)
    numbers = table[[estimate]].reset_index(drop=True) if estimate else pd.DataFrame()
    return numbers, pd.DataFrame(texts, columns=shown), words


def _interval(row: dict[str, object], factor: int) -> str:
    """A mean with its interval."""
    digits = 1 if factor == 100 else 3
    mean, low, high = (f"{row[key] * factor:.{digits}f}" for key in ("mean", "low", "high"))
    return _NONE if pd.isna(row["mean"]) else _minus(mean if pd.isna(row["low"]) else f"{mean} [{low}, {high}]")


def _marked(text: str, reasons: list[str], marks: Counter[str]) -> str:
    """A cell with the signs of the reasons why it lacks rows, which are counted."""
    marks.update(reasons)
    return text + (f"\\textsuperscript{{{','.join(_SIGNS[reason] for reason in reasons)}}}" if reasons else "")


def _rows_without(counts: Mapping[str, object]) -> dict[str, int]:
    """How many rows have no result, by reason; nothing where the package did not count them."""
    if not {"missing", *_COUNTED} <= set(counts.keys()):
        return {}
    known = {reason: int(counts[reason]) for reason in _COUNTED}
    return known | {"empty": int(counts["missing"]) - sum(known.values())}


def _reasons_of(row: dict[str, object]) -> list[str]:
    """Why a cell's mean lacks rows that others have, or why there is none."""
    rows = _rows_without(row)
    reasons = [reason for reason, lost in rows.items() if lost > 0 and reason != "everywhere"]
    if NOT_RUN in str(row.get("absent", "")):
        reasons.append("absent")
    if reasons or not pd.isna(row.get("mean", 0)):
        return reasons
    return ["everywhere" if rows.get("everywhere") else "empty"]


def _number(value: object, probability: bool) -> str:
    if probability and value < 0.001:
        return "$<$0.001"
    return _minus(f"{value:.3g}") if isinstance(value, float) else str(value)


def _minus(text: str) -> str:
    """The text with minus signs for the hyphens that begin a number."""
    return re.sub(r"(?<!e)-(?=\d)", "$-$", text)


def _notes(table: pd.DataFrame, marks: Counter[str], columns: int) -> str:
    """A line under the table for each reason why rows have no result or a cell has a mark."""
    rows = _rows_without(table.select_dtypes("number").sum())
    lines = []
    for reason, sign in _SIGNS.items():
        if marks[reason] or rows.get(reason, 0) > 0:
            mark = f"\\textsuperscript{{{sign}}} " if marks[reason] else ""
            lost = f"{rows[reason]} rows, which no mean includes" if rows.get(reason) else f"{marks[reason]} cells"
            note = f"{mark}{_WORDS[reason]}: {lost}"
            lines.append(f"\\multicolumn{{{columns}}}{{l}}{{\\footnotesize {note}}} \\\\\n")
    return "".join(lines)
