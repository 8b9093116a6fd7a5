"""A figure of how a budget is best split between time and space."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from vtc_lab.figures.export import attach
from vtc_lab.figures.filmstrip import Picture
from vtc_lab.figures.marks import (
    GAPS,
    SMALL,
    checked,
    count,
    legend_below,
    on_average,
    told,
    unit,
)
from vtc_lab.figures.style import BASELINES, figure_size, paper_style
from vtc_lab.sweeps.tidy import counted, intervals, uneven, with_budgets
from vtc_lab.tokens import VTCError

_SPLIT = ["temporal_ratio", "spatial_ratio"]
_LOWER_IS_BETTER = ("flipped", "kl", "tv")
_HATCHED = {"facecolor": "white", "edgecolor": "#aaaaaa", "hatch": "/////", "linewidth": 0}
_CORNER = {"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5}


def plot_heatmap(
    table: pd.DataFrame,
    value: str = "right",
    *,
    venue: str = "cvpr",
    span: str = "column",
    level: float = 0.95,
    seed: int = 0,
) -> Picture:
    """A value for every split of a budget between time and space.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it; the rows whose options name both temporal_ratio and spatial_ratio, of one
        method with one set of other options, are drawn, and baselines mark what lies below them.
    value : numeric column; true counts as 1.
    venue, span : as in `figure_size`.
    level, seed : of the intervals, see `bootstrap_interval`.

    Returns
    -------
    Figure, ready for `save_figure`, with the numbers behind it attached. A cell gives the value, its interval and the
    tokens kept; one without a result is hatched and says why. A corner is cut off where a baseline of the table does
    better with no more tokens ("flipped", "kl", "tv": lower is better).

    Raises
    ------
    VTCError
        If no row has both ratios or two settings fall into one cell, and as `plot_curves`, but baselines are optional.

    Examples
    --------
    >>> options = ['{"temporal_ratio": 1, "spatial_ratio": 2}', '{"temporal_ratio": 2, "spatial_ratio": 2}'] * 2
    >>> table = pd.DataFrame({"method": "lftr", "options": options, "clip": [*"aabb"], "ratio": [2, 4] * 2,
    ...                       "kept": [32, 16] * 2, "total": 64, "right": [1, 0, 1, 1]})
    >>> plot_heatmap(table).vtc["data"][["temporal_ratio", "spatial_ratio", "mean"]].values.tolist()
    [[1.0, 2.0, 1.0], [2.0, 2.0, 0.5]]
    """
    table = checked(table, value, ("clip", "options", "ratio", "kept", "total"), baselines=False)
    rows = _with_split(table)
    cells = with_budgets(intervals(rows, _SPLIT, level=level, seed=seed), rows, _SPLIT)
    cells["below_baseline"] = _below_baseline(cells, table, -1 if value in _LOWER_IS_BETTER else 1)
    by_place = cells.set_index(_SPLIT)
    down, across = (sorted(cells[axis].unique()) for axis in _SPLIT)
    name, factor = unit(value)
    colour_of = Normalize(cells["mean"].min(), cells["mean"].max())
    with paper_style():
        figure = Picture(figsize=(figure_size(venue, span)[0], round(0.6 + 0.42 * len(down), 3)))
        axes = figure.subplots()
        for y, x in np.ndindex(len(down), len(across)):
            _draw_cell(axes, x, y, by_place.reindex([(down[y], across[x])]).iloc[0], factor, colour_of)
        axes.set(xlim=(0, len(across)), ylim=(len(down), 0), xlabel="spatial ratio", ylabel="temporal ratio")
        axes.set_xticks(np.arange(len(across)) + 0.5, [f"{ratio:g}×" for ratio in across])
        axes.set_yticks(np.arange(len(down)) + 0.5, [f"{ratio:g}×" for ratio in down])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{name}, {level:.0%} interval, tokens kept of {on_average(rows)}", fontsize=SMALL)
        if cells.below_baseline.any():
            corner = Line2D([], [], marker=[(-1, 1), (1, 1), (1, -1), (-1, 1)], linestyle="", **_CORNER)
            legend_below(figure, {"a baseline does better with no more tokens": corner})
    return attach(figure, cells, **told("plot_heatmap", rows, value=value, level=level, seed=seed))


def _with_split(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose options give both ratios, with a column for each."""
    try:
        given = table.options.map(lambda text: json.loads(text) if isinstance(text, str) and text else {})
    except ValueError as error:
        raise VTCError(f"column 'options' does not hold JSON ({error}); give it as vtc.sweep does") from error
    split = {name: pd.to_numeric(given.map(lambda options, name=name: options.get(name))) for name in _SPLIT}
    table = table.assign(**split)
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
    """Whether a baseline with no more tokens (half a per cent for rounding) has a better mean over the same samples."""
    keys = ["label", "ratio"]
    rows = table[table.method.isin(BASELINES)]
    baselines = with_budgets(counted(rows, keys)[0], rows, keys) if len(rows) else cells.iloc[:0]
    baselines = baselines[~uneven(baselines)]
    return [
        not odd and bool((sign * baselines["mean"][baselines.kept <= 1.005 * cell.kept] > sign * cell.mean).any())
        for cell, odd in zip(cells.itertuples(), uneven(cells), strict=True)
    ]


def _draw_cell(axes: Axes, x: int, y: int, cell: pd.Series, factor: int, colour_of: Normalize) -> None:
    """The value, its interval, the tokens kept and how many rows are missing; or why there is nothing."""
    if not cell.n > 0:  # NaN where the setting was not run
        axes.add_patch(Rectangle((x, y), 1, 1, **_HATCHED))
        ink, box = "black", {"facecolor": "white", "edgecolor": "none", "pad": 1}
        counts = {"minimum": cell.minimum, "error": cell.error + cell.everywhere}
        counts["empty"] = cell.missing - sum(counts.values())
        reason = max(counts, key=counts.get) if cell.n == 0 else "absent"
        text = GAPS[reason][1].replace(" its ", "\nits ")
    else:
        digits = ".1f" if factor == 100 else ".3g"
        colour = matplotlib.colormaps["cividis"](colour_of(cell["mean"]))
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white"))
        ink, box = ("black" if np.dot(colour[:3], (0.3, 0.59, 0.11)) > 0.45 else "white"), None
        text = f"{cell['mean'] * factor:{digits}}"
        if cell.clips > 1:
            text += f"\n{cell.low * factor:{digits}}–{cell.high * factor:{digits}}"
        text += f"\n{count(cell.kept)}"
        if cell.missing:
            text += f", {cell.missing:g} missing"
        if cell.below_baseline:
            axes.add_patch(Polygon([(x + 1, y), (x + 0.8, y), (x + 1, y + 0.3)], facecolor="white", edgecolor="black"))
    axes.text(x + 0.5, y + 0.5, text, color=ink, bbox=box, fontsize=SMALL - 0.5, ha="center", va="center")
