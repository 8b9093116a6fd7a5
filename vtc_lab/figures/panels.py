"""A sweep's answers in panels: what each kind of question loses and why, which flip, what differs beyond chance."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vtc_lab.figures import marks
from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.style import BLUE, CEILING, GREEN, GREY, ORANGE, VERMILION, figure_size, paper_style
from vtc_lab.sweeps import tidy
from vtc_lab.sweeps.stats import split_losses
from vtc_lab.tokens import VTCError

_FLIPS: dict[str, tuple[str, dict[str, Any]]] = {  # what becomes of an answer: the legend's words, the look of its bar
    "lost": ("right to wrong", {"facecolor": VERMILION}),
    "other": ("wrong to another wrong", {"facecolor": "white", "edgecolor": GREY, "hatch": "////////"}),
    "gained": ("wrong to right", {"facecolor": GREEN}),
}
_WAYS: dict[str, tuple[str, dict[str, Any]]] = {  # how an answer is lost: the legend's words, the look of its bar
    "dropped": ("the evidence was dropped", {"facecolor": BLUE}),
    "failed": ("it was there and the model failed", {"facecolor": ORANGE}),
}
_DOT: dict[str, Any] = {"color": "black", "marker": "o", "markersize": 4, "linestyle": "", "zorder": 3}


def plot_kinds(
    table: pd.DataFrame, ratio: float, value: str = "right", *, venue: str = "cvpr", width: str = "column"
) -> Picture:
    """Draw what each kind of question loses at one ratio, with paired 95 % intervals over clips (numbers attached).

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with kind, ratio 1 and at least one baseline.
    ratio : one of the table's, above 1.
    value : numeric column; true counts as 1.
    venue, width : as in `figure_size`; across the text the kinds stand in up to three columns.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "uniform", "ratio": [1, 4] * 2, "clip": [*"aabb"], "sample": [1, 1, 2, 2],
    ...                       "kind": "colour", "kept": [64, 16] * 2, "total": 64, "right": [1, 1, 1, 0]})
    >>> plot_kinds(table, 4).vtc["data"][["label", "kind", "difference", "n"]].values.tolist()
    [['uniform', 'colour', -0.5, 2]]
    """
    inches, _ = figure_size(venue, width)
    table = marks.checked(table, value, ("clip", "sample", "kind", "ratio", "kept", "total"))
    at = marks.compressed(table, ratio)
    pairs = tidy.differences(table)
    cells = tidy.intervals(pairs[pairs.ratio == ratio], ["label", "kind"])
    cells = cells.rename(columns={"mean": "difference"}).assign(ratio=ratio)
    unable = marks.cannot_run(at, ["label"])
    shown = cells[~cells.label.isin(unable)]
    styles = {label: look for label, look in marks.looks(table).items() if label in set(at.label)}
    kinds = sorted(at.kind.unique())
    name, factor = marks.unit(value)
    height = -(-len(kinds) // 3) if width == "text" else len(kinds)  # kinds above each other
    dots = [label for label in styles if label not in {*at.label[tidy.ceilings(at)], *unable}]
    slot = {label: (place + 0.75) / (len(dots) + 0.5) for place, label in enumerate(dots)}
    with paper_style():
        size = (inches, round(0.55 + height * max(0.3, 0.085 * (len(dots) + 1)), 3))
        figure = Picture(figsize=size)
        panels = figure.subplots(1, -(-len(kinds) // height), sharex=True, squeeze=False)[0]
        for _, cell in shown.iterrows():
            panel, row = divmod(kinds.index(cell.kind), height)
            if cell.label in slot:
                style = styles[cell.label] | {"markersize": 3.5}
                _draw_difference(panels[panel], row + slot[cell.label], cell, factor, style)
            else:
                marks.ceiling_line(panels[panel], cell.difference * factor, (row + 0.05, row + 0.95))
        answers = cells.groupby("kind").n.max()
        for panel, axes in enumerate(panels):
            mine = kinds[panel * height : (panel + 1) * height]
            axes.axvline(0, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
            axes.set(ylim=(height, 0))
            axes.set_yticks(np.arange(len(mine)) + 0.5, [f"{kind}\nn = {answers[kind]}" for kind in mine])
            axes.hlines(range(1, height), 0, 1, "#dddddd", linewidth=0.5, transform=axes.get_yaxis_transform())
            axes.tick_params(axis="y", length=0)
        names = {label: f"{label}, cannot run" if label in unable else label for label in styles}
        entries = {names[label]: Line2D([], [], **style) for label, style in styles.items()}
        entries |= marks.missing_entries(shown) | marks.fewer_entry(shown)
        marks.legend_below(figure, entries, f"{_change(name)} against {tidy.EVERYTHING}\n{marks.budget(at)}")
    return attach(figure, cells, plot="plot_kinds", value=value, ratio=ratio)


def plot_forest(tests: pd.DataFrame, *, venue: str = "cvpr", width: str = "column") -> Picture:
    """Draw paired differences with their intervals, a panel for each ratio.

    A filled dot differs beyond chance (p_holm < 0.05). A difference over fewer samples than others is pale. The tests
    are attached.

    Parameters
    ----------
    tests : as `vtc.compare` returns them; labels stand below each other in their order, and may be renamed,
        but for that of a ceiling, which is a dashed line.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> from vtc_lab.sweeps.stats import compare
    >>> table = pd.DataFrame({"label": ["lftr"] * 8, "ratio": [1, 8] * 4, "sample": [1, 1, 2, 2, 3, 3, 4, 4],
    ...                       "clip": [*"aaaabbbb"], "right": [1, 0, 1, 1, 1, 0, 1, 0]})
    >>> plot_forest(compare(table)).axes[0].get_title()
    '8×'
    """
    needs = ["label", "ratio", "reference", "difference", "low", "high", "p_holm", "n", "missing", "of", "value"]
    tidy.demand(tests, needs)
    tests = tests.assign(label=tests.label.astype(str))
    tests = tests.assign(**{key: tidy.numbers(tests[key]) for key in ("ratio", "difference", "low", "high", "p_holm")})
    tidy.demand_single(tests)
    labels = list(tests.label[~tidy.ceilings(tests)].unique())
    name, factor = marks.unit(tests["value"].iloc[0])
    with paper_style():
        figure, panels = _panels_of_ratios(tests, labels, venue, width)
        for ratio, axes in panels.items():
            axes.set_title(f"{ratio:.3g}×", fontsize=8)
            axes.axvline(0, color="black", linewidth=0.7, linestyle=(0, (6, 3)), zorder=1)
            for _, cell in tests[tests.ratio == ratio].iterrows():
                if cell.label not in labels:
                    marks.ceiling_line(axes, cell.difference * factor, axes.get_ylim())
                    continue
                style = _DOT if cell.p_holm < 0.05 else _DOT | {"markerfacecolor": "white"}
                _draw_difference(axes, labels.index(cell.label), cell, factor, style)
        entries: dict[str, Any] = {"differs beyond chance (p < 0.05 after Holm)": Line2D([], [], **_DOT)}
        entries["does not"] = Line2D([], [], **_DOT | {"markerfacecolor": "white"})
        entries |= {label: Line2D([], [], **CEILING) for label in tests.label[tidy.ceilings(tests)].unique()}
        entries |= marks.missing_entries(tests) | marks.fewer_entry(tests)
        marks.legend_below(figure, entries, f"{_change(name)}\nagainst {tests.reference.iloc[0]}")
    return attach(figure, tests, plot="plot_forest")


def plot_flips(table: pd.DataFrame, *, venue: str = "cvpr", width: str = "column") -> Picture:
    """Draw how many answers turn from right to wrong, from wrong to right, and from wrong to another wrong.

    Bars are in percent of the answers; what is lost goes to the left, what is gained to the right. The table attached
    holds counts: lost, other, gained, n (answers), missing.

    Parameters
    ----------
    table : tidy, as `vtc.sweep` gives it, with right, flipped, ratio 1 and at least one baseline.
    venue, width : as in `figure_size`.

    Examples
    --------
    >>> table = pd.DataFrame({"method": "uniform", "ratio": [1, 4] * 2, "clip": [*"aabb"], "sample": [1, 1, 2, 2],
    ...                       "kept": [64, 16] * 2, "total": 64, "right": [1, 0, 0, 0], "flipped": [0, 1, 0, 1]})
    >>> plot_flips(table).vtc["data"][["label", "ratio", "n", "lost", "other", "gained"]].values.tolist()
    [['uniform', 4.0, 2, 1, 1, 0]]
    """
    table = marks.checked(table, "right", ("clip", "sample", "ratio", "kept", "total", "flipped"))
    was = table["sample"].map(tidy.uncompressed(table).groupby("sample").value.first())
    changed = tidy.numbers(table.flipped) == 1
    table["lost"] = (was == 1) & (table.value == 0)
    table["gained"] = (was == 0) & (table.value == 1)
    table["other"] = (was == 0) & (table.value == 0) & changed
    table["value"] = table.value.where(was.notna())
    table["answered"] = tidy.answered(table)
    small = table[table.ratio != 1]
    if small.empty:
        raise VTCError("the table has no ratio above 1, so no answer can flip; add one to the ratios of the sweep")
    keys = ["label", "ratio"]
    cells = tidy.counted(small, keys)[0].drop(columns=["mean", "low", "high"])
    cells[list(_FLIPS)] = small.groupby(keys, sort=False, dropna=False)[list(_FLIPS)].sum().to_numpy()
    labels = [label for label in marks.looks(table) if label in set(small.label)]
    unable = marks.cannot_run(small, keys)
    shown = cells[~pd.MultiIndex.from_frame(cells[keys]).isin(unable)]
    with paper_style():
        figure, panels = _panels_of_ratios(cells, labels, venue, width)
        for ratio, axes in panels.items():
            mine = shown[shown.ratio == ratio]
            _draw_flips(axes, mine, labels)
            marks.say_why_empty(axes, labels, mine, [label for label, at in unable if at == ratio])
            kept = mine.kept.median()
            axes.set_title(f"{ratio:.3g}×\n{'' if np.isnan(kept) else marks.count(kept)}", fontsize=8)
        low, high = axes.get_xlim()  # which all share
        axes.set_xlim(1.05 * low, max(high, 0.2 * (high - low)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
        entries: dict[str, Any] = {words: Patch(linewidth=0, **look) for words, look in _FLIPS.values()}
        least, most = cells.n[cells.n > 0].min(), cells.n.max()
        title = f"answers that changed (% of {least:,}{'' if least == most else f' to {most:,}'})"
        marks.legend_below(figure, entries | marks.missing_entries(shown) | marks.fewer_entry(shown), title)
    return attach(figure, cells, plot="plot_flips")


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


def _draw_flips(axes: Axes, cells: pd.DataFrame, labels: list[str]) -> None:
    axes.axvline(0, color="black", linewidth=0.6)
    y = [labels.index(label) for label in cells.label]
    share = cells[list(_FLIPS)].mul(100 / cells.n.where(cells.n > 0), axis=0)
    starts = {"lost": -share.lost, "other": -share.lost - share.other, "gained": 0}
    for flip, (_, look) in _FLIPS.items():
        bars = axes.barh(y, share[flip], 0.75, starts[flip], linewidth=0, **look)
        for bar, odd in zip(bars, tidy.uneven(cells), strict=True):
            bar.set_alpha(0.45 if odd else None)


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


def _draw_difference(axes: Axes, y: float, cell: pd.Series, factor: int, style: dict[str, Any]) -> None:
    """Draw a cell's difference and interval, pale if it lacks samples that others have."""
    style = marks.pale(style) if cell.n < cell.of else style
    axes.plot(cell.difference * factor, y, **style)
    axes.hlines(y, cell.low * factor, cell.high * factor, **marks.thin(style))


def _panels_of_ratios(
    cells: pd.DataFrame, labels: list[str], venue: str, width: str
) -> tuple[Picture, dict[float, Axes]]:
    """Return a figure with a panel for each ratio, in which labels stand below each other."""
    ratios = sorted(cells.ratio.dropna().unique())
    if not ratios:
        raise VTCError("the table has no ratio; give one with rows above 1")
    figure = Picture(figsize=(figure_size(venue, width)[0], round(0.7 + 0.14 * len(labels), 3)))
    panels = figure.subplots(1, len(ratios), sharex=True, sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(labels)), labels, fontsize=marks.LEGEND)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    return figure, dict(zip(ratios, panels, strict=True))


def _change(name: str) -> str:
    return f"change in {name.replace('%', 'points')}"
