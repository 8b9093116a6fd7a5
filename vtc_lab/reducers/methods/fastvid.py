"""FastVID: scenes, the patches that the encoder attends to, and density peaks that stand for the rest of a scene."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import most_alike, peak_of_each, shots
from vtc_lab.reducers.ops import attention, frame_means, gather, ranks, ranks_within, shares, totals
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

    `sink` times `sinks` is taken off the saliency (SToP, arXiv 2604.20937, takes 0.02).
    """
    rows, patches = tokens.values.flatten(0, 2), tokens.total // len(tokens)
    rank, scene = ranks(attention(tokens, sink)), shots(frame_means(tokens.values), tau)
    scenes, share = int(scene[-1]) + 1, shares(budget, len(tokens)).to(rows.device)
    merged = (context * share.double()).long()
    end = torch.bincount(scene).cumsum(0)[scene]
    host = (end - 1 - torch.arange(len(scene), device=rows.device)) % _EVERY == 0
    room, wanted = patches - share + merged, totals(merged, scene, scenes)
    centres = _deal(wanted, torch.where(host, room, 0), scene)
    held = totals(centres, scene, scenes)
    salient = share - merged + _deal(wanted - held, torch.where(host, 0, room), scene)
    loose, own = rank >= salient[:, None], torch.arange(tokens.total, device=rows.device)
    member = (loose & (centres > 0)[:, None]).flatten().nonzero().flatten()
    size = (patches - salient)[centres > 0]
    anchors = member[peak_of_each(rows, member, size, centres[centres > 0], _NEIGHBOURS) == member]
    home, rest = torch.where(loose.flatten(), -1, own), loose.flatten().nonzero().flatten()
    parts = rest.split(totals(patches - salient, scene, scenes).tolist())
    for some, among in zip(parts, anchors.split(held.tolist()), strict=True):
        if len(among):
            home[some] = among[most_alike(rows.index_select(0, some).float(), rows[among].float())[1]]
    home[anchors] = anchors
    guests = torch.bincount(home[home >= 0], minlength=len(home))[home.clamp(min=0)] - 1
    weight = torch.maximum(1 / (guests + 1), torch.tensor(_LEAST_WEIGHT, device=rows.device))
    return gather(tokens, home, torch.where(home == own, weight, (1 - weight) / guests.clamp(min=1)))


def _deal(wanted: Tensor, room: Tensor, scene: Tensor) -> Tensor:
    """(T,) whole numbers that sum to `wanted` in each scene, as equal as `room` (T,) allows, the larger ones first."""
    frame = torch.repeat_interleave(room)
    number = torch.arange(len(frame), device=room.device) - (room.cumsum(0) - room)[frame]
    taken = frame[ranks_within(scene[frame], -number) < wanted[scene[frame]]]
    return torch.bincount(taken, minlength=len(room))
