"""One clip at one budget under many methods, as small multiples; and what such a comparison says about itself."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from vtc_lab.figures.export import attach
from vtc_lab.figures.filmstrip import Picture, describe, draw_frames, patch_table
from vtc_lab.figures.style import BASELINES, figure_size, paper_style
from vtc_lab.tokens import Clip, MinimumBudgetError, Reduction, VTCError, demand_clip

SMALL = 6  # points, of titles of panels and of notes
GREY = "#777777"  # of what a method has to beat
_LEGEND = (
    "As it is: kept. Dark and hatched: dropped. Tinted: merged into the patch with a dot of that colour. Bar: share of "
    "each frame's patches that are kept, from white (none) to black (all), with a tick at the frames shown."
)


def compare_kept(
    clip: Clip,
    reductions: Iterable[Reduction],
    gaps: Mapping[str, VTCError] | None = None,
    *,
    frames: int | Sequence[int] = 4,
    columns: int = 3,
    venue: str = "neurips",
    span: str = "text",
) -> Picture:
    """What each of many methods keeps of a clip at one budget, as small multiples.

    Every panel shows the same few frames and, in a bar below them, the share of patches kept in *every* frame. Baseline
    methods are marked as such, in grey. Notes of the reductions (a source of saliency, an automatic split) stand below.

    Parameters
    ----------
    clip : T frames.
    reductions : of its tokens, all to the same number.
    gaps : for each method that gave no result its error; it gets an empty panel, and the reason stands below.
    frames : how many, each from the middle of an equal part of the clip (the first and last frame and evenly spaced
        ones between them would be those that `uniform` keeps); or their indices.
    columns : panels beside each other, at least 1.
    venue, span : as in `figure_size`.

    Returns
    -------
    Figure, ready for `save_figure`; the table behind it is `patch_table` of every reduction, under `label` the method
    with its options.

    Raises
    ------
    VTCError
        If there is no reduction, or they differ in budget, grid or number of frames, for frames that are not there, or
        more frames and columns than can be seen.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((8, 32, 32, 3), np.uint8), np.arange(8.0))
    >>> tokens = vtc.load_encoder("pixels").encode(clip)
    >>> figure = compare_kept(clip, [vtc.reduce(tokens, name, ratio=8) for name in ("lftr", "uniform", "random")])
    >>> figure.vtc["data"].groupby("label").kept.sum().to_dict()
    {'lftr': 196, 'random': 196, 'uniform': 196}
    """
    reductions, gaps = alike(reductions), dict(gaps or {})
    demand_clip_of(clip, reductions)
    chosen = shown_frames(frames, len(clip))
    if type(columns) is not int or columns < 1:
        raise VTCError(f"columns is {columns!r}; it must be a whole number of panels beside each other, at least 1")
    labels = labels_of(reductions)
    columns = min(columns, len(reductions) + len(gaps))
    rows = math.ceil((len(reductions) + len(gaps)) / columns)
    width, _ = figure_size(venue, span)
    tile = (width / columns - 0.05) / len(chosen)
    if tile < 0.2:
        raise VTCError(
            f"{len(chosen)} frames in {columns} columns would be {max(tile, 0):.2f} inches wide each, "
            "too small to see; choose fewer of either"
        )
    picture, bar = tile * clip.frames.shape[1] / clip.frames.shape[2], 0.06
    titles = [_title(label, r) for label, r in zip(labels, reductions, strict=True)]
    titles = [textwrap.wrap(title, _room(0.85 * width / columns)) for title in titles]
    seconds = ", ".join(f"{clip.times[t]:.2f}" for t in chosen)
    shown = f"Frames at {seconds} s, {len(chosen)} of {len(clip)}. {_LEGEND}"
    with paper_style():
        lines = [max(map(len, titles[n * columns : (n + 1) * columns] or [" "])) for n in range(rows)]
        height = rows * (picture + bar + 0.09) + 0.115 * sum(lines)
        reasons = [f"No result: {error}." for error in gaps.values()]
        figure = page(width, height, f"{budget_line(reductions)}.", [shown, *notes_of(reductions, labels), *reasons])
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.012, wspace=0, hspace=0)
        axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[picture, bar] * rows)
        for one in axes.ravel():
            one.set_axis_off()
        panels = list(zip(axes[::2].ravel(), axes[1::2].ravel(), strict=True))
        for (upper, lower), reduction, title in zip(panels, reductions, titles, strict=False):
            pixels = max(round(300 * tile), 4 * reduction.grid[2])
            upper.imshow(joined(draw_frames(clip, reduction, pixels)[chosen]), interpolation="none")
            shares = reduction.kept.flatten(1).float().mean(1).cpu().numpy()
            lower.imshow(shares[None], cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="none")
            upper.set_anchor("S")  # room that is left goes above and below, not between picture and bar
            lower.set_anchor("N")
            lower.set_box_aspect(bar / tile / len(chosen))
            lower.set_axis_on()
            lower.xaxis.tick_top()
            lower.set_xticks(chosen, [])
            lower.set_yticks([])
            lower.tick_params(length=1.5, width=0.5)
            lower.spines[:].set(visible=True, linewidth=0.4, color="#999999")
            upper.set_title("\n".join(title), fontsize=SMALL, pad=1.5, loc="left", color=colour_of(reduction.method))
        for (upper, _), (name, error) in zip(panels[len(reductions) :], gaps.items(), strict=False):
            words = "below its minimum budget" if isinstance(error, MinimumBudgetError) else "no result"
            upper.set_title(f"{name}: {words}", fontsize=SMALL, pad=1.5, loc="left", color=colour_of(name))
            upper.set_anchor("S")
            upper.set_box_aspect(picture / tile / len(chosen))
            upper.add_patch(Rectangle((0, 0), 1, 1, transform=upper.transAxes, color="#f2f2f2"))
    data = pd.concat([patch_table(clip, r).assign(label=label) for r, label in zip(reductions, labels, strict=True)])
    about = {"gaps": {name: str(error) for name, error in gaps.items()}, "frames": chosen}
    return attach(figure, data.reset_index(drop=True), plot="compare_kept", clip=clip, reductions=reductions, **about)


def alike(reductions: Iterable[Reduction], least: int = 1) -> list[Reduction]:
    """The reductions as a list, if there are enough of one grid and one budget."""
    if isinstance(reductions, Reduction):
        reductions = [reductions]
    given = list(reductions)
    for one in given:
        if not isinstance(one, Reduction):
            raise VTCError(f"{one!r:.60} is no Reduction; give a list of what vtc.reduce returns")
    if len(given) < least:
        many = "reduction" if least == 1 else "reductions"
        raise VTCError(f"a comparison needs at least {least} {many}, not {len(given)}; give a list of them")
    for one in given[1:]:
        if one.grid != given[0].grid:
            raise VTCError(
                f"the reductions are of {given[0].grid} and {one.grid} grids; compare methods on the tokens of one clip"
            )
        if len(one) != len(given[0]):
            raise VTCError(
                f"{describe(given[0])} keeps {len(given[0])} tokens and {describe(one)} {len(one)}; "
                "compare methods at one budget, such as the same ratio"
            )
    return given


def demand_clip_of(clip: Clip, reductions: list[Reduction]) -> None:
    """Raise a VTCError for a clip of another number of frames."""
    demand_clip(clip)
    if len(clip) != reductions[0].grid[0]:
        raise VTCError(
            f"the clip has {len(clip)} frames and the reductions {reductions[0].grid[0]}; give the clip they are of"
        )


def shown_frames(frames: int | Sequence[int], total: int) -> list[int]:
    """The indices of the frames to show."""
    if isinstance(frames, Integral) and frames >= 1:
        count = min(int(frames), total)
        return [(2 * part + 1) * total // (2 * count) for part in range(count)]
    chosen = list(frames) if isinstance(frames, Iterable) else []
    if not chosen or not all(isinstance(t, Integral) and 0 <= t < total for t in chosen):
        raise VTCError(f"frames is {frames!r}; give how many to show, or a list of their indices, 0 to {total - 1}")
    return [int(t) for t in chosen]


def labels_of(reductions: list[Reduction]) -> list[str]:
    """What each is called; those that are called the same are numbered."""
    names = [describe(one) for one in reductions]
    return [f"{name} #{names[:n].count(name) + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def colour_of(method: str) -> str:
    """The colour of a method's name: grey for a baseline."""
    return GREY if method in BASELINES else "black"


