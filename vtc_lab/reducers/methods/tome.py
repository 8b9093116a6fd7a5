"""ToMe, token merging: bipartite soft matching, repeated until the budget is met."""

from typing import Literal

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import most_alike
from vtc_lab.reducers.ops import gather, group_means, shares, top
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens


@method(
    paper="arXiv 2210.09461",
    year=2023,
    kind="merges",
    minimum=(
        "one token of every frame with scope='frame'",
        lambda frames, patches, options: frames if options["scope"] == "frame" else 1,
    ),
)
def tome(tokens: VideoTokens, budget: int, *, scope: Literal["clip", "frame"] = "clip") -> Reduction:
    """Merge the most similar pairs of even and odd tokens into size-weighted means, round by round, until K are left.

    In a round the n tokens, in raster order, are split into even and odd ones; each even one has its odd partner of
    highest cosine, and the top r <= n/2 of these edges are merged (ties to the lower index), several into one odd token
    if they share it. A merged token keeps its odd member's position. With scope "frame", each frame is matched by
    itself, to equal shares of the budget. The original merges a few tokens in every layer of the encoder, compares
    attention keys and leaves the tokens reordered; here all rounds use the features that enter the language model, and
    raster order is kept. Cost of the first round: M^2 / 4 * D, or M * N / 4 * D within frames.

    >>> pairs = VideoTokens(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).view(1, 2, 2, 2))
    >>> tome(pairs, 2).assign.tolist()
    [0, 0, 1, 1]
    """
    rows = tokens.values.flatten(0, 2)
    if scope == "clip":
        return gather(tokens, _match(rows, budget))
    patches = tokens.total // len(tokens)
    parts = zip(rows.split(patches), shares(budget, len(tokens)).tolist(), strict=True)
    return gather(tokens, torch.cat([t * patches + _match(frame, share) for t, (frame, share) in enumerate(parts)]))


def _match(rows: Tensor, budget: int) -> Tensor:
    """(n,) the row that each row is merged into, itself if it stays; `budget` of them stay."""
    home = torch.arange(len(rows), device=rows.device)
    anchor, merged = home, rows.float()
    while len(anchor) > budget:
        strength, partner = most_alike(merged[::2], merged[1::2])
        lost = top(strength, min(len(anchor) - budget, len(anchor) // 2))
        target = torch.arange(len(anchor), device=rows.device)
        target[2 * lost] = 2 * partner[lost] + 1
        home = anchor[target][torch.searchsorted(anchor, home)]
        anchor = home.unique()
        merged = group_means(rows, torch.searchsorted(anchor, home), len(anchor))
    return home
