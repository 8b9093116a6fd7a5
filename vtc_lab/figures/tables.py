"""A table for a paper: LaTeX with booktabs, and the numbers behind it as CSV."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vtc_lab.figures.export import csv_bytes, file_base, record, write_files
from vtc_lab.figures.marks import count, unit
from vtc_lab.sweeps.tidy import ceilings, demand, demand_single, numbers, uneven
from vtc_lab.tokens import demand_one_of

_SUFFIXES = (".tex", ".csv")
_NONE = "--"
_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "*": "{*}"}  # \\ takes the last two
)


def save_table(
    table: pd.DataFrame,
    name: str,
    folder: str | Path | None = None,
    *,
    best: str | None = "max",
    provenance: dict[str, object] | None = None,
) -> dict[str, Path]:
    """Write a table of results as LaTeX (package booktabs) and as CSV.

    Files are replaced as by `save_figure`; the LaTeX begins with a comment that says how it was made. The CSV holds the
    table as it is, unrounded. A cell without a result is "--", and one that lacks results which others have says how
    many of how many. The tokens kept stand in the head of a ratio, or in the cells where they differ.

    Parameters
    ----------
    table : of `bootstrap_interval`, by label and ratio (labels go down, ratios across), or of `compare` or your own
        (row by row). Columns low and high go into the cell of the column before them.
    name : of the files, without a folder; ".tex" or ".csv" is taken off.
    folder : made if missing; by default `figures` in the repository, or in the current folder outside of one.
    best : "max" or "min": what is set in bold at each ratio, of the column before low; None for no bold. A mean over
        fewer samples than the rest does not compete, nor does a ceiling such as `oracle`.
    provenance : added to the comment (seed, model revision ...).

    Returns
    -------
    The path of each file by its suffix: ".tex" and ".csv".

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
    demand(table)
    if best is not None:
        demand_one_of("best", best, ("max", "min"))
    base = file_base(name, folder, _SUFFIXES, "table")
    facts = record({} if provenance is None else provenance, _SUFFIXES)
    latex = f"% {json.dumps(facts)}\n{_latex(table, best)}"
    return write_files(base, {".tex": latex.encode(errors="replace"), ".csv": csv_bytes(table)}, "table")


def _latex(table: pd.DataFrame, best: str | None) -> str:
    """Return the tabular of a table, with its notes."""
    if {"low", "high"} <= set(table) and table.columns[0] != "low":
        estimate = table.columns[table.columns.get_loc("low") - 1]
        table = table.assign(**{name: numbers(table[name]) for name in (estimate, "low", "high")})
    across = {"label", "ratio", "mean", "low", "high"} <= set(table)
    if across:
        table = table.assign(ratio=numbers(table["ratio"]))
    head, *rows = (_by_ratio if across else _by_row)(table.reset_index(drop=True), best)
    lines = [" & ".join(cells) + r" \\" for cells in rows]
    notes = [f"{_NONE} no result"] if any(_NONE in line for line in lines) else []
    if any(r"\textsuperscript{" in line for line in lines):
        notes.append(r"\textsuperscript{n/N} missing, n of N results that other settings have")
    if _counts(table) and (lost := table["missing"].sum()):
        notes.append(f"missing: {lost:g} of {lost + table['n'].sum():g} results")
    top = [rf"\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    foot = [rf"\multicolumn{{{len(head)}}}{{l}}{{\footnotesize {note}}} \\" for note in notes]
    return "\n".join([*top, *lines, r"\bottomrule", *foot, "\\end{tabular}\n"])


def _by_ratio(table: pd.DataFrame, best: str | None) -> list[list[str]]:
    """Return head and rows with labels down and ratios across."""
    demand_single(table)
    factor = unit(str(table["value"].iloc[0]))[1] if "value" in table else 1
    known, budgets = table["mean"].notna(), pd.Series("", table.index)
    if {"kept", "total"} <= set(table):
        budgets = (" (" + table["kept"].map(count) + "/" + table["total"].map(count) + ")").where(known, "")
    full = budgets[~uneven(table) & known].groupby(table["ratio"])
    shared = {ratio: kept.iloc[0] if kept.nunique() == 1 else "" for ratio, kept in full}
    own = budgets.where(budgets != table["ratio"].map(shared), "")
    cells = {
        (row["label"], row["ratio"]): bold + _estimate(row, "mean", factor) + kept
        for row, bold, kept in zip(table.to_dict("records"), _bold(table, "mean", best), own, strict=True)
    }
    ratios = sorted(table["ratio"].dropna().unique())
    head = ["", *(rf"${ratio:.4g}\times${shared.get(ratio, '')}" for ratio in ratios)]
    labels = table["label"].unique()
    return [head, *([_text(label), *(cells.get((label, ratio), _NONE) for ratio in ratios)] for label in labels)]


def _by_row(table: pd.DataFrame, best: str | None) -> list[list[str]]:
    """Return head and rows as they are, with intervals and counts of what is missing in their estimates."""
    columns = list(table)
    estimate = columns[columns.index("low") - 1] if {"low", "high"} <= set(columns) and columns[0] != "low" else None
    folded = {*(("low", "high") if estimate else ()), *(("missing", "of") if _counts(table) else ())}
    shown = [column for column in columns if column not in folded]
    rows = [[_text(column) for column in shown]]
    for row, bold in zip(table.to_dict("records"), _bold(table, estimate, best), strict=True):
        cells = {column: _text(row[column], str(column).startswith("p_")) for column in shown}
        if estimate:
            cells[estimate] = bold + _estimate(row, estimate, 1)
        rows.append(list(cells.values()))
    return rows


def _bold(table: pd.DataFrame, estimate: str | None, best: str | None) -> pd.Series:
    """Return the command for bold in the rows that are best at their ratio, if not all of them are."""
    bold = pd.Series("", table.index)
    if best and estimate:
        known = table[estimate].where(~uneven(table) & ~ceilings(table))
        rivals = known.groupby(table.get("ratio", bold))
        bold[(known == rivals.transform(best)) & (rivals.transform("nunique") > 1)] = r"\bfseries "
    return bold


def _counts(table: pd.DataFrame) -> bool:
    """Return whether a table counts missing results as the package's own do."""
    return {"n", "missing", "of"} <= set(table)


def _estimate(row: dict[str, Any], column: str, factor: int) -> str:
    """Write an estimate with its interval, and how many results it lacks that others have."""
    digits = 1 if factor == 100 else 3
    mean, low, high = (f"{row[name] * factor:.{digits}f}" for name in (column, "low", "high"))
    text = _NONE if mean == "nan" else _minus(mean if low == "nan" else f"{mean} [{low}, {high}]")
    lost = row["of"] - row["n"] if {"n", "missing", "of"} <= set(row) else 0
    return text + (rf"\textsuperscript{{{lost:g}/{row['of']:g}}}" if lost else "")


def _text(value: object, probability: bool = False) -> str:
    if isinstance(value, float):
        if np.isnan(value):
            return _NONE
        return "$<$0.001" if probability and value < 0.001 else _minus(f"{value:.3g}")
    return _NONE if value is None or value is pd.NA else re.sub("-(?=-)", "-{}", str(value).translate(_ESCAPES))


def _minus(text: str) -> str:
    """Write minus signs for the hyphens that begin a number."""
    return re.sub(r"(?<!e)-(?=\d)", "$-$", text)
