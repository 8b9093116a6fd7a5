"""Figures of a sweep that look at the answers: what each kind of question loses, and which answers flip."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import blended_transform_factory

from vtc_lab.figures.export import attach
from vtc_lab.figures.filmstrip import Picture
from vtc_lab.figures.marks import (
    GAPS,
    SMALL,
    checked,
    count,
    gap_entries,
    gap_mark,
    gap_reasons,
    legend_below,
    looks,
    on_average,
    pale,
    span_of,
    thin,
    told,
    unit,
    with_absent,
)
from vtc_lab.figures.style import figure_size, paper_style
from vtc_lab.sweeps.tidy import (
    EVERYTHING,
    counted,
    differences,
    intervals,
    uncompressed,
    uneven,
    with_budgets,
    with_everywhere,
)
from vtc_lab.tokens import VTCError

_FLIPS = {  # what becomes of an answer: the legend's words, and the look of its bar
    "lost": ("right to wrong", {"facecolor": "#D55E00"}),
    "other": ("wrong to another wrong", {"facecolor": "white", "edgecolor": "#777777", "hatch": "////////"}),
    "gained": ("wrong to right", {"facecolor": "#009E73"}),
}


def plot_kinds(
    table: pd.DataFrame,
    ratio: float,
    value: str = "right",
    *,
    venue: str = "cvpr",
    span: str = "column",
    level: float = 0.95,
    seed: int = 0,
) -> Picture:
    """What each kind of question loses at one ratio against the uncompressed run, with paired intervals over clips.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with kind, ratio 1 and at least one baseline.
    ratio : one of the table's, above 1.
    value : numeric column; true counts as 1.
    venue, span : as in `figure_size`; across the text the kinds stand in up to three columns.
    level, seed : of the intervals, see `bootstrap_interval`.

    Returns
    -------
    Figure, ready for `save_figure`, with the numbers behind it attached.

    Raises
    ------
    VTCError
        For a ratio that the table does not have, or a table without ratio 1; and as `plot_curves`.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "uniform", "ratio": [1, 4] * 2, "clip": [*"aabb"], "sample": [1, 1, 2, 2],
    ...                       "kind": "colour", "kept": [64, 16] * 2, "total": 64, "right": [1, 1, 1, 0]})
    >>> plot_kinds(table, 4).vtc["data"][["label", "kind", "difference", "n"]].values.tolist()
    [['uniform', 'colour', -0.5, 2]]
    """
    table = checked(table, value, ("clip", "sample", "kind", "ratio", "kept", "total"))
    at = table[table.ratio == ratio]
    if at.empty or ratio == 1:
        there = ", ".join(f"{other:g}" for other in sorted(table.ratio.dropna().unique()) if other != 1)
        raise VTCError(
            f"the table has no compressed rows at ratio {ratio!r}; its ratios above 1 are: {there or 'none'}"
        )
    pairs = differences(table)
    cells = with_absent(intervals(pairs[pairs.ratio == ratio], ["label", "kind"], level=level, seed=seed), "kind")
    styles, kinds = (
        {label: look for label, look in looks(table).items() if label in set(at.label)},
        sorted(set(at.kind)),
    )
    name, factor = unit(value)
    height = -(-len(kinds) // 3) if span == "text" else len(kinds)  # kinds above each other
    columns = -(-len(kinds) // height)
    slot = {label: (place + 0.75) / (len(styles) + 0.5) for place, label in enumerate(styles)}
    reasons = gap_reasons(cells)
    with paper_style():
        size = (figure_size(venue, span)[0], round(0.55 + height * max(0.3, 0.085 * (len(styles) + 1)), 3))
        figure = Picture(figsize=size)
        panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
        for cell in cells.itertuples():
            panel, y = divmod(kinds.index(cell.kind), height)
            axes, style, y = panels[panel], styles[cell.label], y + slot[cell.label]
            style = pale(style) if cell.missing > cell.everywhere else style
            axes.plot(cell.mean * factor, y, **style | {"markersize": 3.5})
            axes.hlines(y, cell.low * factor, cell.high * factor, **thin(style))
        for axes in panels:
            axes.axvline(0, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
        edge = panels[0].get_xlim()
        panels[0].set_xlim(edge[0] - 0.08 * (edge[1] - edge[0]) * (len(reasons) > 0), edge[1])
        for cell in reasons.itertuples():
            panel, y = divmod(kinds.index(cell.kind), height)
            left = blended_transform_factory(panels[panel].transAxes, panels[panel].transData)
            for reason in GAPS:
                if getattr(cell, reason):
                    gap_mark(panels[panel], 0.025, y + slot[cell.label], reason, styles[cell.label], left)
        counts = cells.groupby("kind").n.max()
        for panel, axes in enumerate(panels):
            mine = kinds[panel * height : (panel + 1) * height]
            axes.set(ylim=(height, 0))
            axes.set_yticks(np.arange(len(mine)) + 0.5, [f"{kind}\nn = {counts[kind]}" for kind in mine])
            axes.hlines(range(1, height), 0, 1, "#dddddd", linewidth=0.5, transform=axes.get_yaxis_transform())
            axes.tick_params(axis="y", length=0)
        answered = at.kept[at.value.notna()]
        kept = f", tokens kept: {count(answered.mean())} of {on_average(at)}" if len(answered) else ""
        where = f"{ratio:g}×{kept}"
        entries = {label: Line2D([], [], **style) for label, style in styles.items()} | gap_entries(cells)
        legend_below(figure, entries, f"change in {name.replace('%', 'points')} against {EVERYTHING}\nat {where}")
    data = cells.rename(columns={"mean": "difference"}).assign(ratio=ratio)
    return attach(figure, data, **told("plot_kinds", at, value=value, ratio=ratio, level=level, seed=seed))


def plot_flips(table: pd.DataFrame, *, venue: str = "cvpr", span: str = "column") -> Picture:
    """How many answers a reduction turns from right to wrong, from wrong to right, and from wrong to another wrong.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with right, flipped, ratio 1 and at least one baseline.
    venue, span : as in `figure_size`.

    Returns
    -------
    Figure, ready for `save_figure`: bars in percent of the answers; what is lost goes to the left, what is gained to
    the right. The numbers behind it are counts: lost, other, gained, n (answers), missing.

    Raises
    ------
    VTCError
        As `plot_kinds`.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "uniform", "ratio": [1, 4] * 2, "clip": [*"aabb"], "sample": [1, 1, 2, 2],
    ...                       "kept": [64, 16] * 2, "total": 64, "right": [1, 0, 0, 0], "flipped": [0, 1, 0, 1]})
    >>> plot_flips(table).vtc["data"][["label", "ratio", "n", "lost", "other", "gained"]].values.tolist()
    [['uniform', 4.0, 2, 1, 1, 0]]
    """
    table = checked(table, "right", ("clip", "sample", "ratio", "kept", "total", "flipped"))
    was = table["sample"].map(uncompressed(table).groupby("sample").value.first())
    changed = table.flipped.astype("Float64").to_numpy(float, na_value=np.nan) == 1
    table["lost"] = (was == 1) & (table.value == 0)
    table["gained"] = (was == 0) & (table.value == 1)
    table["other"] = (was == 0) & (table.value == 0) & changed
    table["value"] = table.value.where(was.notna())
    table["status"] = with_everywhere(table)
    small = table[table.ratio != 1]
    if small.empty:
        raise VTCError("the table has no ratio above 1, so no answer can flip; add one to the ratios of the sweep")
    keys = ["label", "ratio"]
    cells = small.groupby(keys, sort=False)[list(_FLIPS)].sum().reset_index()
    cells = cells.merge(counted(small, keys)[0].drop(columns="mean"), on=keys)
    cells = with_absent(with_budgets(cells, small, keys), "ratio")
    ratios, styles = sorted(cells.ratio.dropna().unique()), looks(table)
    names = [label for label in styles if label in set(small.label)]
    reasons = gap_reasons(cells)
    with paper_style():
        size = (figure_size(venue, span)[0], round(0.7 + 0.14 * len(names), 3))
        figure = Picture(figsize=size)
        panels = figure.subplots(1, len(ratios), sharex=True, sharey=True, squeeze=False)[0]
        for axes, ratio in zip(panels, ratios, strict=True):
            _draw_flips(axes, cells[cells.ratio == ratio], names)
            for cell in reasons[reasons.ratio == ratio].itertuples():
                right = blended_transform_factory(axes.transAxes, axes.transData)
                for reason in GAPS:
                    if getattr(cell, reason):
                        gap_mark(axes, 0.93, names.index(cell.label), reason, styles[cell.label], right)
            kept = cells[cells.ratio == ratio].kept.median()
            axes.set_title(f"{ratio:.3g}×\n{'' if np.isnan(kept) else count(kept)}", fontsize=8)
        panels[0].set_yticks(range(len(names)), names, fontsize=SMALL)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        low, high = panels[0].get_xlim()
        panels[0].set_xlim(1.05 * low, max(high, 0.2 * (high - low)))
        panels[0].xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
        entries = {words: Patch(linewidth=0, **look) for words, look in _FLIPS.values()} | gap_entries(cells)
        legend_below(figure, entries, f"answers that changed (% of {span_of(cells.n[cells.n > 0])})")
    return attach(figure, cells, **told("plot_flips", small))


def _draw_flips(axes: Axes, cells: pd.DataFrame, names: list[str]) -> None:
    """One ratio's bars."""
    axes.axvline(0, color="black", linewidth=0.6)
    y = [names.index(label) for label in cells.label]
    share = {flip: (100 * cells[flip] / cells.n.where(cells.n > 0)).to_numpy() for flip in _FLIPS}
    starts = {"lost": -share["lost"], "other": -share["lost"] - share["other"], "gained": 0}
    for flip, (_, look) in _FLIPS.items():
        bars = axes.barh(y, share[flip], left=starts[flip], height=0.75, linewidth=0, **look)
        for bar, odd in zip(bars, uneven(cells), strict=True):
            bar.set_alpha(0.45 if odd else None)
