"""DyCoke, temporal token merging stage: groups of four frames, of which one stays whole."""

from typing import Annotated

import torch

from vtc_lab.reducers.ops import changes, prune, ranks, shares, sizes
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_GROUP = 4


@method(
    paper="arXiv 2411.15024",
    year=2024,
    minimum=("every fourth frame whole", lambda frames, patches, options: -(-frames // _GROUP) * patches),
    instead="k",
)
def dycoke(tokens: VideoTokens, budget: int | None = None, *, k: Annotated[float | None, 0, 1] = None) -> Reduction:
    """Keep the first of every four frames whole, and of the others the patches that differ most from one before.

    In a group f0 f1 f2 f3, f1 is compared with f0, f3 with f2, and f2 with f0, patch by patch; each keeps its patches
    of lowest cosine. A budget is shared equally among these frames (shares differ by at most one); with `k` instead,
    as in the paper (0.7), each keeps int((1 - k) * N) of its N patches. A last group of fewer frames is treated alike.
    The official code drops an odd last frame, leaves the last f2 unpruned and puts tokens out of order, and its second
    stage prunes the KV cache while decoding; none of that is done here.

    >>> dycoke(VideoTokens(torch.randn(4, 2, 2, 8)), 7).kept.flatten(1).sum(1).tolist()
    [4, 1, 1, 1]
    """
    frames = tokens.values.flatten(1, 2)
    count, patches = frames.shape[:2]
    thinned = torch.arange(count) % _GROUP > 0
    share, number = torch.full((count,), patches), int(thinned.sum())
    if k is not None:
        share[thinned] = int((1 - k) * patches)
    elif number:
        assert budget is not None  # `reduce` sees to it
        share[thinned] = shares(budget - (count - number) * patches, number)
    change, own = torch.zeros(count, patches, device=frames.device), sizes(frames)
    for place, other in ((1, 0), (2, 0), (3, 2)):
        later = frames[place::_GROUP]
        pair = slice(place, None, _GROUP), slice(other, other + _GROUP * len(later), _GROUP)
        change[pair[0]] = changes(later, frames[pair[1]], (own[pair[0]], own[pair[1]]))
    return prune(tokens, (ranks(change) < share.to(change.device)[:, None]).flatten().nonzero().flatten())
