"""Unified spatiotemporal compression: salient patches unlike each other stay, clusters stand for the others."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import peak_of_each, pick_in_order
from vtc_lab.reducers.ops import attention, cosines, gather, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS, _BLOCK = 7, 256


@method(
    paper="arXiv 2603.21957",
    year=2026,
    needs="attention",
    kind="merges",
    ours="k = 7 in the clustering, and that salient patches fill up the first part where too few are unlike",
)
def unified(
    tokens: VideoTokens,
    budget: int,
    *,
    tau: Annotated[float, -1, 1] = 0.7,
    clusters: Annotated[float, 0, 1] = 0.3,
) -> Reduction:
    """Keep salient patches of the whole clip that are unlike each other, and merge the rest into clusters.

    Patches are gone through by falling saliency over all frames; one is kept if its cosine to every one kept before is
    below `tau`, until (1 - clusters) * K are. If there are too few, the most salient of the others make up for them.
    All that is left is clustered by density peaks (k = 7) into the other tokens of the budget, each the mean of the
    patches nearest to it by distance; without one (K = 1) it is dropped. Ties go to the earlier frame and the lower
    patch. The original also merges by the question's text inside the language model. Cost: M^2 * D in blocks.

    >>> still = VideoTokens(torch.ones(2, 2, 2, 8), torch.arange(8.0).view(2, 2, 2))
    >>> unified(still, 3).anchor.tolist()
    [0, 6, 7]
    """
    rows = tokens.values.flatten(0, 2)
    merged = round(clusters * budget)
    queue = attention(tokens).flatten().argsort(descending=True, stable=True)
    kept = _distinct(rows, queue, budget - merged, tau)
    others = queue[~torch.isin(queue, kept)]
    kept = torch.cat([kept, others[: budget - merged - len(kept)]])
    home = torch.full_like(queue, -1)
    home[kept] = kept
    rest = (home < 0).nonzero().flatten()
    size = torch.full_like(rest[:1], len(rest))
    home[rest] = peak_of_each(rows, rest, size, torch.full_like(size, merged), _NEIGHBOURS)
    return gather(tokens, home)


def _distinct(rows: Tensor, queue: Tensor, count: int, tau: float) -> Tensor:
    """The first `count` of the queue whose cosine to every earlier one of them is below tau."""
    kept, chosen = unit(rows[:0].float()), queue[:0]
    for part in queue.split(_BLOCK):
        fresh = unit(rows[part].float())
        clear = (cosines(fresh, kept) < tau).all(1)
        part, fresh = part[clear], fresh[clear]
        near = cosines(fresh, fresh) >= tau
        picked = pick_in_order(near[None])[0]
        kept, chosen = torch.cat([kept, fresh[picked]]), torch.cat([chosen, part[picked]])
        if len(chosen) >= count:
            break
    return chosen[:count]
