"""DivPrune: the subset of tokens whose two most similar members are as different as possible."""

from vtc_lab.reducers.clusters import most_diverse
from vtc_lab.reducers.ops import prune
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(paper="arXiv 2503.02175", year=2025)
def divprune(tokens: VideoTokens, budget: int) -> Reduction:
    """Keep a subset of the clip's tokens by greedy max-min on cosine distance.

    First the token farthest from its nearest neighbour, then always the one farthest from all that are kept; ties go
    to the lower index, distances being rounded to 2^-20. The whole clip is one set, as the original treats the visual
    tokens of one prompt. Cost: M^2 * D for the first pick and K * M * D for the others; memory one float32 copy.

    >>> import torch
    >>> ends = VideoTokens(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]).view(1, 2, 2, 2))
    >>> divprune(ends, 2).anchor.tolist()
    [0, 2]
    """
    return prune(tokens, most_diverse(tokens.values.flatten(0, 2).float(), budget))
