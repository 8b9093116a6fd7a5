"""A figure of how a budget is best split between time and space."""

import json
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import BASELINES, GREY, figure_size, paper_style
from vtc_lab.sweeps.tidy import counted, intervals, tidy, uneven
from vtc_lab.tokens import VTCError

_SPLIT = ["temporal_ratio", "spatial_ratio"]


def plot_heatmap(table: pd.DataFrame, value: str = "right", *, venue: str = "cvpr", width: str = "column") -> Picture:
    """Draw a value for every split of a budget between time and space.

    A cell gives the value, its 95 % interval, the tokens kept and how many results are missing; one without a result is
    hatched. A corner is cut off where a baseline of the table does better with no more tokens (of "flipped", "kl" and
    "tv" less is better). The numbers are attached.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it; the rows whose options name both temporal_ratio and spatial_ratio, of one
        method with one set of other options, are drawn, and baselines mark what lies below them.
    value : numeric column; true counts as 1.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> options = ['{"temporal_ratio": 1, "spatial_ratio": 2}', '{"temporal_ratio": 2, "spatial_ratio": 2}'] * 2
    >>> table = pd.DataFrame({"method": "lftr", "options": options, "clip": [*"aabb"], "ratio": [2, 4] * 2,
    ...                       "kept": [32, 16] * 2, "total": 64, "right": [1, 0, 1, 1]})
    >>> plot_heatmap(table).vtc["data"][["temporal_ratio", "spatial_ratio", "mean"]].values.tolist()
    [[1.0, 2.0, 1.0], [2.0, 2.0, 0.5]]
    """
    table = tidy(table, value, ("clip", "options", "ratio", "kept", "total"))
    rows = _with_split(table)
    cells = intervals(rows, _SPLIT)
    down, across = (sorted(cells[axis].unique()) for axis in _SPLIT)
    cells = cells.set_index(_SPLIT).reindex(pd.MultiIndex.from_product([down, across], names=_SPLIT)).reset_index()
    not_run: dict[str, Any] = {"n": 0, "clips": 0, "missing": cells.of.max(), "of": cells.of.max()}
    cells = cells.fillna(not_run).astype(dict.fromkeys(not_run, int))
    cells["below_baseline"] = _below_baseline(cells, table, -1 if value in marks.LOWER_IS_BETTER else 1)
    unable = pd.MultiIndex.from_frame(cells[_SPLIT]).isin(marks.cannot_run(rows, _SPLIT))
    name, factor = marks.unit(value)
    colour_of = Normalize(cells["mean"].min(), cells["mean"].max())
    with paper_style():
        figure = Picture(figsize=(figure_size(venue, width)[0], round(0.6 + 0.42 * len(down), 3)))
        axes = figure.subplots()
        for (y, x), (place, cell) in zip(np.ndindex(len(down), len(across)), cells.iterrows(), strict=True):
            if unable[place]:
                axes.text(x + 0.5, y + 0.5, "cannot\nrun", color=GREY, fontsize=marks.LEGEND, ha="center", va="center")
            else:
                _draw_cell(axes, x, y, cell, factor, colour_of)
        axes.set(xlim=(0, len(across)), ylim=(len(down), 0), xlabel="spatial ratio", ylabel="temporal ratio")
        axes.set_xticks(np.arange(len(across)) + 0.5, [f"{ratio:g}×" for ratio in across])
        axes.set_yticks(np.arange(len(down)) + 0.5, [f"{ratio:g}×" for ratio in down])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{name}, 95% interval, tokens kept of {marks.tokens_of(rows)}", fontsize=marks.LEGEND)
        entries = marks.missing_entries(cells[~unable])
        if cells.below_baseline.any():
            corner = Line2D([], [], marker=[(-1, 1), (1, 1), (1, -1), (-1, 1)], linestyle="", markersize=5)
            corner.set(markerfacecolor="white", markeredgecolor="black")
            entries["a baseline does better with no more tokens"] = corner
        if entries:
            marks.legend_below(figure, entries)
    return attach(figure, cells, plot="plot_heatmap", value=value)


def _with_split(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose options give both ratios, with a column for each."""
    try:
        given = table.options.map(lambda text: json.loads(text) if isinstance(text, str) and text else {})
    except ValueError as error:
        raise VTCError(f"column 'options' does not hold JSON ({error}); give it as vtc.sweep does") from error
    for name in _SPLIT:
        table[name] = pd.to_numeric(given.str.get(name))
    rows = table[table[_SPLIT].notna().all(axis=1)]
    if rows.empty:
        raise VTCError("no row's options have temporal_ratio and spatial_ratio; sweep lftr over a grid of both")
    for (temporal, spatial), labels in rows.groupby(_SPLIT).label.unique().items():
        if len(labels) > 1:
            raise VTCError(
                f"temporal_ratio {temporal:g} and spatial_ratio {spatial:g} have results of {' and '.join(labels)}; "
                "draw one method with one set of other options at a time"
            )
    return rows


def _below_baseline(cells: pd.DataFrame, table: pd.DataFrame, sign: int) -> list[bool]:
    """Mark cells of which a baseline with no more tokens (0.5 % for rounding) has a better mean over all samples."""
    rivals = counted(table[table.method.isin(BASELINES)], ["label", "ratio"])[0]
    rivals = rivals[~uneven(rivals)]
    return [
        cell.n == cell.of and bool((sign * rivals["mean"][rivals.kept <= 1.005 * cell.kept] > sign * cell.mean).any())
        for cell in cells.itertuples()
    ]


def _draw_cell(axes: Axes, x: int, y: int, cell: pd.Series, factor: int, colour_of: Normalize) -> None:
    if cell.n == 0:
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": "#aaaaaa", "hatch": "/////", "linewidth": 0}
        axes.add_patch(Rectangle((x, y), 1, 1, **look))
        ink, box = "black", {"facecolor": "white", "edgecolor": "none", "pad": 1}
        text = f"missing:\n{cell.of} of {cell.of}"
    else:
        digits = ".1f" if factor == 100 else ".3g"
        colour = matplotlib.colormaps["cividis"](colour_of(cell["mean"]))
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white"))
        ink, box = ("black" if np.dot(colour[:3], (0.3, 0.59, 0.11)) > 0.45 else "white"), None
        text = f"{cell['mean'] * factor:{digits}}"
        if not np.isnan(cell.low):
            text += f"\n{cell.low * factor:{digits}}–{cell.high * factor:{digits}}"
        text += f"\n{marks.count(cell.kept)}"
        if cell.n < cell.of:
            text += f", {cell.of - cell.n} missing"
        if cell.below_baseline:
            axes.add_patch(Polygon([(x + 1, y), (x + 0.8, y), (x + 1, y + 0.3)], facecolor="white", edgecolor="black"))
    axes.text(x + 0.5, y + 0.5, text, color=ink, bbox=box, fontsize=marks.LEGEND - 0.5, ha="center", va="center")
