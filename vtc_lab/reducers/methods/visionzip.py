"""VisionZip: the patches that the encoder attends to, and a few that stand for the rest of the frame."""

from typing import Annotated

import torch

from vtc_lab.reducers.ops import add, attention, nearest, ranks, shares
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_CONTEXTUAL = 10 / 64  # the paper keeps 54 dominant and 10 contextual tokens


@method(paper="arXiv 2412.04467", year=2024, needs="attention", kind="merges")
def visionzip(tokens: VideoTokens, budget: int, *, sink: Annotated[float, 0, 100] = 0.0) -> Reduction:
    """Keep each frame's most salient patches and merge the others into evenly strided ones of the rest.

    A frame's equal share of the budget is split into dominant and contextual tokens as 54 to 10. Dominant are its
    patches of highest saliency (ties to the lower patch), as they are. The rest, in raster order, gives every step-th
    patch as a target; each other one goes to the target of highest cosine, and a target becomes itself plus the mean of
    those that came. That is a sum, as in the official code, so a merged token is longer than its members: the weights
    of a group sum to 2. The original compares attention keys; they do not come with tokens, so features are compared.
    Frames without a share are dropped; a frame without contextual tokens drops its rest. Cost: T * N^2 * D.

    `sink` times `sinks` is taken off the saliency (SToP, arXiv 2604.20937, takes 0.03); its step over the strongest
    sinks when targets are chosen is left out.
    """
    frames = tokens.values.flatten(1, 2)
    share = shares(budget, len(frames)).to(frames.device)
    contextual = (share * _CONTEXTUAL).round().long()
    dominant = ranks(attention(tokens, sink)) < (share - contextual)[:, None]
    rest = ~dominant
    order = rest.cumsum(1) - 1  # among the rest of its frame
    step = (rest.sum(1) // contextual.clamp(min=1)).clamp(min=1)[:, None]
    target = rest & (order % step == 0) & (order // step < contextual[:, None])
    own = torch.arange(tokens.total, device=frames.device).view_as(target)
    home = torch.where(dominant, own, nearest(frames, target)).flatten()
    anchor = (dominant | target).flatten().nonzero().flatten()
    group = torch.where(home >= 0, torch.searchsorted(anchor, home.clamp(min=0)), -1)
    guests = torch.bincount(group[group >= 0], minlength=len(anchor)) - 1
    weight = torch.where(home == own.flatten(), 1.0, 1.0 / guests[group].clamp(min=1))
    return add(tokens, group, weight, anchor)
