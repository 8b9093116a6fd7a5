"""One clip at one budget under many methods, as small multiples, and the words of such a comparison."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.filmstrip import demand_same_frames, describe, draw_frames, patch_table
from vtc_lab.figures.style import GREY, PATCHES, SMALL, figure_size, letters, paper_style, role
from vtc_lab.tokens import Clip, MinimumBudgetError, Reduction, VTCError, demand

_LEGEND = (
    f"{PATCHES} Bar: share of each frame's patches that are kept, from white (none) to black (all), with a tick at the "
    "frames shown."
)
_BAR = 0.06  # inches


def compare_kept(
    clip: Clip,
    reductions: Iterable[Reduction],
    gaps: Mapping[str, VTCError] | None = None,
    *,
    frames: Sequence[int] | None = None,
    columns: int = 3,
    venue: str = "neurips",
    width: str = "text",
) -> Picture:
    """Draw what each of many methods keeps of a clip at one budget, as small multiples.

    Every panel shows the same frames, and in a bar below them the share of patches kept in *every* frame. Names of
    baselines are grey. Notes of the reductions stand below. The table attached is that of `show` for every reduction,
    and under `label` the method with its options.

    Parameters
    ----------
    clip : T frames.
    reductions : of its tokens, all to the same number.
    gaps : for each method that gave no result its error; it gets an empty panel, and the reason stands below.
    frames : indices of those on show; None for four, each from the middle of a quarter of the clip.
    columns : panels beside each other, at least 1.
    venue, width : as in `plot_curves`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((8, 32, 32, 3), np.uint8), np.arange(8.0))
    >>> tokens = vtc.load_encoder("pixels").encode(clip)
    >>> figure = compare_kept(clip, [vtc.reduce(tokens, name, ratio=8) for name in ("lftr", "uniform", "random")])
    >>> figure.vtc["data"].groupby("label").kept.sum().to_dict()
    {'lftr': 196, 'random': 196, 'uniform': 196}
    """
    reductions, gaps = alike(reductions), {**({} if gaps is None else gaps)}
    demand_same_frames(clip, reductions[0])
    chosen, labels = list(shown_frames(4, len(clip)) if frames is None else frames), labels_of(reductions)
    if not (chosen and all(isinstance(frame, Integral) and frame in range(len(clip)) for frame in chosen)):
        raise VTCError(f"frames are {frames!r:.60}; choose some from 0 to {len(clip) - 1}")
    inches, _ = figure_size(venue, width)
    columns = min(columns, len(reductions) + len(gaps))
    most = int(inches / (0.2 * len(chosen) + 0.05))  # frames of 0.2 inches
    if not 1 <= columns <= most:
        raise VTCError(f"columns is {columns!r}; choose 1 to {most}, so that the frames can be seen")
    rows = math.ceil((len(reductions) + len(gaps)) / columns)
    tile = (inches / columns - 0.05) / len(chosen)
    tall = tile * clip.frames.shape[1] / clip.frames.shape[2]
    titles = []
    for label, one in zip(labels, reductions, strict=True):
        name = f"{label} ({role(one.method)})" if role(one.method) else label
        titles.append(f"{name}  {len(one)}/{one.total}")
    for name, error in gaps.items():
        titles.append(f"{name}: {'cannot keep this budget' if isinstance(error, MinimumBudgetError) else 'no result'}")
    wrapped = [textwrap.wrap(title, letters(0.85 * inches / columns)) for title in titles]
    lines = sum(max(map(len, wrapped[n : n + columns])) for n in range(0, len(wrapped), columns))
    seconds = ", ".join(f"{clip.times[t]:.2f}" for t in chosen)
    notes = [f"Frames at {seconds} s, {len(chosen)} of {len(clip)}. {_LEGEND}", *notes_of(reductions)]
    notes += [f"No result: {error}." for error in gaps.values()]
    with paper_style():
        body = rows * (tall + _BAR + 0.09) + 0.115 * lines
        figure = page(inches, body, f"{budget_line(reductions)}.", notes)
        axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[tall, _BAR] * rows)
        for one in axes.ravel():
            one.set_axis_off()
            one.set_anchor("S")  # room that is left goes above and below, not between picture and bar
        uppers, lowers = axes[::2].ravel(), axes[1::2].ravel()
        for upper, title, method in zip(uppers, wrapped, [*(r.method for r in reductions), *gaps], strict=False):
            upper.set_title("\n".join(title), fontsize=SMALL, pad=1.5, loc="left", color=colour_of(method))
        for upper, lower, reduction in zip(uppers, lowers, reductions, strict=False):
            pixels = max(round(300 * tile), 4 * reduction.grid[2])
            tiles = draw_frames(clip, reduction, pixels)[chosen]
            apart = np.pad(tiles, ((0, 0), (0, 0), (0, 4), (0, 0)), constant_values=255)  # white between frames
            upper.imshow(np.concatenate(apart, axis=1)[:, :-4], interpolation="none")
            _draw_shares(lower, reduction, chosen, _BAR / tile / len(chosen))
        for upper in uppers[len(reductions) : len(titles)]:
            upper.set_box_aspect(tall / tile / len(chosen))
            upper.add_patch(Rectangle((0, 0), 1, 1, transform=upper.transAxes, color="#f2f2f2"))
    tables = [patch_table(clip, r).assign(label=label) for r, label in zip(reductions, labels, strict=True)]
    about = {"gaps": {name: str(error) for name, error in gaps.items()}, "frames": chosen}
    data = pd.concat(tables, ignore_index=True)
    return attach(figure, data, plot="compare_kept", clip=clip, reductions=reductions, **about)


def _draw_shares(axes: Axes, reduction: Reduction, chosen: list[int], aspect: float) -> None:
    """Draw the share of patches kept in every frame, with ticks at the chosen ones."""
    shares = reduction.kept.flatten(1).float().mean(1).cpu().numpy()
    axes.imshow(shares[None], cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.set_anchor("N")
    axes.set_box_aspect(aspect)
    axes.set_axis_on()
    axes.xaxis.tick_top()
    axes.set_xticks(chosen, [""] * len(chosen))
    axes.set_yticks([])
    axes.tick_params(length=1.5, width=0.5)
    axes.spines[:].set(visible=True, linewidth=0.4, color="#999999")


def alike(reductions: Iterable[Reduction], least: int = 1) -> list[Reduction]:
    """Return the reductions as a list, if there are enough of one grid and one budget."""
    given = []
    for one in reductions:
        demand(Reduction, one)
        given.append(one)
    if len(given) < least:
        raise VTCError(f"reductions has {len(given)}; give a list of at least {least} that vtc.reduce returned")
    first = given[0]
    for one in given[1:]:
        if one.grid != first.grid:
            raise VTCError(f"the reductions are of {first.grid} and {one.grid} grids; compare methods on one clip")
        if len(one) != len(first):
            raise VTCError(
                f"{describe(first)} keeps {len(first)} tokens and {describe(one)} {len(one)}; "
                "compare methods at one budget, such as the same ratio"
            )
    return given


def shown_frames(count: int, total: int) -> list[int]:
    """Return the indices of frames from the middle of equal parts of a clip."""
    count = min(count, total)
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def labels_of(reductions: list[Reduction]) -> list[str]:
    """Return the name of each reduction; equal names are numbered."""
    names = [describe(one) for one in reductions]
    return [f"{name} #{names[:n].count(name) + 1}" if names.count(name) > 1 else name for n, name in enumerate(names)]


def colour_of(method: str) -> str:
    """Return the colour of a method's name: grey for a baseline or a ceiling."""
    return GREY if role(method) else "black"


