"""TTF, temporal token fusion: one frame stays whole, and of the others what is not seen around the same place in it."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, cosine, even, frame_means, gather, top, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2605.07355",
    year=2026,
    kind="merges",
    minimum=("one frame whole", lambda frames, patches, options: patches),
    instead="tau",
)
def ttf(tokens: VideoTokens, budget: int | None = None, *, tau: Annotated[float | None, -1, 1] = None) -> Reduction:
    """Keep the frame most like the clip's mean whole, and of the others the patches that are least like its patches.

    The anchor is the frame whose mean has the highest cosine to the mean of all tokens, the earliest on ties. Every
    other patch is compared with the anchor's 3 x 3 patches around its place, fewer at the border; those whose best
    cosine is lowest stay, ties to the earlier frame and the lower patch. With `tau` instead of a budget, as in the
    paper (0.7 for Qwen3-VL-8B), those stay whose best cosine is at most `tau`.

    A dropped patch is replaced by its best anchor patch, without averaging: it goes there with weight 0. The paper puts
    the anchor frame first; here tokens are in order of time. Its code is not published. Cost: 9 * M * D.

    >>> still = VideoTokens(torch.ones(4, 2, 2, 8))
    >>> len(ttf(still, tau=0.7)), ttf(still, 5).anchor.tolist()
    (4, [0, 1, 2, 3, 4])
    """
    frames, patches = len(tokens), tokens.total // len(tokens)
    mean = frame_means(tokens.values)
    anchor = int(top(even(cosine(mean, mean.mean(0))), 1))
    far, seen = _around(tokens.values, tokens.values[anchor])
    far[anchor] = torch.inf
    if tau is not None:
        kept = (1 - far <= tau).flatten()
    else:
        assert budget is not None  # `reduce` sees to it
        kept = torch.zeros(tokens.total, dtype=torch.bool, device=far.device)
        kept[top(far.flatten(), budget)] = True
    place = torch.arange(frames * patches, device=far.device)
    return gather(tokens, torch.where(kept, place, anchor * patches + seen.flatten()), kept.float())


def _around(values: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """(T, h, w) each: 1 - the best cosine to the anchor's 3 x 3 patches around the place, and which patch that is."""
    height, width = anchor.shape[:2]
    number = torch.arange(height * width, device=values.device).view(height, width)
    anchor = unit(anchor.float())
    far = torch.full(values.shape[:3], torch.inf, device=values.device)
    seen = torch.zeros_like(far, dtype=torch.long)
    shifts = [(*_overlap(dy, height), *_overlap(dx, width)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for part in blocks(values):
        rows = unit(values[part].float())
        for y, there_y, x, there_x in shifts:
            apart = even(1 - (rows[:, y, x] * anchor[there_y, there_x]).sum(-1))
            least, which = far[part][:, y, x], seen[part][:, y, x]  # views
            which.copy_(torch.where(apart < least, number[there_y, there_x], which))
            least.copy_(torch.minimum(apart, least))
    return far, seen


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """The places along an axis that have a neighbour at this shift, and those neighbours."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))
