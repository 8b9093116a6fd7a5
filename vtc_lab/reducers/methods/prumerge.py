"""PruMerge+: salient and strided patches, each merged with those like it, and one token for what is left."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import attention, gather, ranks, shares, top, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS = 32
_STRIDED = 3  # "+" takes three strided tokens for each salient one


@method(paper="arXiv 2403.15388", year=2024, needs="attention", kind="merges", instead="adaptive")
def prumerge(tokens: VideoTokens, budget: int | None = None, *, adaptive: bool = False) -> Reduction:
    """Keep each frame's most salient patches and three times as many strided ones; merge the rest into them.

    Of a frame's equal share, one token is set apart for what is left over; of the others a quarter (at least one) are
    the patches of highest saliency and the rest evenly strided among the remaining ones. A kept token becomes the mean,
    weighted by saliency, of itself and of those of its 32 nearest dropped patches by cosine that are nearest to it
    among all that list them. What no kept token lists, and in any case the patch least like all kept ones, merges into
    the extra token, anchored at that patch. A share of one token has no extra one: it is the most salient patch, and
    what it does not list is dropped; a frame without a share is dropped. With `adaptive` instead of a budget, as in the
    paper, a frame's salient patches are the outliers of its saliency (above the third quartile by 1.5 times the
    interquartile range; at least one).

    The paper lets a patch enter several sums, and all dropped ones the extra token; here it enters one, because a
    reduction names one place for each token. The paper's sums of saliency * token depend on the scale of a tower's
    attention; weights are normalised here, so that ratio 1 is the identity. It is a method for images, applied to each
    frame, and compares features, not attention keys. Cost: T * N^2 * D.
    """
    frames, saliency = tokens.values.flatten(1, 2), attention(tokens).float()
    patches = frames.shape[1]
    if adaptive:
        low, high = saliency.quantile(torch.tensor([0.25, 0.75], device=saliency.device), dim=1)
        salient = (saliency > (high + 1.5 * (high - low))[:, None]).sum(1).clamp(min=1)
        share = (salient * (1 + _STRIDED) + 1).clamp(max=patches)
    else:
        assert budget is not None  # `reduce` sees to it
        share = shares(budget, len(frames)).to(frames.device)
        salient = ((share - 1) / (1 + _STRIDED)).round().long().clamp(min=1)
    rank = ranks(saliency)
    each = [_frame(frames[t].float(), rank[t], int(salient[t]), int(share[t])) for t in range(len(frames))]
    home, start = torch.stack(each), torch.arange(len(frames), device=rank.device)[:, None] * patches
    return gather(tokens, torch.where(home >= 0, home + start, -1).flatten(), saliency.flatten())


def _frame(rows: Tensor, rank: Tensor, salient: int, share: int) -> Tensor:
    """(N,) the patch that each patch of one frame merges into, itself if it is kept; -1 if the share is 0."""
    own = torch.arange(len(rows), device=rows.device)
    if not share:
        return torch.full_like(own, -1)
    kept = rank < min(salient, max(1, share - 1))
    others = (~kept).nonzero().flatten()
    count = max(0, share - 1 - int(kept.sum()))
    kept[others[torch.arange(count, device=rows.device) * len(others) // max(1, count)]] = True
    centre, loose = kept.nonzero().flatten(), (~kept).nonzero().flatten()
    if not len(loose):
        return own
    direction = unit(rows)
    alike = direction[loose] @ direction[centre].T  # (loose, kept)
    listed = torch.zeros_like(alike, dtype=torch.bool)
    listed.scatter_(0, top(alike.T, _NEIGHBOURS).T, True)
    best = alike.masked_fill(~listed, -torch.inf).max(1)
    extra = loose[alike.amax(1).argmin()]
    unlisted = extra if share > 1 else torch.full_like(extra, -1)
    own[loose] = torch.where(best.values.isinf(), unlisted, centre[best.indices])
    if share > 1:
        own[extra] = extra
    return own
