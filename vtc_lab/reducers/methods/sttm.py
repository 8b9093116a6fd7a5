"""STTM, spatio-temporal token merging: a quadtree in every frame, whose nodes join through time."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.ops import cosine, gather, group_means
from vtc_lab.reducers.quadtree import count_joins, join_cheapest, overlaps, similarities
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


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
    are joined, and what is joined, directly or not, becomes one mean at the place of its earliest node. For a budget,
    bisection finds a `tau_s` at which at least K are left and just below which fewer are (the number need not grow with
    `tau_s`); then the most similar neighbours in time or space are joined as well until K are left. Where even single
    patches join to fewer than K, as on a still clip, the weakest of those joins are left out. The original runs inside
    the language model, after its second layer. Cost: one pass over the tokens for each pair of quadtree levels.

    Parameters
    ----------
    tau_s : instead of a budget, the spatial threshold, -1 to 1 (as in the paper, which uses 0.80 to 0.95).
    tau_t : the temporal threshold, -1 to 1 (the paper uses 0.5 to 0.65).

    Examples
    --------
    >>> halves = torch.eye(2)[[0, 0, 1, 1]].expand(2, 4, 4, 2)
    >>> sttm(VideoTokens(halves), tau_s=0.9).anchor.tolist()
    [0, 2, 8, 10]
    """
    grid, total = tokens.grid, tokens.total
    within, across = similarities(tokens.values)
    if budget is not None:
        tried = [*within.unique().tolist(), torch.inf]
        low, high = 0, len(tried) - 1
        while low < high:
            middle = (low + high) // 2
            node, start, stop, alike = overlaps(grid, within, across, tried[middle])
            count = len(node.unique()) - count_joins(total, start[alike >= tau_t], stop[alike >= tau_t])
            low, high = (low, middle) if count >= budget else (middle + 1, high)
        tau_s = tried[low]
    assert tau_s is not None  # `reduce` sees to it
    node, start, stop, alike = overlaps(grid, within, across, tau_s)
    cost = 1 - alike + (alike < tau_t) * 4.0  # joins in time that reach the threshold come first
    if budget is None:
        joins = count_joins(total, start[alike >= tau_t], stop[alike >= tau_t])
    else:
        left, right, like = _neighbours(tokens, node)
        start, stop, cost = torch.cat([start, left]), torch.cat([stop, right]), torch.cat([cost, 5 - like])
        joins = len(node.unique()) - budget
    root = join_cheapest(total, start, stop, cost, joins)
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
