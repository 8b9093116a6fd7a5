"""EarlyTom's selection: alike frames within a segment merge, its ends keep salient patches, its middle spread ones."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.ops import attention, changes, even, gather, normalise, ranks, shares, weighted_sums
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_LONGEST, _NEWEST = 5, 0.9  # frames of a segment; weight of the newest cosine in the moving average


@method(
    paper="arXiv 2605.30010",
    year=2026,
    needs="attention",
    kind="merges",
    ours="its place: on encoded tokens, merging once; that the weakest merges are undone where the budget needs it",
)
def earlytom(tokens: VideoTokens, budget: int, *, tau: Annotated[float, -1, 1] = 0.8) -> Reduction:
    """Merge pairs of like frames inside segments; keep salient patches at a segment's ends, spread ones in between.

    A frame joins the running segment of at most 5 frames while the moving average of its mean patch cosine to the
    segment's first frame, e = 0.9 * cos + 0.1 * e from e = 1, is at least `tau` (0.8 on MVBench and 0.3 to 0.6 on
    VideoMME in the paper). Between the first and the last frame of a segment, frames i and i + 1 merge if the cosine
    s[i] of i to the next frame is positive, above that of the segment's first to its last and above s[i + 1], into
    their mean weighted by s[i] and s[i + 1] (0 if negative), and so does their saliency. Then segments are cut anew.
    Frames have equal shares of the budget: the first and the last of a segment keep their most salient patches, the
    others the most salient of each of as many equal windows in raster order. Ties go to the lower patch.

    This works on the tokens that come out of the vision tower, and merges once. The original merges inside it, after
    three of its layers, and so saves time there; that is `vtc.reduce_clip(..., "earlytom", stage="both")`. Its text
    takes cosines to the frame before, its code, as here, to the segment's first; its code also loses the last of two or
    more middle frames. Cost: 10 * M * D.

    >>> still = VideoTokens(torch.ones(4, 2, 2, 8), torch.rand(4, 2, 2))
    >>> earlytom(still, 4).kept.flatten(1).sum(1).tolist()
    [1, 1, 1, 1]
    """
    frames = tokens.values.flatten(1, 2)
    patches = frames.shape[1]
    group, share = merges(frames, tau, (tokens.total - budget) // patches)
    rows, saliency = (mixed(each, group, share) for each in (frames, attention(tokens).float()[..., None]))
    kept = select(saliency[..., 0], segments(rows, tau), budget)
    return gather(tokens, homes(kept, group), share.repeat_interleave(patches))


def merges(frames: Tensor, tau: float, most: int) -> tuple[Tensor, Tensor]:
    """Return (T,) each: which merged frame each frame (T, N, D) goes into, and its share; at most so many pairs."""
    alike = _cosines(frames)
    lead, weight = _merge(alike, _starts(alike, tau), most)
    first, group = lead.unique(return_inverse=True)
    return group.to(frames.device), normalise(weight, group, len(first)).to(frames.device)


def mixed(frames: Tensor, group: Tensor, share: Tensor) -> Tensor:
    """Return (T', N, D) the sums of frames (T, N, D) of the same group (T,), times their share (T,)."""
    patches, count = frames.shape[1], int(group[-1]) + 1
    cell = group[:, None] * patches + torch.arange(patches, device=group.device)
    sums = weighted_sums(frames, cell.flatten(), share.repeat_interleave(patches), count * patches)
    return sums.view(count, patches, -1)


def segments(frames: Tensor, tau: float) -> Tensor:
    """Return (T,) the first frame of the segment of each frame (T, N, D)."""
    return torch.tensor(_starts(_cosines(frames), tau), device=frames.device)


def homes(kept: Tensor, group: Tensor) -> Tensor:
    """Return (M,) the raster index of the token that each token goes into, by (T', N) bool; -1 where none stays."""
    place = torch.arange(kept.shape[1], device=kept.device)
    first = torch.searchsorted(group, torch.arange(len(kept), device=kept.device))
    return torch.where(kept, first[:, None] * len(place) + place, -1)[group].flatten()


def _cosines(frames: Tensor) -> list[list[float]]:
    """At [t][d] the mean patch cosine of frames t and t - d, d below 5."""
    found = torch.ones(len(frames), _LONGEST)
    for step in range(1, min(_LONGEST, len(frames))):
        found[step:, step] = even(1 - changes(frames[step:], frames[:-step]).mean(1)).cpu()
    return found.tolist()


def _starts(alike: list[list[float]], tau: float) -> list[int]:
    """The first frame of each frame's segment."""
    start, average = [0], 1.0
    for t in range(1, len(alike)):
        length = t - start[-1]
        if length < _LONGEST:
            average = _NEWEST * alike[t][length] + (1 - _NEWEST) * average
        if length == _LONGEST or average < tau:
            average, length = 1.0, 0
        start.append(t - length)
    return start


def _merge(alike: list[list[float]], start: list[int], most: int) -> tuple[Tensor, Tensor]:
    """(T,) each: the frame that each frame merges into, and its weight; at most so many pairs, the most alike."""
    pairs = []
    for first in sorted({*start}):
        last = first + start.count(first) - 1
        i = first + 1
        while i + 1 < last:
            now, after = alike[i + 1][1], alike[i + 2][1]
            pair = now > max(alike[last][last - first], after, 0)
            if pair:
                pairs.append((now, after, i))
            i += 1 + pair
    lead, weight = torch.arange(len(start)), torch.ones(len(start))
    for now, after, i in sorted(pairs, key=lambda pair: -pair[0])[:most]:
        lead[i + 1] = i
        weight[i], weight[i + 1] = now, max(after, 0)
    return lead, weight


def select(saliency: Tensor, start: Tensor, budget: int) -> Tensor:
    """Return (T', N) bool: the patches that stay of each frame, the most salient or the best of as many windows.

    `start` is (T',) the first frame of each frame's segment, and the saliency (T', N).
    """
    frames, patches = saliency.shape
    share = shares(budget, frames).to(start.device)
    time = torch.arange(frames, device=start.device)
    end = (start == time) | (start.roll(-1) != start)  # a segment's first or last frame
    end[-1] = True
    rank = ranks(saliency)
    window = torch.arange(patches, device=start.device) * share[:, None] // patches
    best = torch.full_like(rank, patches).scatter_reduce(1, window, rank, "amin")
    spread = (best.gather(1, window) == rank) & (share > 0)[:, None]
    return torch.where(end[:, None], rank < share[:, None], spread)
