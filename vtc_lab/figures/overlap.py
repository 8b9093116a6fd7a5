"""Figures of how far the tokens that methods keep at one budget overlap, and where the methods agree."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vtc_lab.figures.export import Picture, attach
from vtc_lab.figures.filmstrip import demand_same_frames
from vtc_lab.figures.multiples import alike, budget_line, colour_of, labels_of, notes_of, page, shown_frames
from vtc_lab.figures.style import GREY, SMALL, VERMILION, figure_size, paper_style, role
from vtc_lab.tokens import Clip, Reduction, VTCError

_ANCHORS = "For a merged token, the patch that anchors it counts as kept."


def kept_overlap(reductions: Iterable[Reduction]) -> pd.DataFrame:
    """Return the Jaccard index of the kept patches of every pair of reductions.

    Parameters
    ----------
    reductions : R >= 2 of one clip's tokens, all to the same number K of M. A patch is kept if it anchors an output
        token; of a merged token that is the one patch whose position it takes.

    Returns
    -------
    (R, R) DataFrame, symmetric, named by method (and options where they differ from the defaults): the number of
    patches that both keep over the number that either keeps (Jaccard 1901, over anchors). 0 to 1; 1 on the diagonal.
    Two random sets are expected near q / (2 - q), q = K / M.

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


def plot_overlap(reductions: Iterable[Reduction], *, venue: str = "neurips", width: str = "text") -> Picture:
    """Draw `kept_overlap` as a heat map, ordered by average linkage on 1 - Jaccard with optimal leaves.

    The table attached has a row for each two methods in the order drawn: label, other, jaccard.

    Parameters
    ----------
    reductions : as for `kept_overlap`.
    venue, width : as in `plot_curves`.

    Examples
    --------
    >>> import torch, vtc_lab as vtc
    >>> tokens = vtc.VideoTokens(torch.randn(4, 4, 4, 8))
    >>> figure = plot_overlap([vtc.reduce(tokens, name, ratio=4) for name in ("lftr", "random", "uniform")])
    >>> len(figure.vtc["data"])
    9
    """
    reductions = alike(reductions, least=2)
    table = kept_overlap(reductions)
    places = _by_similarity(table.to_numpy())
    table, inks = table.iloc[places, places], [colour_of(reductions[place].method) for place in places]
    count, (inches, _) = len(table), figure_size(venue, width)
    names, notes = _shortened(list(table.index))
    longest = max(map(len, names)) * SMALL / 160
    cell = (inches - longest - 0.75) / count
    if cell < 0.12:
        raise VTCError(f"{count} methods cannot be read in {inches:g} inches; choose width='text' or fewer methods")
    grey = [f"{word}s" for word in ("baseline", "ceiling") if word in {role(one.method) for one in reductions}]
    notes += [f"{_ANCHORS} Grey names: {' and '.join(grey)}." if grey else _ANCHORS, *notes_of(reductions)]
    share = len(reductions[0]) / reductions[0].total
    by_chance = share / (2 - share)
    header = f"{budget_line(reductions)}. Two random sets: about {by_chance:.2f}."
    with paper_style():
        figure = page(inches, cell * count + longest + 0.1, header, notes)
        axes = figure.subplots()
        _draw_numbers(axes, table.to_numpy(), min(SMALL + 1, cell * 72 / 2))
        axes.set_xticks(range(count), names, rotation=90, fontsize=SMALL)
        axes.set_yticks(range(count), names, fontsize=SMALL)
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            for label, ink in zip(labels, inks, strict=True):
                label.set_color(ink)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(axes.images[0], ax=axes, fraction=0.03, aspect=40, pad=0.01)
        bar.set_label("Jaccard index of kept patches", fontsize=SMALL + 1)
        bar.ax.tick_params(labelsize=SMALL)
        bar.ax.axhline(by_chance, color=VERMILION, linewidth=1)
    data = table.rename_axis("label").reset_index().melt("label", var_name="other", value_name="jaccard")
    return attach(figure, data, plot="plot_overlap", reductions=reductions)


def _draw_numbers(axes: Axes, values: np.ndarray, size: float) -> None:
    """Draw a matrix of Jaccard indices with its numbers; its diagonal has no colour."""
    apart = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    most = max(0.01, np.nanmax(apart))
    axes.imshow(apart, cmap="Blues", vmin=0, vmax=most)
    for y, x in np.ndindex(values.shape):
        ink = GREY if y == x else "white" if values[y, x] > 0.6 * most else "black"
        text = f"{values[y, x]:.2f}".removeprefix("0") if values[y, x] < 1 else "1"
        axes.text(x, y, text, ha="center", va="center_baseline", fontsize=size, color=ink)


