"""STTM, spatio-temporal token merging: a quadtree in every frame, whose nodes join through time."""

from itertools import product
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vtc_lab.reducers.ops import cosine, even, gather, weighted_sums
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
    root: Literal[1, 0] = 1,
) -> Reduction:
    """Merge squares of like patches in each frame, then like squares that overlap in consecutive frames.

    Every frame is a quadtree over its grid: two by two cells become one, a lone first row or column where a side is
    odd, until a side has two; that is level 0, and the trees begin at level `root`, 1 in the authors' scripts (16 nodes
    of an 8x8 or 14x14 frame, 4 with 0). From there down, a node is not split if all its children have a cosine of at
    least `tau_s` to their mean (a node with one child is as alike as that child). Nodes of consecutive frames that
    overlap and have a cosine of at least `tau_t` are joined, and what is joined, directly or not, becomes the mean of
    its nodes at the place of the earliest. Means are over children and nodes, not over patches. The paper uses 0.80 to
    0.95 and 0.5 to 0.65.

    For a budget instead of `tau_s`, bisection finds one at which at least K are left and just below which fewer are
    (the number need not grow with it). For that, a node takes over the earliest node that it can be traced to, and
    nodes that meet only in a later one may stay apart, which is what the authors' code does at any setting; then these
    are joined, and after them the most similar neighbours in time or space, until K are left. Where even single patches
    join to fewer than K, as on a still clip, the weakest joins are left out. The original runs inside the language
    model, after its second layer. With `tau_s` its code misses the joins named above, compares children that a lone row
    does not have and never splits a node with one child; none of that is done here. Cost: one pass over the tokens for
    each pair of quadtree levels.

    >>> halves = torch.eye(2)[[0, 0, 1, 1]].expand(2, 4, 4, 2)
    >>> sttm(VideoTokens(halves), tau_s=0.9, root=0).anchor.tolist()
    [0, 2, 8, 10]
    """
    device, levels = tokens.values.device, _levels(*tokens.grid[1:], root)
    rows, columns = (_Axis(*(part.to(device) for part in _axis(size, levels))) for size in tokens.grid[1:])
    grid, total = tokens.grid, tokens.total
    within, across = _similarities(tokens.values, rows, columns)
    if budget is not None:
        tried = [*within.unique().tolist(), torch.inf]
        low, high = 0, len(tried) - 1
        while low < high:
            middle = (low + high) // 2
            _, node, start, stop, alike = _overlaps(rows, columns, within, across, tried[middle])
            count = len(_traced(total, start[alike >= tau_t], stop[alike >= tau_t])[node].unique())
            low, high = (low, middle) if count >= budget else (middle + 1, high)
        tau_s = tried[low]
    assert tau_s is not None  # `reduce` sees to it
    level, node, start, stop, alike = _overlaps(rows, columns, within, across, tau_s)
    place = torch.arange(total // len(tokens), device=device)
    weight = rows.weight[level, place // grid[2]] * columns.weight[level, place % grid[2]]
    near = alike >= tau_t
    joined, cost = torch.arange(total, device=device), 1 - alike + ~near * 4.0  # joins that reach tau_t come first
    if budget is None:
        start, stop, cost, left = start[near], stop[near], cost[near], 1
    else:
        traced, left = _traced(total, start[near], stop[near]), budget
        joined = traced if len(traced[node].unique()) >= budget else joined
        here, beside, like = _neighbours(tokens, node, weight)
        start, stop, cost = torch.cat([start, here]), torch.cat([stop, beside]), torch.cat([cost, 5 - like])
    most = len(joined[node].unique()) - left
    root_of = _join_cheapest(total, joined[start], joined[stop], cost, most)
    return gather(tokens, root_of[joined[node]].flatten(), weight.flatten())


class _Axis(NamedTuple):
    """One side of the grid at each level, 0 for the patches: (levels + 1, size) each."""

    cell: Tensor  # which cell a patch is in
    first: Tensor  # the first patch of that cell
    weight: Tensor  # of a patch in the mean of its cell


def _levels(height: int, width: int, root: int) -> int:
    """The number of times that cells become one from the patches up to the root level."""
    count = -root
    while 2 not in (height, width) and max(height, width) > 1:
        height, width, count = -(-height // 2), -(-width // 2), count + 1
    return max(0, count)


def _axis(size: int, levels: int) -> _Axis:
    cell, first, weight = [torch.arange(size)], [torch.arange(size)], [torch.ones(size)]
    for _ in range(levels):
        parent = (torch.arange(size) + size % 2) // 2
        share = 1 / torch.bincount(parent)[parent]
        weight.append(weight[-1] * share[cell[-1]])
        cell.append(parent[cell[-1]])
        first.append(torch.searchsorted(cell[-1], cell[-1]))
        size = -(-size // 2)
    return _Axis(torch.stack(cell), torch.stack(first), torch.stack(weight))


def _neighbours(tokens: VideoTokens, node: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of nodes that touch in a frame, and the cosine of their means."""
    anchor, group = node.unique(return_inverse=True)
    mean = weighted_sums(tokens.values, group.flatten(), weight.flatten(), len(anchor)).float()
    on_grid = group.view(tokens.grid)
    sides = [
        torch.stack([on_grid.narrow(axis, 0, size - 1).flatten(), on_grid.narrow(axis, 1, size - 1).flatten()])
        for axis, size in ((1, tokens.grid[1]), (2, tokens.grid[2]))
    ]
    pairs = torch.cat(sides, 1)
    left, right = pairs[:, pairs[0] != pairs[1]].sort(0).values.unique(dim=1)
    parts = zip(left.split(4096), right.split(4096), strict=True)
    alike = [even(cosine(mean[a], mean[b])) for a, b in parts]
    return anchor[left], anchor[right], torch.cat([mean.new_zeros(0), *alike])


def _similarities(values: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """Cosines within and across frames, spread over the patches of each node.

    (L, T, N): the least of the children of the patch's node at level 1..L to that node; (L+1, L+1, T-1, N): of its node
    at one level to its node at another in the next frame.
    """
    frames, height, width = values.shape[:3]
    levels = len(rows.cell) - 1
    within = torch.ones(levels, frames, height, width, device=values.device)
    across = torch.ones(levels + 1, levels + 1, max(0, frames - 1), height, width, device=values.device)
    for first in range(0, frames, _FRAMES):
        part = slice(max(0, first - 1), min(first + _FRAMES, frames))
        means = [values[part].float()]
        least = torch.ones_like(means[0][..., 0])
        for level in range(1, levels + 1):
            children = _children(means[-1], 0)
            number = _children(torch.ones_like(least[:1, ..., None]), 0).sum((2, 4))
            means.append(children.sum((2, 4)) / number)
            child = cosine(means[-2], _spread(means[-1], rows, columns, level, level - 1))
            lone = _children(least[..., None], torch.inf).amin((2, 4))  # where there is one child, as alike as that is
            least = torch.where(number == 1, lone, _children(child[..., None], torch.inf).amin((2, 4)))[..., 0]
            within[level - 1, part] = _spread(least, rows, columns, level, 0)
        for a, b in product(range(levels + 1), repeat=2):
            fine = min(a, b)
            before, now = means[a][:-1], means[b][1:]
            alike = cosine(_spread(before, rows, columns, a, fine), _spread(now, rows, columns, b, fine))
            across[a, b, part.start : part.stop - 1] = _spread(alike, rows, columns, fine, 0)
    return even(within).flatten(2), even(across).flatten(3)


def _children(grid: Tensor, fill: float) -> Tensor:
    """(B, h, w, D) as (B, h/2, 2, w/2, 2, D), filled up before a lone first row or column."""
    height, width = grid.shape[1:3]
    grid = torch.nn.functional.pad(grid, (0, 0, width % 2, 0, height % 2, 0), value=fill)
    return grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))


def _spread(grid: Tensor, rows: _Axis, columns: _Axis, level: int, fine: int) -> Tensor:
    """Each cell of a level (B, h, w, ...) repeated over those that it has at a finer one."""
    for axis, side in ((1, rows), (2, columns)):
        if level > fine and side.cell[level, -1] < side.cell[fine, -1]:
            one_each = side.first[fine].unique()
            grid = grid.index_select(axis, side.cell[level, one_each])
    return grid


def _overlaps(rows: _Axis, columns: _Axis, within: Tensor, across: Tensor, tau: float) -> tuple[Tensor, ...]:
    """(T, N) the level of each patch's node and its first patch, the nodes that overlap (two lists), their cosines."""
    frames, width = within.shape[1], columns.cell.shape[1]
    place = torch.arange(within.shape[2], device=across.device).expand(frames, -1)
    level = torch.zeros_like(place)
    for number, alike in enumerate(within, 1):
        level[alike >= tau] = number
    corner = rows.first[level, place // width] * width + columns.first[level, place % width]
    node = corner + torch.arange(frames, device=place.device)[:, None] * place.shape[1]
    pair = (node[:-1] * node.numel() + node[1:]).flatten()
    t, n = torch.arange(frames - 1, device=place.device)[:, None], place[1:]
    pair, which = (torch.from_numpy(x).to(node.device) for x in np.unique(pair.cpu().numpy(), return_index=True))
    alike = across[level[:-1], level[1:], t, n].flatten()[which]
    return level, node, pair // node.numel(), pair % node.numel(), alike


def _traced(total: int, start: Tensor, stop: Tensor) -> Tensor:
    """(total,) the earliest node that each can be traced to; of those that only meet in a later one, not always all."""
    label = torch.arange(total, device=start.device)
    while True:
        least = torch.minimum(label[start], label[stop])
        label = label.scatter_reduce(0, start, least, "amin").scatter_reduce(0, stop, least, "amin")
        label = label[label]
        if torch.equal(label, label[label]):
            return label


def _join_cheapest(total: int, start: Tensor, stop: Tensor, cost: Tensor, joins: int) -> Tensor:
    """(total,) the earliest member of each node's group after the cheapest `joins` that join anything new, or all."""
    start, stop, order = start.cpu(), stop.cpu(), cost.argsort(stable=True).cpu()
    pair = torch.minimum(start, stop)[order] * total + torch.maximum(start, stop)[order]
    order = order[torch.from_numpy(np.unique(pair.numpy(), return_index=True)[1])]  # the cheapest of each pair
    graph = sparse.coo_array(((cost.cpu()[order] + 1).double(), (start[order], stop[order])), shape=(total, total))
    tree = sparse.csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    cheap = np.argsort(tree.data, kind="stable")[:joins]
    chosen = sparse.coo_array((tree.data[cheap], (tree.row[cheap], tree.col[cheap])), shape=(total, total))
    label = torch.from_numpy(sparse.csgraph.connected_components(chosen, directed=False)[1]).long()
    first = torch.full((total,), total).scatter_reduce(0, label, torch.arange(total), "amin")
    return first[label].to(cost.device)
