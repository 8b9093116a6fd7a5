"""Published figures, a panel for each table of a paper, with a sweep of one's own in the same axes."""

from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import SMALL, figure_size, method_style, paper_style
from vtc_lab.sweeps.papers import COMPARISON, comparable, relative_accuracy
from vtc_lab.sweeps.tidy import demand, uneven
from vtc_lab.tokens import VTCError, demand_one_of

# What a share of the tokens is a share of: the legend's words, and the fill of a mark.
_BUDGETS: dict[str, tuple[str, Any]] = {
    "enters_llm": ("share that enters the LLM", "full"),
    "mean_per_layer": ("mean share per layer of the LLM", "none"),
    "unclear": ("budget unclear", "left"),
}
_FILLED = {"x": "X", "+": "P"}  # marks of baselines that have no inside, and those that take their place
_SHARES = (1, 2, 5, 10, 15, 25, 50, 100)  # labelled, in per cent


def plot_published(
    rows: pd.DataFrame,
    own: pd.DataFrame | None = None,
    *,
    x: Literal["retained", "per_layer"] = "retained",
    venue: str = "cvpr",
    width: str = "text",
) -> Picture:
    """Draw published accuracy, relative to no reduction, against the share of tokens kept, a panel for each table.

    Panels share their axes, so a method can be followed from one paper to the next; averages over benchmarks differ by
    paper and are never drawn as one. The fill of a mark says what the share is a share of. The numbers are attached.

    Parameters
    ----------
    rows : of `published`.
    own : a sweep's tidy table with ratio 1, drawn in every panel with thick lines and 95 % intervals over clips. Where
        it lacks results that other settings have, it has no point.
    x : "retained", the share that each paper names, or "per_layer", the mean share in the layers of the language model
        as far as it can be told, so that methods that drop tokens inside stand where they cost as much as others.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> from vtc_lab.qa.literature import published
    >>> rows = published(method="FastV", backbone="LLaVA-OneVision-7B", benchmark="average")
    >>> data = plot_published(rows).vtc["data"]
    >>> data[data.retained == 0.15][["table", "relative"]].round(1).values.tolist()
    [['2602.08024 Table 1', 94.5], ['2505.14454 Table 2', 85.0], ['2606.02161 Table 1', 94.1]]
    """
    demand_one_of("x", x, ("retained", "per_layer"))
    demand(rows, [*COMPARISON, "per_layer"])
    if x == "per_layer":
        rows = rows.assign(retained=rows.per_layer, budget="mean_per_layer")
    rows = comparable(rows).dropna(subset=["method"])
    if rows.empty:
        raise VTCError("the rows name no method; give some of vtc.published")
    cells = pd.DataFrame()
    if own is not None:
        cells = relative_accuracy(own)[0].assign(source="own sweep")
        cells["retained"] = cells["kept" if x == "retained" else x] / cells.total
    groups = [group for _, group in rows.groupby(COMPARISON, sort=False, dropna=False)]
    lines = -(-len(groups) // {"column": 2}.get(width, 3))
    columns = -(-len(groups) // lines)
    entries: dict[str, Any] = {}
    mine: dict[str, Any] = {}
    with paper_style():
        inches = figure_size(venue, width)[0]
        figure = Picture(figsize=(inches, round(0.3 + lines * min(2.2, 0.3 + 0.7 * inches / columns), 3)))
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, group in zip(panels, groups, strict=False):
            axes.axhline(100, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
            axes.set_title(_title(group.iloc[0]), fontsize=SMALL, parse_math=False)
            entries |= _draw_published(axes, group)
            if own is not None:
                mine = _draw_own(axes, cells)
        for axes in panels[len(groups) :]:
            axes.remove()
        shares = 100 * pd.concat([rows, cells]).retained
        ticks = [share for share in _SHARES if shares.min() <= share <= shares.max()]
        panels[0].set_xscale("log")
        panels[0].set_xticks(ticks, [str(tick) for tick in ticks])
        panels[0].xaxis.minorticks_off()
        for axes in panels[: len(groups)][-columns:]:  # above an empty place too
            axes.tick_params(labelbottom=True)
        for axes in panels[: len(groups) : columns]:
            axes.set_ylabel("relative accuracy (%)")
        for budget, (words, fill) in _BUDGETS.items():
            if budget in set(rows.budget):
                entries[words] = Line2D([], [], color="black", marker="o", linestyle="", fillstyle=fill)
        if own is not None:
            mine |= marks.missing_entries(cells)
        marks.legend_below(
            figure, entries | mine, "tokens kept (%)" if x == "retained" else "tokens kept per layer, on average (%)"
        )
    return attach(figure, pd.concat([rows, cells], ignore_index=True), plot="plot_published")


def _title(row: pd.Series) -> str:
    """Return a panel's title: paper, table and frames, then backbone and benchmark."""
    source, table = str(row.source), str(row.table).split(" (")[0]
    paper = source.split(" (")[0]
    table = table.removeprefix(source.split("(")[-1].rstrip(")")).removeprefix(paper).strip()
    frames = "" if pd.isna(row.frames) else f", {row.frames:g} frames"
    return f"{paper}, {table}{frames}\n{row.backbone}, {row.benchmark}"


def _draw_published(axes: Axes, group: pd.DataFrame) -> dict[str, Line2D]:
    """Draw one table's methods; return the legend's entry of each."""
    entries = {}
    for (name, budget), points in group.sort_values("retained").groupby(["method", "budget"], sort=False):
        variants = sorted({other for other in group.method if other.partition("[")[0] == name.partition("[")[0]})
        base = points.registered.iloc[0] or name.partition("[")[0].lower()
        look = method_style(base, variants.index(name)) | {"linewidth": 0.8, "markersize": 4.5}
        look |= {"marker": _FILLED.get(look["marker"], look["marker"]), "fillstyle": _BUDGETS[budget][1]}
        axes.plot(100 * points.retained, points.relative, gid="published", **look)
        entries[name] = Line2D([], [], **look | {"fillstyle": "full"})
    return entries


def _draw_own(axes: Axes, cells: pd.DataFrame) -> dict[str, Line2D]:
    """Draw a sweep's labels; return the legend's entry of each."""
    entries = {}
    whole, styles = cells[~uneven(cells)].sort_values("retained"), marks.looks(cells)
    for place, (label, style) in enumerate(styles.items()):
        points, look = whole[whole.label == label], style | {"linewidth": 1.8, "markersize": 5}
        drawn: list[Any] = [*axes.plot(100 * points.retained, points.relative, gid="own", **look)]
        drawn.append(axes.vlines(100 * points.retained, points.low, points.high, **marks.thin(style)))
        for artist in drawn:  # a little apart, so that one's interval does not hide another's
            aside = place - (len(styles) - 1) / 2
            artist.set_transform(offset_copy(axes.transData, axes.get_figure(root=True), aside, 0, "points"))
        entries[f"own sweep: {label}"] = Line2D([], [], **look)
    return entries
