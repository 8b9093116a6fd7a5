"""V-CAST: frames where the clip's course bends get more of the budget; in each, distinctive and strong patches stay."""

import torch

from vtc_lab.reducers.ops import apportion, blocks, cosine, even, frame_means, length, minmax, prune, ranks
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_STILL = 1e-5  # shorter steps between unit means are rounding
_TEMPERATURE = 0.7


@method(paper="arXiv 2603.27650", year=2026)
def v_cast(tokens: VideoTokens, budget: int) -> Reduction:
    """Share the budget by the curvature of the frames' means, and keep what is unlike its frame or has a long vector.

    With f the unit mean of a frame, its curvature is c = 1 - cos(f[t] - f[t-1], f[t+1] - f[t]), 1 for the first and the
    last. Every frame has one token (none if K < T), the others are shared by softmax(c / 0.7), as whole numbers by
    largest remainder. In a frame, those patches stay whose 1 - cos(x, f) plus norm of x, scaled to 0..1 over the frame,
    is highest; ties to the lower patch.

    The official code gives the whole remainder to one frame, and keeps a clip of one frame whole; neither is done here.
    Shares beyond a frame's patches go to the other frames in proportion. Where what matters has shorter vectors than
    the background, as with the bundled model, the norm keeps the background. The cost is two passes over the tokens.

    >>> v_cast(VideoTokens(torch.randn(4, 2, 2, 8)), 8).kept.flatten(1).any(1).tolist()
    [True, True, True, True]
    """
    frames, patches = len(tokens), tokens.total // len(tokens)
    mean = frame_means(tokens.values)
    step = torch.nn.functional.normalize(mean, dim=-1).diff(dim=0)
    step = step * (length(step) > _STILL)[:, None]
    bend = torch.ones(frames, dtype=torch.double, device=mean.device)
    bend[1:-1] = even(1 - cosine(step[1:], step[:-1])).double()
    least = int(budget >= frames)
    count = least + apportion((bend / _TEMPERATURE).softmax(0), budget - least * frames, patches - least)
    score = []
    for part in blocks(tokens.values):
        rows = tokens.values[part].flatten(1, 2).float()
        score.append(even(1 - cosine(rows, mean[part, None])) + minmax(length(rows)))
    return prune(tokens, (ranks(torch.cat(score)) < count[:, None]).flatten().nonzero().flatten())