def budget_line(reductions: list[Reduction]) -> str:
    """Return the budget that all share, in words."""
    one = reductions[0]
    source = f"Tokens by {one.encoder}: " if one.encoder else ""
    each = "each method keeps" if len(reductions) > 1 else "kept"
    return f"{source}{each} {len(one)} of {one.total}, {one.total / len(one):.1f}x"


def notes_of(reductions: list[Reduction]) -> list[str]:
    """Return each note of the reductions once, with the names of those that carry it."""
    carriers: dict[str, list[str]] = {}
    for label, one in zip(labels_of(reductions), reductions, strict=True):
        for note in one.notes:
            carriers.setdefault(note, []).append(label)
    return [f"{', '.join(names)}: {note}." for note, names in carriers.items()]


def page(width: float, body: float, header: str, notes: list[str]) -> Picture:
    """Return an empty figure with a header and with notes at the foot, `body` inches apart."""
    above = textwrap.wrap(header, letters(width, 7))
    below = [line for note in notes for line in textwrap.wrap(note, letters(width))]
    height = round(body + 0.12 * len(above) + 0.1 * len(below) + 0.1, 3)
    pads = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.012, wspace=0, hspace=0)
    figure = Picture(figsize=(width, height), layout=pads)
    figure.suptitle("\n".join(above), fontsize=7, x=0.005, ha="left")
    figure.supxlabel("\n".join(below), fontsize=SMALL, x=0.005, ha="left", color="#444444")
    return figure
