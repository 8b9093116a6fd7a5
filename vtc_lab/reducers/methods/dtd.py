"""DTD, differential token dropping (TimeChat-Online): drop a patch that looks as it did one frame before."""

from typing import Annotated, Literal

import torch

from vtc_lab.reducers.ops import difference, prune, ranks, shares, top
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2504.17343",
    year=2025,
    minimum=("the whole first frame", lambda frames, patches, options: patches),
    instead="tau",
)
def dtd(
    tokens: VideoTokens,
    budget: int | None = None,
    *,
    tau: Annotated[float | None, -1, 1] = None,
    scope: Literal["clip", "frame"] = "clip",
) -> Reduction:
    """Drop the patches whose cosine to the same place one frame before is above `tau`; the first frame stays whole.

    With `tau`, as in the paper, the clip decides how much stays. With a budget, the patches of lowest cosine stay, ties
    to the earlier frame and the lower patch: of the whole clip, where `evs` keeps the same ones (the two papers differ
    in what they compare; EVS: pixels), or, with scope "frame", equally many of each later frame, as in the authors'
    relative mode. The cost is one pass over the tokens.

    >>> still = VideoTokens(torch.ones(4, 2, 2, 8))
    >>> len(dtd(still, tau=0.9)), len(dtd(still, 6))
    (4, 6)
    >>> dtd(still, 7, scope="frame").kept.flatten(1).sum(1).tolist()
    [4, 1, 1, 1]
    """
    change = difference(tokens.values)
    if tau is not None:
        return prune(tokens, (1 - change <= tau).flatten().nonzero().flatten())
    assert budget is not None  # `reduce` sees to it
    if scope == "clip":
        return prune(tokens, top(change.flatten(), budget))
    count, patches = change.shape
    share = torch.full((count,), patches)
    if count > 1:
        share[1:] = shares(budget - patches, count - 1)
    return prune(tokens, (ranks(change) < share.to(change.device)[:, None]).flatten().nonzero().flatten())
