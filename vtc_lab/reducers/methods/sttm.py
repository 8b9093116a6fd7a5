"""STTM, spatio-temporal token merging: a quadtree in every frame, whose nodes join through time."""

from typing import Annotated

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vtc_lab.reducers.ops import cosine, gather, group_means
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_FRAMES = 8  # looked at together


@method(paper="arXiv 2507.07990", year=2025, kind="merges", instead="tau_s")
def sttm(
    tokens: VideoTokens,
    budget: int | None = None,
    *,
    tau_s: Annotated[float | None, -1, 1] = None,
    tau_t: Annotated[float, -1, 1] = 0.65,
) -> Reduction:
    """Merge squares of like patches in each frame, then like squares that overlap in consecutive frames.

    Every frame is a quadtree over its grid (sides 1, 2, 4, ... cut off at the border); from the root down, a node is
    not split if the means of all its children have a cosine of at least `tau_s` to its own (a node that the border
    leaves one child is as alike as that child). Nodes of consecutive frames that overlap and whose means reach `tau_t`
    are joined, and what is joined, directly or not, becomes one mean at the place of its earliest node. The paper uses
    0.80 to 0.95 and 0.5 to 0.65. For a budget instead of `tau_s`, bisection finds one at which at least K are left and
    just below which fewer are (the number need not grow with it); then the most similar neighbours in time or space are
    joined as well until K are left. Where even single patches join to fewer than K, as on a still clip, the weakest of
    those joins are left out. The original runs inside the language model, after its second layer. Cost: one pass over
    the tokens for each pair of quadtree levels.

    >>> halves = torch.eye(2)[[0, 0, 1, 1]].expand(2, 4, 4, 2)
    >>> sttm(VideoTokens(halves), tau_s=0.9).anchor.tolist()
    [0, 2, 8, 10]
    """
    grid, total = tokens.grid, tokens.total
    within, across = _similarities(tokens.values)
    if budget is not None:
        tried = [*within.unique().tolist(), torch.inf]
        low, high = 0, len(tried) - 1
        while low < high:
            middle = (low + high) // 2
            node, start, stop, alike = _overlaps(grid, within, across, tried[middle])
            count = len(node.unique()) - _count_joins(total, start[alike >= tau_t], stop[alike >= tau_t])
            low, high = (low, middle) if count >= budget else (middle + 1, high)
        tau_s = tried[low]
    assert tau_s is not None  # `reduce` sees to it
    node, start, stop, alike = _overlaps(grid, within, across, tau_s)
    cost = 1 - alike + (alike < tau_t) * 4.0  # joins in time that reach the threshold come first
    if budget is None:
        joins = _count_joins(total, start[alike >= tau_t], stop[alike >= tau_t])
    else:
        left, right, like = _neighbours(tokens, node)
        start, stop, cost = torch.cat([start, left]), torch.cat([stop, right]), torch.cat([cost, 5 - like])
        joins = len(node.unique()) - budget
    root = _join_cheapest(total, start, stop, cost, joins)
    return gather(tokens, root[node.flatten()])


