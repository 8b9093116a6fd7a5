"""What the figures of a sweep share: the look of a label, the marks of what gave no result, the legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform

from vtc_lab.figures.filmstrip import Picture
from vtc_lab.figures.style import BASELINES, method_style
from vtc_lab.sweeps.tidy import NOT_RUN, of_curves, tidy, uneven
from vtc_lab.tokens import VTCError

SMALL = 7  # points, of what is written beside the data
ASPECT = (0.62, 0.42)  # of a figure in one column, and across the text
_UNITS = {  # the name of a value on an axis, and the factor from the table to it
    "right": ("accuracy (%)", 100),
    "flipped": ("answers flipped (%)", 100),
    "kl": ("KL divergence (nats)", 1),
    "tv": ("total variation", 1),
    "likelihood": ("probability of the right answer", 1),
}
EVERYWHERE = "no result under any setting"
GAPS = {  # why rows have no result that others have: what is drawn over the method's marker, and the legend's words
    "minimum": ("_", "below its minimum budget"),
    "error": ("x", "failed"),
    "empty": ("$?$", "no value"),
    "absent": ("|", NOT_RUN),
}


def checked(table: pd.DataFrame, value: str, needs: Sequence[str], baselines: bool = True) -> pd.DataFrame:
    """`tidy`, with at least one result, and a baseline if `baselines`."""
    table = tidy(table, value, needs)
    if baselines and not table.method.isin(BASELINES).any():
        raise VTCError(
            "the table holds no baseline, without which a comparison misleads; "
            f"add one of {', '.join(map(repr, BASELINES))} to the methods of the sweep"
        )
    if table.value.isna().all():
        texts = [text for text in table.get("error", []) if isinstance(text, str) and text]
        first = f"; the first error is: {texts[0]}" if texts else ""
        raise VTCError(f"none of the {len(table)} rows has a result in column {value!r}{first}")
    return table


def unit(value: str) -> tuple[str, int]:
    """What a value is called on an axis, and its factor there."""
    return _UNITS.get(value, (value.replace("_", " "), 1))


def looks(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    """The look of each label of a tidy table, baselines last; a method's other labels are its variants, by name."""
    methods = table.drop_duplicates("label").set_index("label").method
    seen: dict[str, list[str]] = {}
    for label in sorted(methods.index, key=lambda label: (label != methods[label], label)):
        seen.setdefault(methods[label], []).append(label)
    styles = {}
    for label in sorted(methods.index, key=lambda label: methods[label] in BASELINES):
        method = methods[label]
        styles[label] = method_style(method, seen[method].index(label)) | {"zorder": 2 if method in BASELINES else 3}
    return styles


def thin(style: dict[str, object]) -> dict[str, object]:
    """Keywords of the lines of an interval in a label's look."""
    return {"colors": style["color"], "zorder": style["zorder"], "linewidth": 0.8, "alpha": style.get("alpha", 0.7)}


def pale(style: dict[str, object]) -> dict[str, object]:
    """A label's look for a mean over other samples than the rest: a hollow marker apart from the line."""
    return style | {"markerfacecolor": "white", "linestyle": "", "alpha": 0.45}


def span_of(numbers: pd.Series) -> str:
    """A column in words: its one number, or from the least to the largest."""
    low, high = count(numbers.min()), count(numbers.max())
    return low if low == high else f"{low} to {high}"


def parts(rows: pd.DataFrame, style: dict[str, object]) -> list[tuple[pd.DataFrame, dict[str, object]]]:
    """A label's cells with their look, and apart from them and pale those whose means do not compare."""
    odd = uneven(rows) & (rows.n > 0)
    even = rows.assign(**{name: rows[name].mask(odd) for name in ("mean", "low", "high")})
    return [(even, style), (rows[odd], pale(style))] if odd.any() else [(even, style)]


def on_average(table: pd.DataFrame) -> str:
    """The tokens before reduction of the rows with a result in words: their one number, or the mean."""
    tokens = table.total[table.value.notna()]
    return count(tokens.mean()) + (" on average" if tokens.nunique() > 1 else "")


