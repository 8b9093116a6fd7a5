"""FrameFusion, merge stage: join the same place of consecutive frames where it changed least."""

from typing import Annotated

import torch

from vtc_lab.reducers.ops import difference, gather, top
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2501.01986",
    year=2024,
    kind="merges",
    minimum=("one token of every position", lambda frames, patches, options: patches),
    instead="threshold",
)
def framefusion(
    tokens: VideoTokens, budget: int | None = None, *, threshold: Annotated[float | None, -1, 1] = None
) -> Reduction:
    """Merge each position's runs of similar consecutive frames into plain means, anchored at their first token.

    Every token is joined to the one at the same position one frame before by an edge of weight cos; the strongest
    M - K edges are contracted, ties to the earlier frame and the lower patch; with `threshold` instead of a budget, as
    in the paper (0.6), all edges above it. The original merges inside the language model's first layers, on hidden
    states, and prunes by attention further in; this is its merge stage on the tokens that enter. The cost is two passes
    over the tokens.

    >>> still = VideoTokens(torch.ones(4, 2, 2, 8))
    >>> framefusion(still, 4).anchor.tolist(), len(framefusion(still, threshold=0.6))
    ([0, 1, 2, 3], 4)
    """
    alike = 1 - difference(tokens.values)[1:]
    if threshold is not None:
        joined = alike > threshold
    else:
        assert budget is not None  # `reduce` sees to it
        joined = torch.zeros_like(alike, dtype=torch.bool)
        joined.view(-1)[top(alike.flatten(), tokens.total - budget)] = True
    # A token's home is the latest token of its position that was not joined to the one before.
    place = torch.arange(tokens.total, device=joined.device).view(len(tokens), -1)
    start = torch.cat([place[:1], torch.where(joined, 0, place[1:])])
    return gather(tokens, start.cummax(0).values.flatten())
