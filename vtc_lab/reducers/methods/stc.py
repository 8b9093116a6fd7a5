"""STC-Pruner, for streams: keep what differs from the frames before and from its own frame, without looking ahead."""

from typing import Annotated

import torch

from vtc_lab.reducers.ops import blocks, cosine, even, frame_means, prune, ranks, shares
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(paper="arXiv 2512.00891", year=2025, ours="alpha and window, which the pages at hand do not name")
def stc(
    tokens: VideoTokens, budget: int, *, alpha: Annotated[float, 0, 1] = 0.5, window: Annotated[int, 1, 64] = 8
) -> Reduction:
    """Keep each frame's patches that are least like the last `window` frames before it and least like their frame.

    The score is alpha * (1 - cos(x, mean of those frames' means)) + (1 - alpha) * (1 - cos(x, mean of its frame)); in
    the first frame, the second term alone. Every frame keeps an equal share, ties to the lower patch. Nothing depends
    on later frames, except through the budget. The paper's text also speaks of a product; its equation is a sum. The
    cost is two passes over the tokens.
    """
    frames = len(tokens)
    mean = frame_means(tokens.values)
    time = torch.arange(frames, device=mean.device)
    age = time[:, None] - time
    recent = ((age > 0) & (age <= window)).float()
    past = recent @ mean / recent.sum(1, keepdim=True).clamp(min=1)
    score = []
    for part in blocks(tokens.values):
        rows = tokens.values[part].flatten(1, 2).float()
        odd, new = 1 - cosine(rows, mean[part, None]), 1 - cosine(rows, past[part, None])
        score.append(torch.where(time[part, None] > 0, alpha * new + (1 - alpha) * odd, odd))
    share = shares(budget, frames).to(mean.device)
    return prune(tokens, (ranks(even(torch.cat(score))) < share[:, None]).flatten().nonzero().flatten())
