"""FastVID: scenes, the patches that the encoder attends to, and density peaks that stand for the rest of a scene."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import density_peaks, most_alike, shots
from vtc_lab.reducers.ops import apportion, attention, gather, ranks, shares
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_EVERY, _NEIGHBOURS, _LEAST_WEIGHT = 4, 4, 0.6


@method(paper="arXiv 2503.11187", year=2025, needs="attention", kind="merges")
def fastvid(
    tokens: VideoTokens, budget: int, *, tau: Annotated[float, -1, 1] = 0.9, context: Annotated[float, 0, 1] = 0.4
) -> Reduction:
    """Keep salient patches of every frame and, for each scene, a few density peaks into which the rest merges.

    The clip is cut where the cosine of adjacent frame means is among the 7 lowest or below `tau`. Every frame has an
    equal share of the budget; `context` of it goes to the scene, the rest to the frame's patches of highest saliency.
    The scene's anchors are density peaks (k = 4) among the other patches of every 4th of its frames, equally many in
    each. All that is left of the scene goes to the anchor of highest cosine: w * anchor + (1 - w) * mean of what came,
    w = max(1 / (count + 1), 0.6); a scene without anchors drops it. What those frames cannot hold of the context goes
    back to saliency in the others, which happens above about K = M / 2.5; the original does not reach such budgets.
    Cost: T * N * (anchors of a scene) * D.

    Examples
    --------
    >>> tokens = VideoTokens(torch.randn(4, 4, 4, 8), torch.rand(4, 4, 4))
    >>> len(fastvid(tokens, 20))
    20
    """
    patches = tokens.total // len(tokens)
    scene = shots(tokens.values, tau)
    share = shares(budget, len(tokens)).to(scene.device)
    merged = (context * share).round().long()
    salient, centres = share - merged, torch.zeros_like(share)
    for number in range(int(scene[-1]) + 1):
        inside = (scene == number).nonzero().flatten()
        spread = torch.arange(len(inside), device=inside.device) % _EVERY == 0
        hosts, others = inside[spread], inside[~spread]
        room, wanted = patches - salient[hosts], int(merged[inside].sum())
        held = min(wanted, int(room.sum()))
        centres[hosts] = apportion(torch.ones_like(room), held, room)
        if wanted > held:
            room = patches - salient[others]
            salient[others] += apportion(torch.ones_like(room), wanted - held, room)
    alone = ranks(attention(tokens)) < salient[:, None]
    return _merge_scenes(tokens, scene, alone, centres)


def _merge_scenes(tokens: VideoTokens, scene: Tensor, alone: Tensor, centres: Tensor) -> Reduction:
    """Merge what is not kept alone into `centres` (T,) density peaks of its scene."""
    rows, patches = tokens.values.flatten(0, 2), alone.shape[1]
    own = torch.arange(len(rows), device=rows.device)
    home = torch.where(alone.flatten(), own, -1)
    for number in range(int(scene[-1]) + 1):
        rest = ((scene == number)[:, None] & ~alone).flatten().nonzero().flatten()
        peaks = []
        for t in ((scene == number) & (centres > 0)).nonzero().flatten().tolist():
            loose = rest[rest // patches == t]
            peaks.append(loose[density_peaks(rows[loose].float(), int(centres[t]), _NEIGHBOURS)])
        if peaks:
            anchors = torch.cat(peaks)
            home[rest] = anchors[most_alike(rows[rest].float(), rows[anchors].float())[1]]
            home[anchors] = anchors
    guests = torch.bincount(home[home >= 0], minlength=len(rows))[home.clamp(min=0)] - 1
    weight = torch.maximum(1 / (guests + 1), torch.tensor(_LEAST_WEIGHT, device=rows.device))
    return gather(tokens, home, torch.where(home == own, weight, (1 - weight) / guests.clamp(min=1)))
