"""The baselines that every comparison shows: methods that look at nothing but positions."""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from vtc_lab.reducers.ops import merge, prune, shares
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method
def uniform(tokens: VideoTokens, budget: int) -> Reduction:
    """Keep evenly spaced frames (linspace, first and last included).

    With a budget that is not a whole number of frames, ceil(K / N) frames are kept and each gives up an equal share of
    evenly spaced patches, so that the budget is exact.

    >>> uniform(VideoTokens(torch.randn(9, 2, 2, 4)), 12).kept.flatten(1).sum(1).tolist()
    [4, 0, 0, 0, 4, 0, 0, 0, 4]
    """
    frames, patches = tokens.grid[0], tokens.total // tokens.grid[0]
    count = math.ceil(budget / patches)
    chosen = _spaced(frames, count)
    kept = [t * patches + _spaced(patches, int(share)) for t, share in zip(chosen, shares(budget, count), strict=True)]
    return prune(tokens, torch.cat(kept))


@method
def random(tokens: VideoTokens, budget: int, *, seed: int = 0) -> Reduction:
    """Keep K tokens of the clip at random, the same for the same seed (any integer of 64 bits) on every device."""
    return prune(tokens, torch.randperm(tokens.total, generator=_generator(seed))[:budget])


@method
def random_per_frame(tokens: VideoTokens, budget: int, *, seed: int = 0) -> Reduction:
    """Keep the same number of random patches of every frame; the frames that give one more are spread evenly.

    >>> random_per_frame(VideoTokens(torch.randn(4, 2, 2, 8)), 8).kept.flatten(1).sum(1).tolist()
    [2, 2, 2, 2]
    """
    frames, patches = tokens.grid[0], tokens.total // tokens.grid[0]
    generator = _generator(seed)
    kept = [
        t * patches + torch.randperm(patches, generator=generator)[: int(share)]
        for t, share in enumerate(shares(budget, frames))
    ]
    return prune(tokens, torch.cat(kept))


@method(kind="merges")
def pool(tokens: VideoTokens, budget: int, *, over: Literal["space", "time"] = "space") -> Reduction:
    """Average neighbouring tokens: adaptive average pooling over space or over time, without overlapping bins.

    Over space, every frame is cut into its share of cells in near-square bands; over time, every position is cut into
    its share of runs. Below one token per frame (or per position) the other axis is pooled as well. Where the grid
    divides, the result is that of torch's adaptive_avg_pool. The anchor of a cell is its member nearest to its middle,
    the first on ties.

    >>> pool(VideoTokens(torch.randn(2, 4, 4, 8)), 8).anchor.tolist()
    [0, 2, 8, 10, 16, 18, 24, 26]
    """
    frames, height, width = tokens.grid
    if over == "space":
        runs, layout = _runs(frames, min(budget, frames)), partial(_cells, height, width)
    else:
        runs, layout = _cells(height, width, min(budget, height * width)), partial(_runs, frames)
    label = _joined([layout(int(count)) for count in shares(budget, int(runs.amax()) + 1)])[runs]  # (T, N) or (N, T)
    return _means(tokens, label if over == "space" else label.T, budget)


@method(kind="merges")
def downscale(tokens: VideoTokens, budget: int) -> Reduction:
    """Resize the grid of every frame: the baseline that spends the same budget on lower resolution.

    All frames have the largest grid, in the shape of the source's, of which one for every frame fits into K. As far as
    the rest reaches, evenly spread frames have the next larger grid, by a row or a column, and one takes what then
    remains. Cells are averaged; unlike `pool`, which gives every frame the same number of cells, this keeps to whole
    grids. On an encoder of fixed resolution it is what resizing comes to; for one that takes any size, resize the
    frames before `encode` instead, which also saves time there.

    >>> downscale(VideoTokens(torch.randn(3, 4, 4, 8)), 16).kept.flatten(1).sum(1).tolist()
    [4, 6, 6]
    """
    frames, height, width = tokens.grid
    runs = min(budget, frames)
    rows, columns = last_rows, last_columns = 1, 1
    while rows * columns * runs <= budget and (last_rows, last_columns) != (height, width):
        last_rows, last_columns = rows, columns
        taller = rows < height and (columns == width or rows * width <= columns * height)
        rows, columns = min(height, rows + taller), min(width, columns + (not taller))
    small = last_rows * last_columns
    raised, rest = divmod(budget - small * runs, max(1, rows * columns - small))
    more = shares(raised, runs)
    count = small + more * (rows * columns - small)
    count[more.argmin()] += rest
    bands = torch.where(count > small, rows, last_rows)
    sizes = zip(count.tolist(), bands.tolist(), strict=True)
    label = _joined([_bands(height, width, shares(cells, number)) for cells, number in sizes])
    return _means(tokens, label[_runs(frames, runs)], budget)


def _generator(seed: int) -> torch.Generator:
    # On the CPU for every device, so that results agree; torch takes seeds below 2^63.
    return torch.Generator().manual_seed(int(seed) % (1 << 63))


def _spaced(total: int, count: int) -> Tensor:
    """`count` of `total` indices, evenly spaced, first and last included (integer linspace)."""
    return torch.arange(count) * (total - 1) // max(1, count - 1)


def _runs(total: int, count: int) -> Tensor:
    """(total,) the run, 0 to count - 1, of each index."""
    return torch.arange(total) * count // total


def _cells(height: int, width: int, count: int) -> Tensor:
    """(h * w,) the cell, 0 to count - 1, of each patch of a frame: near-square bands of rows, cut into columns."""
    squarest = round(math.sqrt(count * height / width))
    return _bands(height, width, shares(count, min(height, count, max(math.ceil(count / width), squarest, 1))))


def _bands(height: int, width: int, columns: Tensor) -> Tensor:
    """(h * w,) the cell of each patch: as many bands of rows as there are entries, each cut into so many columns."""
    first = columns.cumsum(0) - columns
    return torch.cat([first[b] + _runs(width, int(columns[b])) for b in _runs(height, len(columns))])


def _joined(labels: list[Tensor]) -> Tensor:
    """The labels, each from 0 up, one below the other and numbered on."""
    label = torch.stack(labels)
    count = label.amax(1) + 1
    return label + (count.cumsum(0) - count)[:, None]


def _means(tokens: VideoTokens, label: Tensor, budget: int) -> Reduction:
    group = label.flatten()
    return merge(tokens, group, torch.ones(tokens.total), _middles(group, tokens.grid, budget))


def _middles(group: Tensor, grid: tuple[int, int, int], count: int) -> Tensor:
    """(count,) the member of each group nearest to the group's centre, the first on ties."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    place = torch.stack([a.flatten() for a in axes], 1)
    size = torch.bincount(group, minlength=count)[:, None]
    centre = torch.zeros(count, 3, dtype=torch.float64).index_add_(0, group, place) / size
    distance = (place - centre[group]).square().sum(1)
    order = torch.argsort(distance, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    return order[(size.cumsum(0) - size).flatten()]
