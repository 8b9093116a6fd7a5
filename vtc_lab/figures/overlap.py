"""Do the methods keep the same tokens? How far what they keep at one budget overlaps, and where they agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vtc_lab.figures.export import attach
from vtc_lab.figures.filmstrip import Picture
from vtc_lab.figures.multiples import (
    GREY,
    SMALL,
    alike,
    budget_line,
    colour_of,
    demand_clip_of,
    joined,
    labels_of,
    notes_of,
    page,
    shown_frames,
)
from vtc_lab.figures.style import figure_size, paper_style
from vtc_lab.tokens import Clip, Reduction, VTCError

_ANCHORS = "Of a merged token the patch that anchors it counts as kept."
_BASELINES = "Grey names: baselines, what a method has to beat."


def kept_overlap(reductions: Iterable[Reduction]) -> pd.DataFrame:
    """How far the sets of kept patches of several reductions overlap: the Jaccard index of each two.

    Parameters
    ----------
    reductions : R >= 2 of one clip's tokens, all to the same number K of M. A patch is kept if it anchors an output
        token; of a merged token that is the one patch whose position it takes.

    Returns
    -------
    (R, R) DataFrame, symmetric, named by method (and options where they differ from the defaults): the number of
    patches that both keep over the number that either keeps. 0 to 1; 1 on the diagonal. Two random sets are expected
    near q / (2 - q), q = K / M.

    Raises
    ------
    VTCError
        If there are fewer than two, or they differ in budget or grid.

    Source: Jaccard 1901; that it is taken over anchors is our definition.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> tokens = vtc.VideoTokens(torch.randn(4, 4, 4, 8))
    >>> kept_overlap([vtc.reduce(tokens, name, ratio=2) for name in ("uniform", "pool")]).round(3).values.tolist()
    [[1.0, 0.333], [0.333, 1.0]]
    """
    reductions = alike(reductions, least=2)
    kept = _kept(reductions).reshape(len(reductions), -1).astype(float)
    both = kept @ kept.T
    names = labels_of(reductions)
    return pd.DataFrame(both / (2 * len(reductions[0]) - both), index=names, columns=names)


def plot_overlap(
    reductions: Iterable[Reduction], *, order: str = "similarity", venue: str = "neurips", span: str = "text"
) -> Picture:
    """`kept_overlap` as an annotated heat map.

    Parameters
    ----------
    reductions : as for `kept_overlap`.
    order : "similarity" puts those that keep the same next to each other (average linkage on 1 - Jaccard, with the
        order of leaves that has the nearest neighbours); "given" leaves them as they come.
    venue, span : as in `figure_size`.

    Returns
    -------
    Figure, ready for `save_figure`; the table behind it has a row for each two methods in the order drawn: label,
    other, jaccard.

    Raises
    ------
    VTCError
        As `kept_overlap`, and for an unknown order, or more methods than can be read in that width.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> tokens = vtc.VideoTokens(torch.randn(4, 4, 4, 8))
    >>> figure = plot_overlap([vtc.reduce(tokens, name, ratio=4) for name in ("lftr", "random", "uniform")])
    >>> len(figure.vtc["data"])
    9
    """
    if order not in ("similarity", "given"):
        raise VTCError(f"order is {order!r}; choose 'similarity' or 'given'")
    reductions = alike(reductions, least=2)
    table, inks = kept_overlap(reductions), [colour_of(r.method) for r in reductions]
    places = _by_similarity(table.to_numpy()) if order == "similarity" else list(range(len(table)))
    table, inks = table.iloc[places, places], [inks[place] for place in places]
    values, count = table.to_numpy(), len(table)
    apart = np.where(np.eye(count, dtype=bool), np.nan, values)
    width, _ = figure_size(venue, span)
    names, key = _shortened(list(table.index))
    longest = max(map(len, names)) * SMALL / 160
    cell = (width - longest - 0.75) / count
    if cell < 0.12:
        raise VTCError(
            f"a heat map of {count} methods cannot be read in {width:g} inches; choose span='text' or fewer methods"
        )
    share = len(reductions[0]) / reductions[0].total
    header = f"{budget_line(reductions)}. Two random sets: about {share / (2 - share):.2f}."
    with paper_style():
        anchors = f"{_ANCHORS} {_BASELINES}" if GREY in inks else _ANCHORS
        notes = [*key, anchors, *notes_of(reductions, labels_of(reductions))]
        figure = page(width, cell * count + longest + 0.1, header, notes)
        axes = figure.subplots()
        image = axes.imshow(apart, cmap="Blues", vmin=0, vmax=max(0.01, np.nanmax(apart)))
        size = min(SMALL + 1, cell * 72 / 2)
        for y, x in np.ndindex(values.shape):
            ink = "white" if apart[y, x] > 0.6 * image.norm.vmax else "black"
            text = f"{values[y, x]:.2f}".removeprefix("0") if values[y, x] < 1 else "1"
            axes.text(x, y, text, ha="center", va="center_baseline", fontsize=size, color=ink if y != x else GREY)
        axes.set_xticks(range(count), names, rotation=90, fontsize=SMALL)
        axes.set_yticks(range(count), names, fontsize=SMALL)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for label, ink in zip(labels, inks, strict=True):
                label.set_color(ink)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.03, aspect=40, pad=0.01)
        bar.set_label("Jaccard index of kept patches", fontsize=SMALL + 1)
        bar.ax.tick_params(labelsize=SMALL)
        bar.ax.axhline(share / (2 - share), color="#D55E00", linewidth=1)
    data = table.rename_axis("label").reset_index().melt("label", var_name="other", value_name="jaccard")
    return attach(figure, data, plot="plot_overlap", order=order, reductions=reductions)


def plot_agreement(
    clip: Clip,
    reductions: Iterable[Reduction],
    *,
    frames: int | Sequence[int] = 8,
    venue: str = "neurips",
    span: str = "text",
) -> Picture:
    """Where the methods agree: how many of them keep each patch, over the frames and as a distribution.

    Parameters
    ----------
    clip : T frames.
    reductions : R >= 2 of its tokens, all to the same number K of M.
    frames : how many, each from the middle of an equal part of the clip, or their indices; for the maps alone.
    venue, span : as in `figure_size`.

    Returns
    -------
    Figure, ready for `save_figure`. The line over the distribution is that of R methods that choose independently of
    each other and of the clip, M * Binomial(R, K / M): agreement puts more patches at both ends. The table behind it
    has a row for every patch of every frame: frame, seconds, y, x, kept_by (0 to R), methods (R).

    Raises
    ------
    VTCError
        As `kept_overlap`, and if the clip has another number of frames, or for frames that are not there.

    Source: our definition; a patch is kept if it anchors an output token.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4.0))
    >>> tokens = vtc.load_encoder("pixels").encode(clip)
    >>> figure = plot_agreement(clip, [vtc.reduce(tokens, name, ratio=2) for name in ("lftr", "uniform", "random")])
    >>> int(figure.vtc["data"].kept_by.sum()) == 3 * tokens.total // 2
    True
    """
    reductions = alike(reductions, least=2)
    demand_clip_of(clip, reductions)
    chosen = shown_frames(frames, len(clip))
    kept_by, count, total = _kept(reductions).sum(0), len(reductions), reductions[0].total
    often = np.bincount(kept_by.ravel(), minlength=count + 1)
    from scipy.stats import binom  # takes a second to import

    alone = total * binom.pmf(np.arange(count + 1), count, len(reductions[0]) / total)
    width, _ = figure_size(venue, span)
    columns = min(8, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    tile = 0.9 * width / columns
    tall = tile * clip.frames.shape[1] / clip.frames.shape[2]
    norm, colours = Normalize(0, count), colormaps["viridis"]
    header = f"{budget_line(reductions)}. Kept by all {count}: {often[count]} patches; by none: {often[0]}."
    notes = [f"Methods: {', '.join(labels_of(reductions))}. {_ANCHORS}", *notes_of(reductions, labels_of(reductions))]
    with paper_style():
        figure = page(width, rows * (2 * tall + 0.2) + 1.25, header, notes)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0.02)
        above, below = figure.subfigures(2, 1, height_ratios=[rows * (2 * tall + 0.2), 1.25])
        panels = above.subplots(rows, columns, squeeze=False)
        for axes in panels.ravel():
            axes.set_axis_off()
        for axes, t in zip(panels.ravel(), chosen, strict=False):
            size = (round(300 * tile), round(300 * tall))
            picture = np.asarray(Image.fromarray(clip.frames[t]).resize(size, Image.Resampling.BOX))
            heat = Image.fromarray(colours(norm(kept_by[t]), bytes=True)[..., :3])
            heat = np.asarray(heat.resize(size, Image.Resampling.NEAREST))
            axes.imshow(joined([picture, heat], axis=0), interpolation="none")
            axes.set_title(f"{clip.times[t]:.2f} s", fontsize=SMALL, pad=1.5)
        bar = above.colorbar(
            ScalarMappable(norm, colours), ax=panels, fraction=0.03, pad=0.01, ticks=MaxNLocator(5, integer=True)
        )
        bar.set_label("methods that keep it", fontsize=SMALL + 1)
        bar.ax.tick_params(labelsize=SMALL)
        axes = below.subplots()
        axes.bar(range(count + 1), often, color=colours(norm(range(count + 1))), edgecolor="black", linewidth=0.4)
        axes.plot(alone, "o-", color="#D55E00", markersize=2.5, linewidth=0.8, label="independent choices")
        axes.set_xlabel(f"methods of {count} that keep a patch", fontsize=SMALL + 1)
        axes.set_ylabel(f"patches of {total}", fontsize=SMALL + 1)
        axes.tick_params(labelsize=SMALL)
        axes.set_xticks(range(count + 1))
        axes.set_xlim(-0.6, count + 0.6)
        axes.legend(fontsize=SMALL + 1)
    t, y, x = np.indices(kept_by.shape).reshape(3, -1)
    data = {"frame": t, "seconds": clip.times[t], "y": y, "x": x, "kept_by": kept_by.ravel(), "methods": count}
    return attach(figure, pd.DataFrame(data), plot="plot_agreement", clip=clip, reductions=reductions, frames=chosen)


def _kept(reductions: list[Reduction]) -> np.ndarray:
    """(R, T, h, w) bool."""
    return np.stack([one.kept.cpu().numpy() for one in reductions])


def _shortened(labels: list[str]) -> tuple[list[str], list[str]]:
    """Labels that fit beside a heat map, and for each that did not what it stands for."""
    long = [label for label in labels if len(label) > 28]
    names = [f"{label.split(' (')[0]} [{long.index(label) + 1}]" if label in long else label for label in labels]
    return names, [f"[{number}] {label}." for number, label in enumerate(long, 1)]


def _by_similarity(jaccard: np.ndarray) -> list[int]:
    """Indices in an order that puts what overlaps next to each other."""
    if len(jaccard) < 3:
        return list(range(len(jaccard)))
    from scipy.cluster import hierarchy  # takes a second to import
    from scipy.spatial.distance import squareform

    distance = squareform(1 - jaccard, checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(distance, "average", optimal_ordering=True)).tolist()
