"""FastVID: scenes, the patches that the encoder attends to, and density peaks that stand for the rest of a scene."""

from typing import Annotated

import torch

from vtc_lab.reducers.clusters import density_peaks, most_alike, shots
from vtc_lab.reducers.ops import apportion, attention, gather, ranks, shares
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_EVERY, _NEIGHBOURS, _LEAST_WEIGHT = 4, 4, 0.6


@method(paper="arXiv 2503.11187", year=2025, needs="attention", kind="merges")
def fastvid(
    tokens: VideoTokens,
    budget: int,
    *,
    tau: Annotated[float, -1, 1] = 0.9,
    context: Annotated[float, 0, 1] = 0.4,
    sink: Annotated[float, 0, 100] = 0.0,
) -> Reduction:
    """Keep salient patches of every frame and, for each scene, a few density peaks into which the rest merges.

    The clip is cut where the cosine of adjacent frame means is among the 7 lowest or below `tau`. Every frame has an
    equal share of the budget; int(context * share) of it goes to the scene, the rest to the frame's patches of highest
    saliency. The scene's anchors are density peaks (k = 4) among the other patches of its last frame and of every 4th
    before that, equally many in each. All that is left of the scene goes to the anchor of highest cosine: w * anchor +
    (1 - w) * mean of what came, w = max(1 / (count + 1), 0.6); a scene without anchors drops it. In the original a
    patch enters one anchor of each of these frames; here it enters one, because a reduction names one place for it.
    What those frames cannot hold of the context goes back to saliency in the others, which happens above about K = M /
    2.5; the original does not reach such budgets. Cost: T * N * (anchors of a scene) * D.

    `sink` is SToP's correction (arXiv 2604.20937): so many times the share of attention that a position draws in every
    frame is taken off the saliency; its authors take 0.02.
    """
    rows, patches = tokens.values.flatten(0, 2), tokens.total // len(tokens)
    own = torch.arange(tokens.total, device=rows.device).view(-1, patches)
    home, rank, scene = torch.full_like(own, -1), ranks(attention(tokens, sink)), shots(tokens.values, tau)
    share = shares(budget, len(tokens)).to(rows.device)
    merged = (context * share.double()).long()
    salient = share - merged
    for number in range(int(scene[-1]) + 1):
        inside = (scene == number).nonzero().flatten()
        spread = torch.arange(len(inside), device=rows.device).flip(0) % _EVERY == 0
        hosts, others = inside[spread], inside[~spread]
        room, wanted = patches - salient[hosts], int(merged[inside].sum())
        held = min(wanted, int(room.sum()))
        centres = apportion(torch.ones_like(room), held, room)
        if wanted > held:
            room = patches - salient[others]
            salient[others] += apportion(torch.ones_like(room), wanted - held, room)
        alone = rank[inside] < salient[inside, None]
        home[inside] = torch.where(alone, own[inside], -1)
        peaks = []
        for t, count in zip(hosts.tolist(), centres.tolist(), strict=True):
            if count:
                loose = own[t, rank[t] >= salient[t]]
                peaks.append(loose[density_peaks(rows[loose].float(), count, _NEIGHBOURS)])
        if peaks:
            anchors, rest = torch.cat(peaks), own[inside][~alone]
            home.view(-1)[rest] = anchors[most_alike(rows[rest].float(), rows[anchors].float())[1]]
            home.view(-1)[anchors] = anchors
    home, own = home.flatten(), own.flatten()
    guests = torch.bincount(home[home >= 0], minlength=len(home))[home.clamp(min=0)] - 1
    weight = torch.maximum(1 / (guests + 1), torch.tensor(_LEAST_WEIGHT, device=rows.device))
    return gather(tokens, home, torch.where(home == own, weight, (1 - weight) / guests.clamp(min=1)))
