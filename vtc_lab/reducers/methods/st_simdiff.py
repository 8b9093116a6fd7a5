"""ST-SimDiff before the language model: thin out patches that belong together in space and time, keep events."""

from typing import Annotated

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vtc_lab.reducers.joint import differences
from vtc_lab.reducers.ops import blocks, even, group_means, prune, ranks_within, top, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2605.22158",
    year=2026,
    ours="the last cut to the budget, by the best edge, which the paper leaves to attention in the language model",
)
def st_simdiff(
    tokens: VideoTokens,
    budget: int,
    *,
    tau_sim: Annotated[float, -1, 1] = 0.8,
    tau_diff: Annotated[float, -1, 1] = 0.2,
) -> Reduction:
    """Drop the least central patches of communities of similar patches, and never, while others are left, an event.

    Edges lead to the same place one frame on and to the patches on the right and below, where the cosine reaches
    `tau_sim`; communities are the connected components. A patch is an event if its cosine to the same place one frame
    before is below `tau_diff`. Central is who has a high mean cosine to all members, itself included. With p = 1 - K/M,
    the communities of two or more are gone through by falling mean of that cosine: of the ceil(p * size) least central
    members those that are no events go, and it ends before the community that would bring more than M - K down. What
    is then still above the budget goes by its best cosine to any of its up to six neighbours, the highest first, and
    events last. Ties keep the earlier frame and the lower patch.

    The paper keeps the most central of every community and lets attention inside the language model do the rest; its
    code stops early, as here. The cost is four passes over the tokens, memory one float32 copy.

    >>> still = VideoTokens(torch.ones(4, 2, 2, 8))
    >>> st_simdiff(still, 3).anchor.tolist()
    [0, 1, 2]
    """
    edges = _edges(tokens.values)
    event = edges[0].roll(1, 0) < tau_diff
    event[0] = False
    event = event.flatten()
    closest = torch.stack([each.maximum(each.roll(1, axis)) for axis, each in enumerate(edges)]).amax(0).flatten()
    group = _components(edges, tau_sim)
    size = torch.bincount(group)
    rows = unit(tokens.values.flatten(0, 2).float())
    mean = group_means(rows, group, len(size))
    whole = even(mean.square().sum(1))  # mean cosine of all members to each other
    central = even(torch.cat([(rows[part] * mean[group[part]]).sum(1) for part in blocks(rows)]))
    central = torch.where(size[group] == 2, whole[group], central)  # the two are equally central, up to rounding
    surplus = tokens.total - budget
    quota = torch.where(size > 1, -(-surplus * size // tokens.total), 0)
    place = ranks_within(group, central)  # the most central first
    gone = (place >= (size - quota)[group]) & ~event
    loss = torch.bincount(group[gone], minlength=len(size))
    queue = top(whole, len(size))
    spared = queue[loss[queue].cumsum(0) > surplus]
    gone &= ~torch.isin(group, spared)
    worth = torch.where(event, 4 - closest, -closest).masked_fill(gone, -torch.inf)
    return prune(tokens, top(worth, budget))


def _edges(values: Tensor) -> list[Tensor]:
    """Three times (T, h, w): the cosine to the next patch along time, rows and columns; -inf at the end."""
    found = [torch.full(values.shape[:3], -torch.inf, device=values.device) for _ in range(3)]
    for axis, apart in enumerate(differences(values)[1:]):
        size = apart.shape[axis] - 1
        found[axis].narrow(axis, 0, size).copy_(1 - apart.narrow(axis, 1, size))
    return found


def _components(edges: list[Tensor], tau: float) -> Tensor:
    """(M,) the community of each patch, numbered by its first patch."""
    total, (_, height, width) = edges[0].numel(), edges[0].shape
    starts = [(each.flatten() >= tau).nonzero().flatten().cpu().numpy() for each in edges]
    stops = [first + step for first, step in zip(starts, (height * width, width, 1), strict=True)]
    start, stop = np.concatenate(starts), np.concatenate(stops)
    graph = sparse.coo_array((np.ones(len(start)), (start, stop)), shape=(total, total))
    label = sparse.csgraph.connected_components(graph, directed=False)[1]
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort(kind="stable").argsort()[label]).to(edges[0].device)
