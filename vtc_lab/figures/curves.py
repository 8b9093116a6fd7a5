"""Figures of a sweep: what is lost against tokens kept, and against time.

One colour and marker for a method, baselines in grey, intervals over clips. What gave no result is a mark in the
method's colour where its point would be, or words in the legend; never a point that is simply not there.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory, offset_copy

from vtc_lab.figures.export import attach
from vtc_lab.figures.filmstrip import Picture
from vtc_lab.figures.marks import (
    ASPECT,
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
    parts,
    thin,
    told,
    unit,
    with_absent,
)
from vtc_lab.figures.style import figure_size, paper_style
from vtc_lab.sweeps.tidy import EVERYTHING, intervals, uncompressed, uneven, with_budgets
from vtc_lab.tokens import VTCError

_TICKS = [step * 10.0**power for power in range(-2, 4) for step in (1, 1.5, 2, 3, 5, 7)]


def plot_curves(
    table: pd.DataFrame,
    value: str = "right",
    *,
    venue: str = "cvpr",
    span: str = "column",
    level: float = 0.95,
    seed: int = 0,
) -> Picture:
    """A value against the tokens kept, a line for each label, with intervals over clips.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with at least one baseline ("uniform", "random" ...).
    value : numeric column; true counts as 1.
    venue, span : as in `figure_size`.
    level, seed : of the intervals, see `bootstrap_interval`; with one clip there are none.

    Returns
    -------
    Figure, ready for `save_figure`, with the numbers behind it attached. Labels stand a few points beside each other
    so that intervals can be told apart. What gave no result has a mark below its place and breaks the line; a mean over
    fewer samples than other settings answered is a pale, hollow point apart from the line.

    Raises
    ------
    VTCError
        If no baseline is in the table, none of its rows has a result, or a column is missing or not numeric.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["lftr", "uniform"] * 4, "ratio": [1, 1, 4, 4] * 2, "clip": [*"aaaabbbb"],
    ...                       "kept": [64, 64, 16, 16] * 2, "total": 64, "coverage": [1, 1, 0.9, 0.7, 1, 1, 0.8, 0.6]})
    >>> figure = plot_curves(table, "coverage")
    >>> figure.vtc["data"][["label", "kept", "mean"]].round(2).values.tolist()[2:]
    [['lftr', 16.0, 0.85], ['uniform', 16.0, 0.65]]
    """
    table = checked(table, value, ("clip", "ratio", "kept", "total"))
    cells = intervals(table, ["label", "method", "ratio"], level=level, seed=seed)
    cells = with_absent(with_budgets(cells, table, ["label", "method", "ratio"]), "ratio")
    name, factor = unit(value)
    place = cells.groupby("ratio").kept.median()  # where a cell without a result would be
    place = place.fillna(pd.Series(table.total.mean() / place.index, place.index))
    cells["x"] = cells.kept.mask(uneven(cells)).fillna(cells.ratio.map(place))
    styles, entries = looks(table), {}
    with paper_style():
        figure = Picture(figsize=figure_size(venue, span, ASPECT[span == "text"]))
        axes = figure.subplots()
        for (label, style), aside in zip(styles.items(), _apart(len(styles)), strict=True):
            rows = cells[cells.label == label].sort_values("x")
            drawn = []
            for part, look in parts(rows, style):
                drawn += axes.plot(part.x, part["mean"] * factor, **look)
                drawn.append(axes.vlines(part.x, part.low * factor, part.high * factor, **thin(look)))
            for artist in drawn:  # only now, because what is drawn with it does not count for the axes' limits
                artist.set_transform(offset_copy(axes.transData, figure, aside, 0, "points"))
            entries[label if rows.n.any() else f"{label}, no result"] = Line2D([], [], **style)
        full = table[(table.ratio == 1) & table.value.notna()].value
        if len(full):
            line = axes.axhline(full.mean() * factor, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
            entries[f"{EVERYTHING}: {full.mean() * factor:.3g}"] = line
        axes.set_xscale("log")
        axes.margins(x=0.1 if len(gap_reasons(cells)) else 0.06)
        _label_ratios(axes, place, figure.get_figwidth() - 0.6)
        axes.set(xlabel=f"tokens kept of {on_average(table)}, and ratio", ylabel=name)
        entries |= _mark_gaps(axes, cells, styles)
        legend_below(figure, entries)
    return attach(
        figure,
        cells.drop(columns="x"),
        **told("plot_curves", table, value=value, level=level, seed=seed),
    )


def plot_pareto(
    table: pd.DataFrame, *, venue: str = "cvpr", span: str = "column", level: float = 0.95, seed: int = 0
) -> Picture:
    """Accuracy against measured throughput, with the frontier of what nothing beats in both.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with ratio 1, at least one baseline and the seconds of each stage.
    venue, span : as in `figure_size`.
    level, seed : of the intervals in both directions, see `bootstrap_interval`.

    Returns
    -------
    Figure, ready for `save_figure`; the numbers behind it have speed, speed_low, speed_high: questions per second
    relative to the uncompressed run. It is the total of seconds for prefill and decoding at ratio 1 over the total for
    reducing (a clip once for all its questions), prefill and decoding under the setting, of the same samples; reading
    and encoding, which all share, are left out.

    Raises
    ------
    VTCError
        As `plot_curves`, and for a table without ratio 1.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "uniform", "ratio": [1, 4] * 2, "clip": [*"aabb"], "sample": [1, 1, 2, 2],
    ...     "kept": [64, 16] * 2, "total": 64, "right": [1, 1, 1, 0], "reduce_s": 0.0, "prefill_s": [0.9, 0.4] * 2,
    ...     "decode_s": 0.1})
    >>> plot_pareto(table).vtc["data"][["ratio", "mean", "speed"]].values.tolist()
    [[4.0, 0.5, 2.0]]
    """
    needs = ("clip", "sample", "ratio", "kept", "total", "reduce_s", "prefill_s", "decode_s")
    table = checked(table, "right", needs)
    full = uncompressed(table)
    answering = table.prefill_s + table.decode_s
    sharing = table.groupby(["label", "ratio", "seed", "clip"], dropna=False).value.transform("count")
    took = answering + table.reduce_s / sharing.where(sharing > 0)
    base = answering[full.index].groupby(full["sample"]).mean()
    table["baseline_s"] = table["sample"].map(base).where(took.notna() & table.value.notna())
    table["took_s"] = took.where(table.baseline_s.notna())
    keys = ["label", "method", "ratio"]
    small = table[table.ratio != 1]
    if small.empty:
        raise VTCError(
            "the table has no ratio above 1, so no throughput to compare; add one to the ratios of the sweep"
        )
    cells = with_budgets(intervals(small, keys, level=level, seed=seed), small, keys)
    speed = intervals(small.assign(value=small.baseline_s), keys, per="took_s", level=level, seed=seed)
    cells[["speed", "speed_low", "speed_high"]] = speed[["mean", "low", "high"]]
    cells = with_absent(cells, "ratio")
    entries = {}
    with paper_style():
        figure = Picture(figsize=figure_size(venue, span, ASPECT[span == "text"]))
        axes = figure.subplots()
        for label, style in looks(table).items():
            rows = cells[cells.label == label].sort_values("ratio")
            for part, look in parts(rows, style):
                axes.plot(part.speed, part["mean"] * 100, **look | {"linewidth": 0.6})
                axes.vlines(part.speed, part.low * 100, part.high * 100, **thin(look))
                axes.hlines(part["mean"] * 100, part.speed_low, part.speed_high, **thin(look))
            none = ", ".join(f"{ratio:g}×" for ratio in rows[rows.n == 0].ratio)
            entries[label + (f", none at {none}" if none else "")] = Line2D([], [], **style)
        (entries[EVERYTHING],) = axes.plot(1, full.value.mean() * 100, "*", color="black", markersize=7, zorder=4)
        entries["frontier"] = _frontier(axes, cells[~uneven(cells)], full.value.mean())
        axes.set(xlabel="questions per second, relative to everything", ylabel="accuracy (%)", xscale="log")
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.minorticks_off()
        legend_below(figure, entries | gap_entries(cells))
    return attach(figure, cells, **told("plot_pareto", table, level=level, seed=seed))


def _label_ratios(axes: Axes, place: pd.Series, inches: float) -> None:
    """Ticks of a logarithmic axis at the ratios' budgets, each with both; those without room stay unlabelled."""
    place = place[place > 0].sort_values(ascending=False)
    room = np.log(place.max() / place.min()) / inches * 0.3 if len(place) > 1 else 0
    texts, last = [], np.inf
    for ratio, kept in place.items():
        fits = last - np.log(kept) >= room
        texts.append(f"{count(kept)}\n{ratio:.3g}×" if fits else "")
        last = np.log(kept) if fits else last
    axes.set_xticks(place.to_list(), texts)
    axes.xaxis.minorticks_off()