def count(tokens: float) -> str:
    """A mean number of tokens in a few digits."""
    return f"{tokens:,.0f}" if tokens >= 10 else f"{tokens:.2g}"


def with_absent(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """Cells with one more, marked absent, for each value of the column that a label with two or more of them lacks."""
    cells = cells.assign(absent=0)
    runs, values = cells.groupby("label", sort=False)[column].nunique(), of_curves(cells, column)
    labels = runs[runs > 1].index
    there = set(zip(cells.label, cells[column], strict=True))
    lacking = [(label, value) for label in labels for value in values if (label, value) not in there]
    if not lacking:
        return cells
    more = pd.DataFrame(lacking, columns=["label", column])
    more = more.assign(absent=1, **dict.fromkeys(("n", "clips", "missing", "minimum", "error", "everywhere"), 0))
    if "method" in cells:
        more["method"] = more.label.map(cells.drop_duplicates("label").set_index("label").method)
    return pd.concat([cells, more], ignore_index=True)


def gap_reasons(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells that lack results which others have, or have no rows, and how many for each reason of `GAPS`."""
    reasons = cells.assign(empty=cells.missing - cells.minimum - cells.error - cells.everywhere)
    return reasons[reasons[list(GAPS)].any(axis=1)]


def gap_mark(axes: Axes, x: float, y: float, reason: str, style: dict[str, object], transform: Transform) -> None:
    """A label's marker, pale, under the mark of the reason why there is no result."""
    for line in _gap_lines(reason, style):
        line.set(xdata=[x], ydata=[y], transform=transform, gid=f"gap-{reason}")
        axes.add_artist(line)


def gap_entries(cells: pd.DataFrame) -> dict[str, object]:
    """The legend's entries for the reasons that occur, with their numbers of rows."""
    reasons = gap_reasons(cells)
    counts = reasons[list(GAPS)].sum()
    grey = {"color": "#999999", "marker": "o"}
    entries: dict[str, object] = {
        f"{words}: {counts[reason]:,} {'cells' if reason == 'absent' else 'rows'}": _gap_lines(reason, grey)
        for reason, (_, words) in GAPS.items()
        if counts[reason]
    }
    if (uneven(cells) & (cells.n > 0)).any():
        entries["mean over fewer samples"] = Line2D([], [], **pale(grey))
    if cells.everywhere.any():
        entries[f"{EVERYWHERE}: {cells.everywhere.sum():,} rows"] = Line2D([], [], linestyle="")
    return entries


def _gap_lines(reason: str, style: dict[str, object]) -> tuple[Line2D, Line2D]:
    under = Line2D([], [], **style | {"markersize": 5, "alpha": 0.6, "linestyle": ""})
    over = Line2D([], [], color="black", marker=GAPS[reason][0], markersize=5, markeredgewidth=0.8, linestyle="")
    over.set_zorder(under.get_zorder() + 1)
    return under, over


def legend_below(figure: Picture, entries: dict[str, object], title: str = "") -> None:
    """A legend under the axes, for which the figure grows; its title can label the axis of several panels."""
    width, height = figure.get_size_inches()
    inches = [len(text) * 0.045 + 0.55 for text in entries]
    columns = len(entries)
    while columns > 1 and sum(map(max, np.array_split(inches, columns))) > width:
        columns -= 1
    lines = -(-len(entries) // columns) + 1.3 * bool(title) * (1 + title.count("\n"))
    figure.set_figheight(round(height + 0.05 + 0.135 * lines, 3))
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        handlelength=3,
        columnspacing=1,
        labelspacing=0.25,
        borderpad=0.1,
        title=title or None,
        title_fontsize=9,
    )
    legend.get_title().set_multialignment("center")


def told(what: str, table: pd.DataFrame, **config: object) -> dict[str, object]:
    """What a figure's files say about it beside its numbers."""
    gaps = table[table.value.isna()]
    names = [name for name in ("label", "ratio", "status", "error") if name in gaps]
    counts = gaps.groupby(names, sort=False, dropna=False).size().reset_index(name="rows")
    lacking = counts.astype(object).where(counts.notna(), None).to_dict("records")
    return {"plot": what, **config, "clips": table["clip"].nunique(), "without_result": lacking}