def _neighbours(tokens: VideoTokens, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of nodes that touch in a frame, and the cosine of their means."""
    anchor, group = node.unique(return_inverse=True)
    mean = group_means(tokens.values.flatten(0, 2), group.flatten(), len(anchor))
    on_grid = group.view(tokens.grid)
    sides = [
        torch.stack([on_grid.narrow(axis, 0, size - 1).flatten(), on_grid.narrow(axis, 1, size - 1).flatten()])
        for axis, size in ((1, tokens.grid[1]), (2, tokens.grid[2]))
    ]
    pairs = torch.cat(sides, 1)
    left, right = pairs[:, pairs[0] != pairs[1]].sort(0).values.unique(dim=1)
    parts = zip(left.split(4096), right.split(4096), strict=True)
    alike = [cosine(mean[a], mean[b]) for a, b in parts]
    return anchor[left], anchor[right], torch.cat([mean.new_zeros(0), *alike])


def _similarities(values: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines within and across frames, spread over the patches of each node.

    (L, T, N): the least of the children of the patch's node at level 1..L to that node; (L+1, L+1, T-1, N): of its node
    at one level to its node at another in the next frame.
    """
    frames, height, width = values.shape[:3]
    levels = max(height - 1, width - 1).bit_length()
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    within = torch.ones(levels, frames, height, width, device=values.device)
    across = torch.ones(levels + 1, levels + 1, max(0, frames - 1), height, width, device=values.device)
    for first in range(0, frames, _FRAMES):
        part = slice(max(0, first - 1), min(first + _FRAMES, frames))
        total, size = values[part].float(), torch.ones(height, width, 1, device=values.device)
        means, least = [total], torch.ones_like(total[..., 0])
        for _ in range(levels):
            total, size = _quarter(total), _quarter(size)
            means.append(total / size)
        for level in range(1, levels + 1):
            child = cosine(means[level - 1], _grown(means[level], 1, means[level - 1].shape))
            lone = _quarter(torch.ones_like(child[:1, ..., None]))[..., 0] == 1  # at the border: it is its only child
            least = torch.where(lone, least[:, ::2, ::2], -torch.nn.functional.max_pool2d(-child, 2, ceil_mode=True))
            within[level - 1, part] = least[:, y >> level, x >> level]
        for a in range(levels + 1):
            for b in range(levels + 1):
                fine = min(a, b)
                before, now = means[a][:-1], means[b][1:]
                shape = (before if fine == a else now).shape
                alike = cosine(_grown(before, a - fine, shape), _grown(now, b - fine, shape))
                across[a, b, part.start : part.stop - 1] = alike[:, y >> fine, x >> fine]
    return within.flatten(2), across.flatten(3)


def _quarter(grid: Tensor) -> Tensor:
    """Sums over 2x2 cells of (..., h, w, D), those at the border cut off."""
    height, width = grid.shape[-3:-1]
    grid = torch.nn.functional.pad(grid, (0, 0, 0, width % 2, 0, height % 2))
    return grid.unflatten(-2, (-1, 2)).unflatten(-4, (-1, 2)).sum((-4, -2))


def _grown(grid: Tensor, levels: int, shape: torch.Size) -> Tensor:
    """Each cell repeated over those that it covers `levels` further down, (B, h, w, D) of that shape."""
    for axis in (1, 2):
        grid = grid.repeat_interleave(1 << levels, axis).narrow(axis, 0, shape[axis]) if levels else grid
    return grid


def _overlaps(grid: tuple[int, int, int], within: Tensor, across: Tensor, tau: float) -> tuple[Tensor, ...]:
    """(T, N) the first patch of each patch's node, the nodes that overlap in time (two lists), their cosines."""
    frames, height, width = grid
    place = torch.arange(height * width, device=across.device).expand(frames, -1)
    level = torch.zeros_like(place)
    for number, alike in enumerate(within, 1):
        level[alike >= tau] = number
    corner = (place // width >> level << level) * width + (place % width >> level << level)
    node = corner + torch.arange(frames, device=place.device)[:, None] * height * width
    pair = (node[:-1] * node.numel() + node[1:]).flatten()
    t, n = torch.arange(frames - 1, device=place.device)[:, None], place[1:]
    pair, which = (torch.from_numpy(x).to(node.device) for x in np.unique(pair.cpu().numpy(), return_index=True))
    return node, pair // node.numel(), pair % node.numel(), across[level[:-1], level[1:], t, n].flatten()[which]


def _count_joins(total: int, start: Tensor, stop: Tensor) -> int:
    """Number of nodes that joining these pairs takes away."""
    graph = sparse.coo_array((np.ones(len(start)), (start.cpu(), stop.cpu())), shape=(total, total))
    return total - sparse.csgraph.connected_components(graph, directed=False)[0]


def _join_cheapest(total: int, start: Tensor, stop: Tensor, cost: Tensor, joins: int) -> Tensor:
    """(total,) the earliest member of each node's group after the cheapest `joins` that join anything new."""
    graph = sparse.coo_array(((cost + 1).double().cpu(), (start.cpu(), stop.cpu())), shape=(total, total))
    tree = sparse.csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    cheap = np.argsort(tree.data, kind="stable")[:joins]
    chosen = sparse.coo_array((tree.data[cheap], (tree.row[cheap], tree.col[cheap])), shape=(total, total))
    label = torch.from_numpy(sparse.csgraph.connected_components(chosen, directed=False)[1]).long()
    first = torch.full((total,), total).scatter_reduce(0, label, torch.arange(total), "amin")
    return first[label].to(start.device)
