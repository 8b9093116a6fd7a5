"""LFTR in one ranking: a significance of every token in time and space, and what becomes of those below the cut."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import attention, blocks, even, gather, nearest, prune, ranks, top
from vtc_lab.tokens import Reduction, VideoTokens

_TINY = 1e-30  # beside the squares of features; makes two zero vectors alike, and one zero vector like no other
_SQUARES = (1e-20, 1e30)  # the largest square of a length is neither lost beside the last nor near infinity
_LEAST = 2.0**-10  # of each factor, so that one that is 0 everywhere does not hide the others
_SAME = 0.1  # difference up to which a patch says the same as the one before it


def keep_jointly(
    tokens: VideoTokens, budget: int, significance: str, temporal: str, allocation: str, dropped: str
) -> Reduction:
    """Keep the tokens of largest significance in time and space; the options are those of `lftr`."""
    change, score = joint_significance(tokens, significance)
    if allocation == "per-frame":
        share = torch.full_like(score[:, 0], budget // len(score), dtype=torch.long)
        share[top(score.mean(1), budget % len(score))] += 1
        kept = ranks(score) < share[:, None]
    else:
        kept = torch.zeros_like(score, dtype=torch.bool)
        kept.view(-1)[top(score.flatten(), budget)] = True
    if temporal == "select" and dropped == "prune":
        return prune(tokens, kept.flatten().nonzero().flatten())
    home = torch.where(kept.flatten(), torch.arange(kept.numel(), device=kept.device), -1).view_as(kept)
    if temporal == "merge":
        home = _carried(home, change <= _SAME)
    if dropped == "merge":
        home = torch.where(home < 0, nearest(tokens.values.flatten(1, 2), kept), home)
    return gather(tokens, home.flatten(), score.flatten())


def joint_significance(tokens: VideoTokens, kind: str) -> tuple[Tensor, Tensor]:
    """Return (T, N) differences from the frame before, inf in the first frame, and the significance of each token.

    >>> tokens = VideoTokens(torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]]).view(1, 2, 2, 2))
    >>> joint_significance(tokens, "neighbours")[1].round(decimals=2).tolist()
    [[0.5, 0.0, 1.0, 0.5]]
    """
    distinct, change, up, left = differences(tokens.values)
    change = change.flatten(1)
    score = _beside(up, left).flatten(1) + _LEAST
    if kind == "distinct":
        score = score * (distinct.flatten(1) + _LEAST)
    if kind == "attention":
        score = score * attention(tokens).float()
    return change, score * (_novelty(change, score) + _LEAST).sqrt().sqrt()


def _novelty(change: Tensor, score: Tensor) -> Tensor:
    """Return the least difference from the neighbours in time of higher score, 1 where there is none; all (T, N)."""
    novelty, step = torch.ones_like(score), change[1:].clamp(max=1)
    rises = score[1:] > score[:-1]  # the later one is the stronger
    novelty[1:] = step.masked_fill(rises, 1)
    novelty[:-1] = novelty[:-1].minimum(step.masked_fill_(~rises, 1))
    return novelty


def differences(values: Tensor) -> tuple[Tensor, ...]:
    """Return (T, h, w) four times: 1 - cosine to the mean of the frame, the frame before, the patch above and the left.

    In the first frame, row and column they are inf, 0 and 0. On a GPU, work is launched some thirty times for them,
    however many frames there are.
    """
    frames, height, width, _ = values.shape
    patches = height * width
    lags = {2: patches, 3: width, 4: 1}  # how far back in raster order the frame before, the row above, the left are
    products = torch.zeros(5, frames * patches, device=values.device)  # with itself, the frame's mean, and with those
    mean = torch.empty(frames, 1, values.shape[3], device=values.device)  # made once, as are all that outlive a block
    for part in blocks(values):
        begin = max(part.start - 1, 0)
        rows = values[begin : part.stop].float().flatten(0, 2)[:, None]
        lead, found = (part.start - begin) * patches, products[:, begin * patches : part.stop * patches, None, None]
        inside = rows[lead:].view(-1, patches, rows.shape[2])
        torch.mean(inside, 1, keepdim=True, out=mean[part])
        torch.bmm(rows[lead:], rows[lead:].mT, out=found[0, lead:])
        torch.bmm(mean[part], inside.mT, out=found[1, lead:].view(-1, 1, patches))
        for number, lag in lags.items():
            skip = max(lead, lag)
            torch.bmm(rows[skip:], rows[skip - lag : len(rows) - lag].mT, out=found[number, skip:])
    if not _SQUARES[0] < float(products[0].amax()) < _SQUARES[1] and (peak := float(values.abs().amax())):
        return differences(values / peak)
    scale, mean_scale = products.add_(_TINY)[0].rsqrt(), (mean @ mean.mT).add_(_TINY).rsqrt_().flatten()
    products[1:].mul_(scale)
    products[1].view(frames, -1).mul_(mean_scale[:, None])
    for number, lag in lags.items():
        products[number, lag:].mul_(scale[:-lag])
    distinct, change, up, left = even(1 - products[1:]).clamp_(min=0).view(4, frames, height, width)
    change[0] = torch.inf
    up[:, 0] = left[:, :, 0] = 0
    return distinct, change, up, left


def _beside(up: Tensor, left: Tensor) -> Tensor:
    """(T, h, w) the mean difference from the up to 4 neighbours in the frame, 1 without any."""
    _, height, width = up.shape
    beside = up + left
    beside[:, :-1].add_(up[:, 1:])
    beside[:, :, :-1].add_(left[:, :, 1:])
    if height * width == 1:
        beside += 1
    count = [[(y > 0) + (y < height - 1) + (x > 0) + (x < width - 1) for x in range(width)] for y in range(height)]
    return beside / torch.tensor(count, device=up.device).clamp(min=1)


def _carried(home: Tensor, same: Tensor) -> Tensor:
    """Return home with each dropped token in the home of the one before it, where it says the same."""
    frames = torch.arange(len(home), device=home.device)[:, None]
    begins = torch.where((home >= 0) | ~same, frames, 0)
    return home.gather(0, begins.cummax(0).values)
