"""Shared parts of a sweep's figures: units, the look of a label, what is said of gaps, the legend."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from vtc_lab.figures.export import Picture
from vtc_lab.figures.style import BASELINES, CEILING, GREY, SMALL, method_style, role
from vtc_lab.sweeps.tidy import at_ratio, tidy, uneven
from vtc_lab.tokens import VTCError

LEGEND = 7  # points, of legends and of names beside the data
LINE = 0.135  # inches, of a legend
_MOST = 8  # labels in one legend
_PANEL = 2.6  # inches, the least width of a panel
LOWER_IS_BETTER = ("flipped", "kl", "tv")
_UNITS = {  # the name of a value on an axis, and the factor from the table to it
    "right": ("accuracy (%)", 100),
    "flipped": ("answers flipped (%)", 100),
    "kl": ("KL divergence (nats)", 1),
    "tv": ("total variation", 1),
    "likelihood": ("probability of the right answer", 1),
}
_LEGEND: dict[str, Any] = {
    "fontsize": LEGEND,
    "handlelength": 3,
    "columnspacing": 1,
    "labelspacing": 0.25,
    "borderpad": 0.1,
}
_GREY = {"color": "#999999", "marker": "o"}


def checked(table: pd.DataFrame, value: str, needs: Iterable[str]) -> pd.DataFrame:
    """Return the tidy table, which must hold a baseline."""
    table = tidy(table, value, needs)
    if not table.method.isin(BASELINES).any():
        raise VTCError(f"the table holds no baseline; add one of {', '.join(map(repr, BASELINES))} to the methods")
    return table


def compressed(table: pd.DataFrame, ratio: float) -> pd.DataFrame:
    """Return the tidy rows at a ratio above 1."""
    at = at_ratio(table, ratio)
    if at.empty or ratio == 1:
        there = ", ".join(f"{other:g}" for other in sorted(table.ratio.dropna().unique()) if other != 1)
        raise VTCError(
            f"the table has no compressed rows at ratio {ratio!r:.60}; its ratios above 1 are: {there or 'none'}"
        )
    return at


def unit(value: object) -> tuple[str, int]:
    """Return the name of a value on an axis, and its factor there."""
    return _UNITS.get(str(value), (str(value).replace("_", " "), 1))


def looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the look of each label of a tidy table, baselines and ceilings last; a method can have variants."""
    methods = dict(zip(table.label, table.method, strict=True))
    styles = {}
    for label in sorted(methods, key=lambda label: ("", "baseline", "ceiling").index(role(methods[label]))):
        method = methods[label]
        variants = sorted((other != method, other) for other in methods if methods[other] == method)
        style = method_style(method, variants.index((label != method, label)))
        styles[label] = style | {"zorder": 2 if role(method) else 3}
    return styles


def cannot_run(table: pd.DataFrame, by: list[str]) -> pd.MultiIndex | pd.Index:
    """Return the groups of a tidy table in which the method can keep no row's budget; a figure leaves them out."""
    unable = (table["status"] if "status" in table else pd.Series("", table.index)) == "minimum"
    unable = unable.groupby([table[column] for column in by]).all()
    return unable.index[unable]


def say_why_empty(axes: Axes, labels: list[str], drawn: pd.DataFrame, unable: Iterable[str]) -> None:
    """Write into each row of bars that has none why that is so."""
    for y, label in enumerate(labels):
        if not drawn.n[drawn.label == label].any():
            words = "cannot run" if label in unable else "no result"
            look: dict[str, Any] = {"va": "center", "fontsize": SMALL, "color": GREY}
            axes.text(0.03, y, words, transform=axes.get_yaxis_transform(), **look)


def thin(style: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of an interval's line in a label's look."""
    return {"colors": style["color"], "zorder": style["zorder"], "linewidth": 0.8, "alpha": style.get("alpha", 0.7)}


def pale(style: dict[str, Any]) -> dict[str, Any]:
    """Return a label's look for a mean over other samples than the rest: a hollow marker apart from the line."""
    return style | {"markerfacecolor": "white", "linestyle": "", "alpha": 0.45}


def count(tokens: float) -> str:
    """Write a mean number of tokens in a few digits."""
    return f"{tokens:,.0f}" if tokens >= 10 else f"{tokens:.2g}"


def tokens_of(table: pd.DataFrame) -> str:
    """Write how many tokens the rows with a result had before reduction: their one number, or the mean."""
    tokens = table.total[table.value.notna()]
    return count(tokens.mean()) + (" on average" if tokens.nunique() > 1 else "")


def budget(at: pd.DataFrame) -> str:
    """Write the one ratio of some rows, and the tokens kept."""
    kept = at.kept[at.value.notna()]
    tokens = f", tokens kept: {count(kept.mean())} of {tokens_of(at)}" if len(kept) else ""
    return f"at {at.ratio.iloc[0]:g}×{tokens}"


def ceiling_line(axes: Axes, x: float, rows: tuple[float, float]) -> None:
    """Draw the value of a ceiling across the rows of what is held against it."""
    axes.plot([x, x], rows, **CEILING, zorder=2)


def missing_entries(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the legend's entries for what the cells lack."""
    lost, entries = int(cells.missing.sum()), {}
    if lost:
        entries[f"missing: {lost:,} of {lost + cells.n.sum():,} results"] = Line2D([], [], linestyle="")
    if "low" in cells and (cells.low.isna() & (cells.n > 0)).any():
        entries["too few clips for an interval"] = Line2D([], [], linestyle="")
    return entries


def fewer_entry(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the legend's entry for pale points, if there are any."""
    return {"over fewer samples": Line2D([], [], **pale(_GREY))} if (uneven(cells) & (cells.n > 0)).any() else {}


def panels(cells: pd.DataFrame, inches: float) -> tuple[list[list[str]], int]:
    """Return the labels that are named above each panel, [[]] where one legend is enough, and the panels in a row."""
    methods = dict(zip(cells.label, cells.method, strict=True))
    labels = [label for label, method in methods.items() if not role(method)] if len(methods) > _MOST else []
    count = -(-len(labels) // _MOST)
    columns = max(1, min(count, int(inches / _PANEL)))
    return [list(part) for part in np.array_split(labels, max(1, -(-count // columns) * columns))], columns


def legend_below(figure: Picture, entries: dict[str, Any], title: str = "") -> None:
    """Draw a legend under the axes, for which the figure grows; its title can label the axis of several panels."""
    columns, lines = _layout(entries, figure.get_figwidth())
    titles = 1.3 * bool(title) * (1 + title.count("\n"))
    figure.set_figheight(round(figure.get_figheight() + 0.05 + LINE * (lines + titles), 3))
    look = _LEGEND | {"loc": "outside lower center", "ncols": columns, "title": title or None, "title_fontsize": 9}
    legend = figure.legend(list(entries.values()), list(entries), **look)
    legend.get_title().set_multialignment("center")


def legend_above(axes: Axes, entries: dict[str, Any], inches: float) -> int:
    """Draw a legend over axes of a width, and return how many lines it has."""
    columns, lines = _layout(entries, inches)
    look = _LEGEND | {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": columns}
    axes.legend(list(entries.values()), list(entries), **look)
    return lines


def _layout(entries: Iterable[str], inches: float) -> tuple[int, int]:
    """Return how many columns of a legend fit into a width, and how many lines it then has."""
    wide = [len(text) * 0.044 + 0.46 for text in entries]
    columns = len(wide)
    while columns > 1 and sum(map(max, np.array_split(wide, columns))) > inches:
        columns -= 1
    return columns, -(-len(wide) // columns)
