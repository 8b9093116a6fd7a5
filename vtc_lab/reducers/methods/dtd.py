"""DTD, differential token dropping (TimeChat-Online): drop a patch that looks as it did one frame before."""

from __future__ import annotations

from typing import Annotated

import torch

from vtc_lab.reducers.ops import prune, top
from vtc_lab.reducers.registry import method
from vtc_lab.reducers.significance import difference
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2504.17343",
    year=2025,
    minimum=("the whole first frame", lambda frames, patches, options: patches),
    instead="tau",
)
def dtd(tokens: VideoTokens, budget: int | None = None, *, tau: Annotated[float | None, -1, 1] = None) -> Reduction:
    """Drop the patches whose cosine to the same place one frame before is above a threshold; the first frame is whole.

    With `tau`, the paper's own mode, the clip decides how much stays. With a budget, the threshold is the one that
    leaves exactly K: the patches of lowest cosine, ties to the earlier frame and the lower patch. In that mode DTD
    keeps what `evs` keeps; the two differ in what their papers compare (EVS: pixels) and in how they are cut. The cost
    is one pass over the tokens.

    Parameters
    ----------
    tokens : (T, h, w, D) source.
    budget : K, from one frame, h * w, to M.
    tau : instead of a budget, the cosine above which a patch is dropped, -1 to 1.

    Returns
    -------
    Reduction that prunes.

    Raises
    ------
    VTCError
        From `reduce`, if a ratio and tau are both given, or neither is.

    Examples
    --------
    >>> still = VideoTokens(torch.ones(4, 2, 2, 8))
    >>> len(dtd(still, tau=0.9)), len(dtd(still, 6))
    (4, 6)
    """
    change = difference(tokens.values)
    change[0] = torch.inf
    if budget is None:
        return prune(tokens, (1 - change.flatten() <= tau).nonzero().flatten())
    return prune(tokens, top(change.flatten(), budget))
