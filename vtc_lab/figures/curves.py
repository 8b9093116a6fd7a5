"""A sweep's curves: a value against the tokens kept."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import figure_size, paper_style
from vtc_lab.sweeps.tidy import EVERYTHING, intervals, uneven

_SHARES = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # of the tokens per layer, in per cent
_TALL = 1.5  # inches of a panel


def plot_curves(
    table: pd.DataFrame,
    value: str = "right",
    *,
    x: Literal["kept", "per_layer"] = "kept",
    venue: str = "cvpr",
    width: str = "column",
) -> Picture:
    """Draw a value against the tokens kept, a line for each label, with 95 % intervals over clips.

    The numbers of `bootstrap_interval` are attached. More than 8 labels are split into panels of at most 8, with all
    baselines in each. Labels stand a few points beside each other, so that intervals can be told apart. Missing results
    are counted in the legend; a mean over fewer samples than other settings answered is a pale, hollow point apart from
    the line. A ratio at which a method cannot run is left out and named in the legend.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with at least one baseline ("uniform", "random" ...).
    value : numeric column; true counts as 1.
    x : "kept", the tokens that enter the language model, or "per_layer", those that its layers hold on average. FastV
        at 10 % behind layer 2 of 28 lets all enter and holds 16.4 % on average.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> table = pd.DataFrame({"method": ["lftr", "uniform"] * 4, "ratio": [1, 1, 4, 4] * 2, "clip": [*"aaaabbbb"],
    ...                       "kept": [64, 64, 16, 16] * 2, "total": 64, "coverage": [1, 1, 0.9, 0.7, 1, 1, 0.8, 0.6]})
    >>> figure = plot_curves(table, "coverage")
    >>> figure.vtc["data"][["label", "kept", "mean"]].round(2).values.tolist()[2:]
    [['lftr', 16.0, 0.85], ['uniform', 16.0, 0.65]]
    """
    table = marks.checked(table, value, ("clip", "ratio", "kept", "total", x))
    cells = intervals(table, ["label", "method", "ratio"])
    full = table.value[(table.ratio == 1) & table.value.notna()].mean()
    unable = marks.cannot_run(table, ["label", "ratio"])
    size = figure_size(venue, width, {"text": 0.42}.get(width, 0.62))
    figure = _draw(cells, unable, full, marks.tokens_of(table), value, x, size)
    return attach(figure, cells, plot="plot_curves", value=value, x=x)


def _draw(
    cells: pd.DataFrame, unable: pd.Index, full: float, tokens: str, value: str, x: str, size: tuple[float, float]
) -> Picture:
    """Draw the cells but for those of labels and ratios that are unable; `full` is the value with everything."""
    name, factor = marks.unit(value)
    styles, (panels, columns) = marks.looks(cells), marks.panels(cells, size[0])
    common = [label for label in styles if not any(label in panel for panel in panels)]
    cells = cells[~pd.MultiIndex.from_frame(cells[["label", "ratio"]]).isin(unable)]
    place = cells.groupby("ratio")[x].median()
    cells = cells.assign(x=cells[x].mask(uneven(cells)).fillna(cells.ratio.map(place)))  # a mean over fewer, in line
    texts = {label: label + _gone(label, cells, unable) for label in styles}
    entries = {texts[label]: Line2D([], [], **look) for label, look in styles.items()}
    wide, split, xlabel = size[0] / columns, bool(panels[0]), f"tokens kept of {tokens}, and ratio"
    place.index = [f"{ratio:.3g}×" for ratio in place.index]
    if x == "per_layer":  # the same ratio is another mean for each method
        xlabel = f"mean tokens per layer, of {tokens}"
        means = pd.Series({f"{share}%": cells.total.mean() * share / 100 for share in _SHARES})
        place = means[(means >= cells.x.min() / 1.05) & (means <= cells.x.max() * 1.05)]
    with paper_style():
        rows = len(panels) // columns
        figure = Picture(
            figsize=(size[0], 2 * rows) if split else size
        )  # for the choice of ticks; the legends come yet
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        named = 0
        for axes, panel in zip(grid.flat, panels, strict=True):
            mine = {label: look for label, look in styles.items() if label in [*panel, *common]}
            _draw_lines(axes, cells, mine, factor)
            line = axes.axhline(full * factor, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
            if split:
                own = {texts[label]: entries.pop(texts[label]) for label in panel}
                named = max(named, marks.legend_above(axes, own, wide - 0.2))
        first = grid[0, 0]
        first.set_xscale("log")
        first.margins(x=0.06)
        _label_budgets(first, place, wide - 0.6)
        for axes in grid[:, 0]:
            axes.set_ylabel(name)
        if not np.isnan(full):
            entries[f"{EVERYTHING}: {full * factor:.3g}"] = line
        if split:
            figure.set_figheight(rows * (_TALL + 0.1 + marks.LINE * named) + 0.35)
        if columns == 1:
            grid[-1, 0].set_xlabel(xlabel)
        entries |= marks.missing_entries(cells) | marks.fewer_entry(cells)
        marks.legend_below(figure, entries, "" if columns == 1 else xlabel)
    return figure


def _gone(label: str, cells: pd.DataFrame, unable: pd.Index) -> str:
    """Return what the legend says about results that a label has not."""
    ratios = [f"{ratio:g}×" for each, ratio in unable if each == label]
    if ratios:
        return f", cannot run at {', '.join(ratios)}"
    return "" if cells.n[cells.label == label].any() else ", no result"


def _draw_lines(axes: Axes, cells: pd.DataFrame, styles: dict[str, dict[str, Any]], factor: int) -> None:
    """Draw a line with intervals for each label, a little apart, so that one's interval does not hide another's."""
    asides = (np.arange(len(styles)) - (len(styles) - 1) / 2) * min(2, 12 / len(styles))
    numbers = ["mean", "low", "high"]
    for (label, style), aside in zip(styles.items(), asides, strict=True):
        rows = cells[cells.label == label].sort_values("x")
        whole, fewer = rows.copy(), rows[uneven(rows) & (rows.n > 0)]
        whole[numbers] = rows[numbers].where(~uneven(rows))
        drawn: list[Any] = []
        for part, look in [(whole, style), (fewer, marks.pale(style))]:
            if len(part):
                drawn += axes.plot(part.x, part["mean"] * factor, **look)
                drawn.append(axes.vlines(part.x, part.low * factor, part.high * factor, **marks.thin(look)))
        for artist in drawn:  # only now, because what is drawn with it does not count for the axes' limits
            artist.set_transform(offset_copy(axes.transData, axes.get_figure(root=True), aside, 0, "points"))


def _label_budgets(axes: Axes, place: pd.Series, inches: float) -> None:
    """Label budgets on a logarithmic axis with tokens and their names; ticks without room stay unlabelled."""
    place = place[place > 0].sort_values(ascending=False)
    room = np.log(place.max() / place.min()) / inches * 0.3 if len(place) > 1 else 0
    texts, last = [], np.inf
    for budget, kept in place.items():
        fits = last - np.log(kept) >= room
        texts.append(f"{marks.count(kept)}\n{budget}" if fits else "")
        last = np.log(kept) if fits else last
    axes.set_xticks(place.to_list(), texts)
    axes.xaxis.minorticks_off()
