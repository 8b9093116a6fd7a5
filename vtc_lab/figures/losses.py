"""A figure of why answers about the generated world are lost: the evidence was dropped, or the model failed with it."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import BLUE, CEILING, ORANGE, figure_size, paper_style
from vtc_lab.sweeps import tidy
from vtc_lab.sweeps.stats import split_losses

_WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # how an answer is lost: the legend's words, the look of its bar
    "dropped": ("the evidence was dropped", {"facecolor": BLUE}),
    "failed": ("it was there and the model failed", {"facecolor": ORANGE}),
}


def plot_losses(table: pd.DataFrame, ratio: float, *, venue: str = "neurips", width: str = "text") -> Picture:
    """Draw how many right answers each kind of question loses at one ratio, and why.

    Bars are in percent of the answers that are right with everything; the line at their end is the 95 % interval over
    clips of both parts together. A ceiling such as `oracle` is a dashed line. The numbers of `split_losses` are
    attached.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it for clips of the generated world, with kind, recall, ratio 1 and at least one
        baseline.
    ratio : one of the table's, above 1.
    venue, width : as in `figure_size`; kinds stand three beside each other across the text, else two.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "random", "ratio": [1, 8] * 2, "sample": [1, 1, 2, 2], "clip": [*"aabb"],
    ...                       "kept": [64, 8] * 2, "total": 64, "kind": "colour", "recall": [1, 0.2, 1, 0.7],
    ...                       "right": [1, 0, 1, 0]})
    >>> plot_losses(table, 8).vtc["data"][["label", "kind", "loss", "share"]].values.tolist()[:2]
    [['random', 'colour', 'dropped', 0.5], ['random', 'colour', 'failed', 0.5]]
    """
    table = marks.checked(table, "right", ("clip", "sample", "kind", "ratio", "kept", "total", "recall"))
    at = marks.compressed(table, ratio)
    cells = marks.compressed(split_losses(table, ("label", "method", "ratio", "kind")), ratio)
    cells = cells.reset_index(drop=True)
    styles, kinds, unable = marks.looks(at), sorted(cells.kind.unique()), marks.cannot_run(at, ["label"])
    bars = [label for label in styles if label not in set(at.label[tidy.ceilings(at)])]
    columns = {"text": 3}.get(width, 2)
    rows = -(-len(kinds) // columns)
    with paper_style():
        size = (figure_size(venue, width)[0], round(0.2 + rows * (0.3 + 0.12 * len(bars)), 3))
        figure = Picture(figsize=size)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        panels[0, 0].set_yticks(range(len(bars)), bars)
        panels[0, 0].set_ylim(len(bars) - 0.4, -0.6)
        for place, (kind, axes) in enumerate(zip(kinds, panels.flat, strict=False)):
            mine = cells[(cells.kind == kind) & ~cells.label.isin(unable)]
            axes.set_title(f"{kind}, n = {mine.n.max()}", fontsize=marks.LEGEND)
            axes.tick_params(labelsize=marks.LEGEND, labelbottom=place + columns >= len(kinds))
            _draw_losses(axes, mine, bars)
            marks.say_why_empty(axes, bars, mine, unable)
        for axes in panels.flat[len(kinds) :]:
            axes.set_axis_off()
        panels[0, 0].set_xlim(0, None)
        entries: dict[str, Any] = {words: Patch(linewidth=0, **look) for words, look in _WAYS.values()}
        entries |= {label: Line2D([], [], **CEILING) for label in styles if label not in bars}
        counted = cells[(cells.loss == "either") & ~cells.label.isin(unable)]
        entries |= marks.missing_entries(counted) | marks.fewer_entry(counted)
        lost = f"lost of the answers that are right with {tidy.EVERYTHING} (%)"
        marks.legend_below(figure, entries, f"{lost}\n{marks.budget(at)}")
    return attach(figure, cells, plot="plot_losses", ratio=ratio)


def _draw_losses(axes: Axes, cells: pd.DataFrame, bars: list[str]) -> None:
    """Draw the bars of one kind of question."""
    for label, mine in cells.groupby("label"):
        share = 100 * mine.set_index("loss")[["share", "low", "high"]].reindex([*_WAYS, "either"])
        if label not in bars:
            marks.ceiling_line(axes, share.share["either"], axes.get_ylim())
            continue
        y, start, alpha = bars.index(label), 0.0, 0.45 if tidy.uneven(mine).any() else None
        for way, (_, look) in _WAYS.items():
            axes.barh(y, share.share[way], 0.75, start, linewidth=0, alpha=alpha, **look)
            start += share.share[way]
        axes.hlines(y, share.low["either"], share.high["either"], "black", linewidth=0.8, alpha=0.7)
