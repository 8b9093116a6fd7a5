"""Measured speed: where the time goes, and what accuracy it costs to go faster."""

from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, SMALL, figure_size, paper_style
from vtc_lab.sweeps import tidy
from vtc_lab.tokens import VTCError

PAPER = (2.3, -0.4)  # arXiv 2501.17391: times the throughput, points of accuracy
_COLORS = {"read": GREY, "encode": SKY, "reduce": ORANGE, "prefill": BLUE, "decode": GREEN}


def plot_stages(table: pd.DataFrame, *, venue: str = "cvpr", width: str = "column") -> Picture:
    """Draw the seconds from a file to the last token, stage by stage, a bar for each setting, with the ideal.

    Parameters
    ----------
    table : of `vtc.measure`.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> rows = [("none", 1, stage, 1.0, None) for stage in _COLORS] + [("none", 1, "total", 5.0, 1.0)]
    >>> table = pd.DataFrame(rows, columns=["method", "ratio", "quantity", "value", "ideal"])
    >>> len(plot_stages(table).axes[0].patches)
    5
    """
    tidy.demand(table, ["method", "ratio", "quantity", "value", "ideal"])
    needs = {("none", name) for name in (*_COLORS, "total")} - {*zip(table.method, table.quantity, strict=True)}
    if needs or table.duplicated(["method", "ratio", "quantity"]).any():
        raise VTCError("the table lacks a stage of 'none', or has one twice; give what vtc.measure returned")
    cells = table.pivot(index=["method", "ratio"], columns="quantity", values="value")
    cells = cells.loc[list(dict.fromkeys(zip(table.method, table.ratio, strict=True)))][::-1]
    ideal = table[table.quantity == "total"].set_index(["method", "ratio"]).ideal
    with paper_style():
        wide, _ = figure_size(venue, width)
        figure = Picture(figsize=(wide, 0.5 + 0.17 * len(cells)))
        axes = figure.subplots()
        names = [f"{method} {ratio:g}×" if ratio > 1 else "every token" for method, ratio in cells.index]
        begun = 0 * cells.read
        for stage, color in _COLORS.items():
            axes.barh(names, cells[stage], left=begun, color=color, height=0.7)
            begun = begun + cells[stage]
        best = (cells[list(_COLORS)].sum(axis=1)["none"].iloc[0] / ideal).reindex(cells.index)
        axes.plot(best, range(len(cells)), color="black", marker="|", markersize=8, linestyle="")
        axes.set(xlabel="seconds, one question", xlim=(0, None))
        entries: dict[str, Any] = {stage: Line2D([], [], color=c, linewidth=5) for stage, c in _COLORS.items()}
        entries["ideal"] = Line2D([], [], color="black", marker="|", markersize=8, linestyle="")
        marks.legend_below(figure, entries)
    return attach(figure, table, plot="plot_stages", **table.attrs)


def plot_speed(table: pd.DataFrame, accuracy: pd.DataFrame, *, venue: str = "cvpr", width: str = "text") -> Picture:
    """Draw the accuracy that each method loses against its measured throughput, both against every token.

    Lines join a method's ratios. The star is what LFTR's paper reports, the vertical lines are the ideal at each ratio.
    Settings without an accuracy are left out.

    Parameters
    ----------
    table : of `vtc.measure`.
    accuracy : label, ratio and mean, as `bootstrap_interval` gives them; with ratio 1 for each label.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> row = {"method": "lftr", "ratio": 4.0, "quantity": "questions_per_second", "speedup": 1.8, "speedup_low": 1.7}
    >>> table = pd.DataFrame([row | {"speedup_high": 1.9, "ideal": 2.0}])
    >>> accuracy = pd.DataFrame({"label": "lftr", "ratio": [1.0, 4.0], "mean": [0.93, 0.92]})
    >>> plot_speed(table, accuracy).vtc["data"].points.round(2).tolist()
    [-1.0]
    """
    tidy.demand(table, ["method", "ratio", "quantity", "speedup", "speedup_low", "speedup_high", "ideal"])
    tidy.demand(accuracy, ["label", "ratio", "mean"])
    full = accuracy[accuracy.ratio == 1].set_index("label")["mean"]
    points = accuracy.assign(method=accuracy.label, points=100 * (accuracy["mean"] - accuracy.label.map(full)))
    cells = table[table.quantity == "questions_per_second"].merge(points[["label", "method", "ratio", "points"]])
    cells = cells[cells.ratio > 1].sort_values("ratio")
    if cells.empty:
        raise VTCError("no setting has both a speed and an accuracy; measure the methods and ratios of the accuracies")
    bare = cells.assign(method=cells.label.str.partition(" (")[0])  # without options
    looks = {label: look | {"linewidth": 0.6, "markersize": 4.5} for label, look in marks.looks(bare).items()}
    (wide, tall), ideals = figure_size(venue, width, 0.5), cells.groupby("ratio").ideal.median()
    panels, columns = marks.panels(bare, wide)
    common = [method for method in looks if not any(method in panel for panel in panels)]
    seen = [*cells.speedup, *ideals, PAPER[0]]  # where few rounds leave an interval wide, it is cut off
    star: dict[str, Any] = {"marker": "*", "markersize": 8, "color": PURPLE, "markeredgecolor": "black"}
    with paper_style():
        rows = len(panels) // columns
        figure = Picture(figsize=(wide, tall if len(panels) == 1 else 2.2 * rows))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            for method in [*common, *panel]:
                one, colour = cells[cells.method == method], looks[method]["color"]
                axes.plot(one.speedup, one.points, **looks[method])
                axes.hlines(one.points, one.speedup_low, one.speedup_high, colors=colour, linewidth=0.5, alpha=0.4)
            for ratio, ideal in ideals.items():
                axes.axvline(ideal, color=GREY, linewidth=0.6, linestyle=":")
                place = {"xycoords": ("data", "axes fraction"), "fontsize": SMALL, "rotation": 90}
                axes.annotate(f"ideal {ratio:g}×", (ideal, 0.02), **place)
            axes.plot(*PAPER, **star, zorder=5)
            axes.axhline(0, color="black", linewidth=0.6)
            if panel:
                marks.legend_above(axes, {name: Line2D([], [], **looks[name]) for name in panel}, wide / columns - 0.3)
        grid[0, 0].set_xlim(0.95 * min(1, *seen), 1.05 * max(seen))
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy against\nevery token (points)")
        entries = {name: Line2D([], [], **looks[name]) for name in common}
        words = f"LFTR's paper ({PAPER[0]}×, {PAPER[1]} points)".replace("-", "\N{MINUS SIGN}")
        entries[words] = Line2D([], [], **star, linestyle="")
        marks.legend_below(figure, entries, "questions per second against every token (×)")
    return attach(figure, cells, plot="plot_speed", **table.attrs)
