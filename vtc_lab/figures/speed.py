"""Measured speed: where the time goes, and what accuracy it costs to go faster."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, SMALL, figure_size, method_style, paper_style
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
    cells = table[table.quantity == "questions_per_second"].merge(points[["method", "ratio", "points"]])
    cells = cells[cells.ratio > 1].sort_values("ratio")
    if cells.empty:
        raise VTCError("no setting has both a speed and an accuracy; measure the methods and ratios of the accuracies")
    with paper_style():
        figure = Picture(figsize=figure_size(venue, width, 0.5))
        axes, entries = figure.subplots(), {}
        for method in dict.fromkeys(cells.method):
            rows, look = cells[cells.method == method], method_style(method) | {"linewidth": 0.6, "markersize": 4.5}
            axes.plot(rows.speedup, rows.points, **look)
            axes.hlines(
                rows.points, rows.speedup_low, rows.speedup_high, colors=look["color"], linewidth=0.5, alpha=0.4
            )
            entries[method] = Line2D([], [], **look)
        for ratio, rows in cells.groupby("ratio"):
            axes.axvline(rows.ideal.median(), color=GREY, linewidth=0.6, linestyle=":")
            place = (rows.ideal.median(), 0.02)
            axes.annotate(f"ideal {ratio:g}×", place, xycoords=("data", "axes fraction"), fontsize=SMALL, rotation=90)
        star: dict[str, Any] = {"marker": "*", "markersize": 10, "color": PURPLE, "markeredgecolor": "black"}
        axes.plot(*PAPER, **star, zorder=5)
        words = f"LFTR's paper ({PAPER[0]}×, {PAPER[1]})".replace("-", "\N{MINUS SIGN}")
        entries[words] = Line2D([], [], **star, linestyle="")
        axes.axhline(0, color="black", linewidth=0.6)
        seen = [*cells.speedup, *cells.ideal, PAPER[0]]  # where few rounds leave an interval wide, it is cut off
        axes.set(xlabel="questions per second against every token (×)", ylabel="accuracy against every token (points)")
        axes.set_xlim(0.95 * min(1, *seen), 1.05 * max(seen))
        marks.legend_below(figure, entries)
    return attach(figure, cells, plot="plot_speed", **table.attrs)
