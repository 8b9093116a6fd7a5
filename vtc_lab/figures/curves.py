"""A sweep's curves: a value against the tokens kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory, offset_copy

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import figure_size, paper_style
from vtc_lab.sweeps.tidy import EVERYTHING, intervals, uneven, with_absent


def plot_curves(table: pd.DataFrame, value: str = "right", *, venue: str = "cvpr", width: str = "column") -> Picture:
    """Draw a value against the tokens kept, a line for each label, with 95 % intervals over clips.

    The numbers of `bootstrap_interval` are attached. Labels stand a few points beside each other, so that intervals can
    be told apart. Missing results have a mark at the bottom; a mean over fewer samples than other settings answered is
    a pale, hollow point apart from the line.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with at least one baseline ("uniform", "random" ...).
    value : numeric column; true counts as 1.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["lftr", "uniform"] * 4, "ratio": [1, 1, 4, 4] * 2, "clip": [*"aaaabbbb"],
    ...                       "kept": [64, 64, 16, 16] * 2, "total": 64, "coverage": [1, 1, 0.9, 0.7, 1, 1, 0.8, 0.6]})
    >>> figure = plot_curves(table, "coverage")
    >>> figure.vtc["data"][["label", "kept", "mean"]].round(2).values.tolist()[2:]
    [['lftr', 16.0, 0.85], ['uniform', 16.0, 0.65]]
    """
    table = marks.checked(table, value, ("clip", "ratio", "kept", "total"))
    cells = with_absent(intervals(table, ["label", "method", "ratio"]), "ratio")
    name, factor = marks.unit(value)
    place = cells.groupby("ratio").kept.median()  # where a cell without a result would be
    place = place.fillna(pd.Series(table.total.mean() / place.index, place.index))
    odd = uneven(cells)
    cells["x"] = cells.kept.mask(odd).fillna(cells.ratio.map(place))
    styles, entries = marks.looks(table), {}
    # Labels stand a little apart, so that one's interval does not hide another's.
    asides = (np.arange(len(styles)) - (len(styles) - 1) / 2) * min(2, 12 / len(styles))
    with paper_style():
        figure = Picture(figsize=figure_size(venue, width, 0.42 if width == "text" else 0.62))
        axes = figure.subplots()
        for (label, style), aside in zip(styles.items(), asides, strict=True):
            rows = cells[cells.label == label].sort_values("x")
            numbers = ["mean", "low", "high"]
            whole, fewer = rows.copy(), rows[odd[rows.index] & (rows.n > 0)]
            whole[numbers] = rows[numbers].where(~odd[rows.index])
            drawn: list[Any] = []
            for part, look in [(whole, style), (fewer, marks.pale(style))]:
                if len(part):
                    drawn += axes.plot(part.x, part["mean"] * factor, **look)
                    drawn.append(axes.vlines(part.x, part.low * factor, part.high * factor, **marks.thin(look)))
            for artist in drawn:  # only now, because what is drawn with it does not count for the axes' limits
                artist.set_transform(offset_copy(axes.transData, figure, aside, 0, "points"))
            entries[label + ("" if rows.n.any() else ", no result")] = Line2D([], [], **style)
        full = table[(table.ratio == 1) & table.value.notna()].value
        if len(full):
            line = axes.axhline(full.mean() * factor, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
            entries[f"{EVERYTHING}: {full.mean() * factor:.3g}"] = line
        axes.set_xscale("log")
        axes.margins(x=0.1 if odd.any() else 0.06)
        _label_ratios(axes, place, figure.get_figwidth() - 0.6)
        axes.set(xlabel=f"tokens kept of {marks.tokens_of(table)}, and ratio", ylabel=name)
        _mark_missing(axes, figure, cells[odd], styles)
        marks.legend_below(figure, entries | marks.missing_entries(cells))
    return attach(figure, cells.drop(columns="x"), **marks.told("plot_curves", table, value=value))


def _label_ratios(axes: Axes, place: pd.Series, inches: float) -> None:
    """Label the ratios on a logarithmic axis with tokens and ratio; ticks without room stay unlabelled."""
    place = place[place > 0].sort_values(ascending=False)
    room = np.log(place.max() / place.min()) / inches * 0.3 if len(place) > 1 else 0
    texts, last = [], np.inf
    for ratio, kept in place.items():
        fits = last - np.log(kept) >= room
        texts.append(f"{marks.count(kept)}\n{ratio:.3g}×" if fits else "")
        last = np.log(kept) if fits else last
    axes.set_xticks(place.to_list(), texts)
    axes.xaxis.minorticks_off()


def _mark_missing(axes: Axes, figure: Picture, cells: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    """Mark cells on a strip below the data, at most four side by side."""
    bottom = blended_transform_factory(axes.transData, axes.transAxes)
    highest = -1
    for x, group in cells.groupby("x"):
        for at, label in enumerate(group.label):
            row, column = divmod(at, 4)
            aside = 8 * (column - (min(4, len(group) - 4 * row) - 1) / 2)
            place = offset_copy(bottom, figure, aside, 5 + 8 * row, "points")
            marks.missing_mark(axes, x, 0, styles[label], place)
            highest = max(highest, row)
    if highest >= 0:
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        share = (9 + 8 * highest) / (72 * figure.get_figheight() - 50)  # of the height that the axes will have
        axes.set_ylim(low - (high - low) * share / (1 - share), high)
        axes.set_yticks(ticks)