def plot_agreement(
    clip: Clip, reductions: Iterable[Reduction], *, venue: str = "neurips", width: str = "text"
) -> Picture:
    """Draw how many of the methods keep each patch, over frames of the clip and as a distribution.

    A patch is kept if it anchors an output token. The line over the distribution is that of R methods that choose
    independently of each other and of the clip, M * Binomial(R, K / M): agreement puts more patches at both ends. The
    table attached has a row for every patch of every frame: frame, seconds, y, x, kept_by (0 to R), methods (R).

    Parameters
    ----------
    clip : T frames; up to 8 are shown, each from the middle of an equal part of the clip.
    reductions : R >= 2 of its tokens, all to the same number K of M. A ceiling such as `oracle` is not counted.
    venue, width : as in `plot_curves`.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4.0))
    >>> tokens = vtc.load_encoder("pixels").encode(clip)
    >>> figure = plot_agreement(clip, [vtc.reduce(tokens, name, ratio=2) for name in ("lftr", "uniform", "random")])
    >>> int(figure.vtc["data"].kept_by.sum()) == 3 * tokens.total // 2
    True
    """
    reductions = alike([one for one in alike(reductions) if role(one.method) != "ceiling"], least=2)
    demand_same_frames(clip, reductions[0])
    chosen, count, total = shown_frames(8, len(clip)), len(reductions), reductions[0].total
    kept_by = _kept(reductions).sum(0)
    often = np.bincount(kept_by.ravel(), minlength=count + 1)
    share = len(reductions[0]) / total
    alone = [total * math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    inches, _ = figure_size(venue, width)
    tile = 0.9 * inches / len(chosen)
    tall = tile * clip.frames.shape[1] / clip.frames.shape[2]
    size = (round(300 * tile), round(300 * tall))
    norm, colours = Normalize(0, count), colormaps["viridis"]
    header = f"{budget_line(reductions)}. Kept by all {count}: {often[count]} patches; by none: {often[0]}."
    notes = [f"Methods: {', '.join(labels_of(reductions))}. {_ANCHORS}", *notes_of(reductions)]
    with paper_style():
        figure = page(inches, 2 * tall + 1.45, header, notes)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2 * tall + 0.2, 1.25]).ravel()
        panels = above.subplots(2, len(chosen), squeeze=False)
        for upper, lower, t in zip(*panels, chosen, strict=True):
            upper.imshow(Image.fromarray(clip.frames[t]).resize(size, Image.Resampling.BOX), interpolation="none")
            heat = lower.imshow(kept_by[t], colours, norm, interpolation="none", extent=(0, size[0], size[1], 0))
            upper.set_title(f"{clip.times[t]:.2f} s", fontsize=SMALL, pad=1.5)
            upper.set_axis_off()
            lower.set_axis_off()
        bar = above.colorbar(heat, ax=panels, fraction=0.03, pad=0.01, ticks=MaxNLocator(5, integer=True))
        bar.set_label("kept by", fontsize=SMALL + 1)
        bar.ax.tick_params(labelsize=SMALL)
        axes = below.subplots()
        axes.bar(range(count + 1), often, color=colours(norm(range(count + 1))), edgecolor="black", linewidth=0.4)
        axes.plot(alone, "o-", color=VERMILION, markersize=2.5, linewidth=0.8, label="independent choices")
        axes.set_xlabel(f"methods of {count} that keep a patch", fontsize=SMALL + 1)
        axes.set_ylabel(f"patches of {total}", fontsize=SMALL + 1)
        axes.tick_params(labelsize=SMALL)
        axes.set_xticks(range(count + 1))
        axes.set_xlim(-0.6, count + 0.6)
        axes.legend(fontsize=SMALL + 1)
    frame, y, x = np.indices(kept_by.shape).reshape(3, -1)
    data = {"frame": frame, "seconds": clip.times[frame], "y": y, "x": x, "kept_by": kept_by.ravel(), "methods": count}
    return attach(figure, pd.DataFrame(data), plot="plot_agreement", clip=clip, reductions=reductions, frames=chosen)


def _kept(reductions: list[Reduction]) -> np.ndarray:
    """Return (R, T, h, w) bool."""
    return np.stack([one.kept.cpu().numpy() for one in reductions])


def _shortened(labels: list[str]) -> tuple[list[str], list[str]]:
    """Return labels that fit beside a heat map, and what each abbreviation stands for."""
    long = [label for label in labels if len(label) > 28]
    names = [f"{label.split(' (')[0]} [{long.index(label) + 1}]" if label in long else label for label in labels]
    return names, [f"[{number}] {label}." for number, label in enumerate(long, 1)]


def _by_similarity(jaccard: np.ndarray) -> list[int]:
    """Return indices in an order that puts what overlaps next to each other."""
    from scipy.cluster import hierarchy  # takes a second to import
    from scipy.spatial.distance import squareform

    distance = squareform(1 - jaccard, checks=False)
    return hierarchy.leaves_list(hierarchy.linkage(distance, "average", optimal_ordering=True)).tolist()
