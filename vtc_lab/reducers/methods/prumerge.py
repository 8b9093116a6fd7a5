"""PruMerge+: salient and strided patches, each with those like it added, and one token for what is left."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import add, attention, cosines, ranks, shares, top
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS = 32
_STRIDED = 3  # "+" takes about three strided tokens for each salient one


@method(paper="arXiv 2403.15388", year=2024, needs="attention", kind="merges", instead="adaptive")
def prumerge(tokens: VideoTokens, budget: int | None = None, *, adaptive: bool = False) -> Reduction:
    """Keep each frame's most salient patches and a regular grid of others; add the rest to them.

    Of a frame's N patches the c most salient are kept, then every step-th from the first, step = int(int(N / c) / 3),
    that is not among them, and one token for what is left over. A kept token becomes itself plus saliency * token of
    those of its 32 nearest patches by cosine (kept ones take places among the 32) that are not kept and nearest to it
    among all that list them. What no kept token lists, and in any case the patch least like all kept ones, enters the
    extra token, the sum of saliency * token, anchored at that patch. With `adaptive` instead of a budget, as in the
    paper, c is the number of outliers of the frame's saliency (above the third quartile by 1.5 times the interquartile
    range; at least one).

    For a budget, c is the number that comes nearest to a frame's equal share; an even choice of the strided patches is
    then kept, or the next salient ones as well. A share of one token has no extra one: it is the most salient patch,
    and what it does not list is dropped; a frame without a share is dropped. In the paper a patch enters the sum of
    every token that lists it, kept or not, and every dropped one the extra token; here each enters one, because a
    reduction names one place for it. The authors' grid of 24x24 leaves out its last patch. It is a method for images,
    applied to each frame, and compares features, not attention keys. Cost: T * N^2 * D.
    """
    frames, saliency = tokens.values.flatten(1, 2), attention(tokens).float()
    patches, rank = frames.shape[1], ranks(saliency)
    own = torch.arange(patches, device=rank.device)
    if adaptive:
        low, high = saliency.quantile(torch.tensor([0.25, 0.75], device=saliency.device), dim=1)
        salient = (saliency > (high + 1.5 * (high - low))[:, None]).sum(1).clamp(min=1)
        kept = (rank < salient[:, None]) | (own % _step(salient, patches)[:, None] == 0)
        share = kept.sum(1) + 1
    else:
        assert budget is not None  # `reduce` sees to it
        share = shares(budget, len(frames)).to(frames.device)
        tried = own[: -(-patches // (1 + _STRIDED))] + 1
        strided = own % _step(tried, patches)[:, None] == 0  # (tried, N)
        count = torch.stack([((row < tried[:, None]) | strided).sum(1) for row in rank])
        best = (count + 1 - share[:, None]).abs().argmin(1)
        kept = torch.where(share < patches, (share - 1).clamp(min=1), share).minimum(share)[:, None]
        # The salient ones first; then strided ones, spread out where they are too many; then the others by saliency.
        salient = rank <= best[:, None]
        strided = strided[best] & ~salient
        number, room = strided.sum(1, keepdim=True), (kept - best[:, None] - 1).clamp(min=0)
        turn = ((strided.cumsum(1) - 1) * room + number - 1) // number.clamp(min=1)
        spread = strided & (turn < room) & (turn * number // room.clamp(min=1) == strided.cumsum(1) - 1)
        strided = torch.where(number > room, spread, strided)
        kept = ranks(-(rank + patches * (~salient * (2 - strided.long())))) < kept
    each = [_homes(*frame) for frame in zip(frames, kept, (share > 1).tolist(), strict=True)]
    home, start = torch.stack(each), torch.arange(len(frames), device=rank.device)[:, None] * patches
    home = torch.where(home >= 0, home + start, -1).flatten()
    anchor = (home == torch.arange(tokens.total, device=home.device)).nonzero().flatten()
    weight = torch.where(kept, 1, saliency).flatten()
    return add(tokens, torch.where(home >= 0, torch.searchsorted(anchor, home), -1), weight, anchor)


def _step(salient: Tensor, patches: int) -> Tensor:
    return (patches // salient // _STRIDED).clamp(min=1)


def _homes(rows: Tensor, kept: Tensor, extra: bool) -> Tensor:
    """(N,) the patch that each patch of one frame is added to, itself if it is kept or the extra one, -1 if dropped."""
    own = torch.arange(len(rows), device=rows.device)
    centre, loose = kept.nonzero().flatten(), (~kept).nonzero().flatten()
    if not len(centre):
        return torch.full_like(own, -1)
    if not len(loose):
        return own
    alike = cosines(rows[centre].float(), rows.float()).masked_fill_(centre[:, None] == own, -torch.inf)
    listed = torch.zeros_like(alike, dtype=torch.bool).scatter_(1, top(alike, _NEIGHBOURS), True)[:, loose]
    alike = alike[:, loose]
    best = alike.masked_fill(~listed, -torch.inf).max(0)
    last = loose[alike.amax(0).argmin()]
    own[loose] = torch.where(best.values.isinf(), last if extra else torch.full_like(last, -1), centre[best.indices])
    if extra:
        own[last] = last
    return own
