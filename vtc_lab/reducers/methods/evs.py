"""EVS, efficient video sampling: keep the patches that changed most since the frame before."""

from vtc_lab.reducers.ops import difference, prune, top
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2510.14624", year=2025, minimum=("the whole first frame", lambda frames, patches, options: patches)
)
def evs(tokens: VideoTokens, budget: int) -> Reduction:
    """Keep the first frame and, of all later patches of the clip, those that differ most from the frame before.

    The dissimilarity is 1 - cos(X[t,n], X[t-1,n]); ties go to the earlier frame and the lower patch. The paper compares
    the pixels of patches (L1) and cuts at a percentile; this compares token features, as the implementation in vLLM
    does, because only tokens are at hand. The cost is one pass over the tokens.
    """
    return prune(tokens, top(difference(tokens.values).flatten(), budget))