def budget_line(reductions: list[Reduction]) -> str:
    """The budget that all share, in words."""
    one = reductions[0]
    who = f"Tokens by {one.encoder}: " if one.encoder else ""
    each = "each method keeps" if len(reductions) > 1 else "kept"
    return f"{who}{each} {len(one)} of {one.total}, {one.total / len(one):.1f}x"


def notes_of(reductions: list[Reduction], labels: list[str]) -> list[str]:
    """Each note of the reductions once, with those that carry it."""
    carriers: dict[str, list[str]] = {}
    for label, one in zip(labels, reductions, strict=True):
        for note in one.notes:
            carriers.setdefault(note, []).append(label)
    return [f"{', '.join(names)}: {note}." for note, names in carriers.items()]


def page(width: float, body: float, header: str, notes: list[str]) -> Picture:
    """An empty figure with a header and with notes at the foot, `body` inches apart."""
    above = textwrap.wrap(header, _room(width, 7))
    below = [line for note in notes for line in textwrap.wrap(note, _room(width))]
    figure = Picture(figsize=(width, round(body + 0.12 * len(above) + 0.1 * len(below) + 0.1, 3)))
    figure.suptitle("\n".join(above), fontsize=7, x=0.005, ha="left")
    figure.supxlabel("\n".join(below), fontsize=SMALL, x=0.005, ha="left", color="#444444")
    return figure


def joined(tiles: Iterable[np.ndarray], axis: int = 1) -> np.ndarray:
    """Pictures one after the other, with white between them."""
    tiles = list(tiles)
    shape = list(tiles[0].shape)
    shape[axis] = 4
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (gap, tile)][1:], axis)


def _title(label: str, reduction: Reduction) -> str:
    baseline = " (baseline)" if reduction.method in BASELINES else ""
    return f"{label}{baseline}  {len(reduction)}/{reduction.total}"


def _room(inches: float, points: float = SMALL) -> int:
    """Letters that fit into a width."""
    return max(1, int(inches * 155 / points))