def _mark_gaps(axes: Axes, cells: pd.DataFrame, styles: dict[str, dict[str, object]]) -> dict[str, object]:
    """Mark cells that have rows without a result on a strip below the data; returns the legend's entries."""
    reasons = gap_reasons(cells)
    bottom = blended_transform_factory(axes.transData, axes.transAxes)
    highest = -1
    for x, group in reasons.groupby("x"):
        marks = [(row.label, reason) for row in group.itertuples() for reason in GAPS if getattr(row, reason)]
        for at, (label, reason) in enumerate(marks):
            row, column = divmod(at, 4)
            aside = 8 * (column - (min(4, len(marks) - 4 * row) - 1) / 2)
            place = offset_copy(bottom, axes.figure, aside, 5 + 8 * row, "points")
            gap_mark(axes, x, 0, reason, styles[label], place)
            highest = max(highest, row)
    if highest >= 0:
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        share = (9 + 8 * highest) / (72 * axes.figure.get_figheight() - 50)  # of the height that the axes will have
        axes.set_ylim(low - (high - low) * share / (1 - share), high)
        axes.set_yticks(ticks)
    return gap_entries(cells)


def _apart(count: int) -> np.ndarray:
    """Points by which labels move sideways, so that one's interval does not hide another's."""
    return (np.arange(count) - (count - 1) / 2) * min(2, 12 / count)


def _frontier(axes: Axes, cells: pd.DataFrame, full: float) -> Line2D:
    """Draw the settings that no other one beats in speed and accuracy at once, with their ratios."""
    points = [(1.0, full, "")]
    points += [(row.speed, row.mean, f"{row.ratio:g}×") for row in cells.dropna(subset=["speed", "mean"]).itertuples()]
    best, corners = -np.inf, []
    for speed, mean, text in sorted(points, reverse=True):
        if mean > best:
            best = mean
            corners.append((speed, 100 * mean, text))
    corners.reverse()
    for at, (speed, mean, text) in enumerate(corners):
        if text != corners[at - 1][2]:  # two methods at one ratio are one word
            axes.annotate(text, (speed, mean), (3, 2), textcoords="offset points", fontsize=SMALL, zorder=5)
    x, y, _ = zip(*corners, strict=True)
    left = min(point[0] for point in points)
    (line,) = axes.step((left, *x), (y[0], *y), where="pre", color="#cccccc", linewidth=3, zorder=1)
    return line
