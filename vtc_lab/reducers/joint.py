"""LFTR in one ranking: a significance of every token in time and space, and what becomes of those below the cut."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import attention, blocks, even, gather, nearest, prune, ranks, top
from vtc_lab.tokens import Reduction, VideoTokens

_TINY = 1e-30  # beside the squares of features; makes two zero vectors alike, and one zero vector like no other
_SQUARES = (1e-10, 1e15)  # largest values whose squares are neither lost beside the last nor infinite in float32
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
    values = tokens.values
    peak = max(float(end.abs()) for end in values.aminmax())
    if not _SQUARES[0] < peak < _SQUARES[1]:
        values = values / (peak or 1)
    distinct, apart, change = _differences(values).flatten(2)
    score = apart + _LEAST
    if kind == "distinct":
        score = score * (distinct + _LEAST)
    if kind == "attention":
        score = score * attention(tokens).float()
    return change, score * (_novelty(change, score) + _LEAST).sqrt().sqrt()


def _novelty(change: Tensor, score: Tensor) -> Tensor:
    """Return the least difference from the neighbours in time of higher score, 1 where there is none; all (T, N)."""
    novelty, step = torch.ones_like(score), change[1:].clamp(max=1)
    rises = score[1:] > score[:-1]  # the later one is the stronger
    novelty[1:] = torch.where(rises, novelty[1:], step)
    novelty[:-1] = torch.where(rises, novelty[:-1].minimum(step), novelty[:-1])
    return novelty


def _differences(values: Tensor) -> Tensor:
    """Return (3, T, h, w): 1 - cosine to the mean of the frame, to the 4 neighbours on average, to the frame before."""
    frames, height, width, _ = values.shape
    # Inner products with itself, the frame's mean, the frame before, the neighbour above and the one on the left.
    dots = torch.zeros(5, frames, height, width, device=values.device)
    means = torch.empty(frames, device=values.device)
    for part in blocks(values):
        x, low = values[part].float(), max(part.start, 1)
        mean = x.mean((1, 2))
        means[part] = (mean * mean).sum(-1)
        dots[0, part] = (x * x).sum(-1)
        dots[1, part] = (x.flatten(1, 2) @ mean[..., None]).view(-1, height, width)
        dots[2, low : part.stop] = (x[low - part.start :] * values[low - 1 : part.stop - 1]).sum(-1)
        dots[3, part, 1:] = (x[:, 1:] * x[:, :-1]).sum(-1)
        dots[4, part, :, 1:] = (x[:, :, 1:] * x[:, :, :-1]).sum(-1)
    scale, mean_scale = ((squares + _TINY).rsqrt() for squares in (dots[0], means))
    other = torch.ones_like(dots[1:])
    other[0] = mean_scale[:, None, None]
    other[1, 1:], other[2, :, 1:], other[3, :, :, 1:] = scale[:-1], scale[:, :-1], scale[:, :, :-1]
    distinct, change, up, left = even(1 - (dots[1:] + _TINY) * scale * other).clamp(min=0)
    change[0] = torch.inf
    up[:, 0] = left[:, :, 0] = 0
    beside = up + left
    beside[:, :-1] += up[:, 1:]
    beside[:, :, :-1] += left[:, :, 1:]
    if height * width == 1:
        beside += 1  # a patch without neighbours is like none
    count = [[(y > 0) + (y < height - 1) + (x > 0) + (x < width - 1) for x in range(width)] for y in range(height)]
    return torch.stack([distinct, beside / torch.tensor(count, device=values.device).clamp(min=1), change])


def _carried(home: Tensor, same: Tensor) -> Tensor:
    """Return home with each dropped token in the home of the one before it, where it says the same."""
    frames = torch.arange(len(home), device=home.device)[:, None]
    begins = torch.where((home >= 0) | ~same, frames, 0)
    return home.gather(0, begins.cummax(0).values)
