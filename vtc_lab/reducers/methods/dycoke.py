"""DyCoke, temporal token merging stage: groups of four frames, of which one stays whole."""

from __future__ import annotations

from typing import Annotated

import torch

from vtc_lab.reducers.ops import pair_cosine, prune, ranks, shares
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_GROUP = 4


@method(
    paper="arXiv 2411.15024",
    year=2024,
    minimum=(
        "every fourth frame whole",
        lambda frames, patches, options: -(-frames // _GROUP) * patches,
    ),
    instead="k",
)
def dycoke(tokens: VideoTokens, budget: int | None = None, *, k: Annotated[float | None, 0, 1] = None) -> Reduction:
    """Keep the first of every four frames whole, and of the others the patches that differ most from one before.

    In a group f0 f1 f2 f3, f1 is compared with f0, f3 with f2, and f2 with f0, patch by patch; each keeps its patches
    of lowest cosine. A budget is shared equally among these frames (shares differ by at most one); a last group of
    fewer frames is treated alike. The official code drops an odd last frame, leaves the last f2 unpruned and puts
    tokens out of order; none of that is done here. Not here: the second stage, which prunes the KV cache while
    decoding.

    Parameters
    ----------
    tokens : (T, h, w, D) source.
    budget : K, from ceil(T / 4) whole frames to M.
    k : instead of a budget, the share of patches that those frames lose, 0 to 1 (the paper's mode; it uses 0.7).

    Returns
    -------
    Reduction that prunes.

    Raises
    ------
    VTCError
        From `reduce`, if a ratio and k are both given, or neither is.

    Examples
    --------
    >>> dycoke(VideoTokens(torch.randn(4, 2, 2, 8)), 7).kept.flatten(1).sum(1).tolist()
    [4, 1, 1, 1]
    """
    frames = tokens.values.flatten(1, 2)
    count, patches = frames.shape[:2]
    time = torch.arange(count, device=frames.device)
    thinned = time[time % _GROUP > 0]
    other = torch.where(thinned % _GROUP == 2, thinned - 2, thinned - 1)
    if budget is None:
        share = torch.full_like(thinned, round((1 - k) * patches))
    else:
        rest = budget - (count - len(thinned)) * patches
        share = shares(rest, len(thinned)).to(frames.device) if len(thinned) else thinned
    kept = torch.ones(count, patches, dtype=torch.bool, device=frames.device)
    kept[thinned] = ranks(-pair_cosine(frames, thinned, other)) < share[:, None]
    return prune(tokens, kept.flatten().nonzero().flatten())
