"""FlashVID, before the language model: diverse salient patches, and trees of similar patches through time."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import peak_of_each, shots
from vtc_lab.reducers.ops import attention, blocks, gather, group_means, shares, top, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS = 7


@method(paper="arXiv 2602.08024", year=2026, needs="attention", kind="merges")
def flashvid(
    tokens: VideoTokens,
    budget: int,
    *,
    tau: Annotated[float, -1, 1] = 0.9,
    link: Annotated[float, -1, 1] = 0.8,
    alone: Annotated[float, 0, 1] = 0.7,
) -> Reduction:
    """Keep each frame's salient and diverse patches, merge the rest along trees through time, then by density peaks.

    The clip is cut where the cosine of adjacent frame means is among the 7 lowest or below `tau`. Of every frame's
    equal share of the budget, `alone` goes to patches picked by greedy max-min: cosine distance to the nearest one
    picked (at first: to the nearest of the frame) * saliency * event relevance, the mean over the scene's frames of (1
    + cos to the frame's mean) / 2. Each patch left links to the best one left in the frame before, in the same scene,
    if their cosine reaches `link`; trees become their means, anchored at their earliest patch. If a scene has more
    trees than its budget they are clustered by density peaks (k = 7, our choice), if it has fewer the weakest links are
    cut; a scene without such a budget drops what is left.

    The paper lets 1.25 K tokens enter and prunes on inside the language model; here K enter, for a comparison at equal
    budgets. How relevance is scaled to be positive is our reading. Cost: T * N^2 * D, and (trees of a scene)^2 * D.
    """
    frames = tokens.values.flatten(1, 2)
    scene = shots(tokens.values, tau)
    share = shares(budget, len(frames)).to(frames.device)
    single = (alone * share).round().long()
    kept, strength, parent = _pick_and_link(frames, attention(tokens).float(), scene, single)
    place = torch.arange(tokens.total, device=frames.device)
    home = torch.where(kept.flatten(), place, -1)
    rows = tokens.values.flatten(0, 2)
    for number in range(int(scene[-1]) + 1):
        inside = scene == number
        rest = (inside[:, None] & ~kept).flatten().nonzero().flatten()
        count = int((share - single)[inside].sum())
        if not count:
            continue
        strong = strength.flatten()[rest]
        cut = torch.ones_like(rest, dtype=torch.bool)
        cut[top(strong, min(int((strong >= link).sum()), len(rest) - count))] = False
        home[rest] = torch.where(cut, rest, parent.flatten()[rest])
        while bool((home[home[rest]] != home[rest]).any()):  # halves the way to the root each time
            home[rest] = home[home[rest]]
        root = rest[cut]
        if len(root) > count:
            group = torch.searchsorted(root, home[rest])
            trees = group_means(rows[rest], group, len(root))
            home[rest] = root[peak_of_each(trees, count, _NEIGHBOURS)][group]
    return gather(tokens, home)


def _pick_and_link(frames: Tensor, saliency: Tensor, scene: Tensor, single: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(T, N) each: patches kept alone, the cosine of the best link backwards (-inf: none), and where it leads."""
    count, patches = frames.shape[:2]
    mean = torch.cat([unit(frames[part].float().mean(1)) for part in blocks(frames)])
    kept = torch.zeros(count, patches, dtype=torch.bool, device=frames.device)
    strength = torch.full((count, patches), -torch.inf, device=frames.device)
    parent = torch.full_like(kept, -1, dtype=torch.long)
    rows = before = unit(frames[0].float())
    for t in range(count):
        before, rows = rows, unit(frames[t].float())
        relevance = ((1 + (rows @ mean[scene == scene[t]].T).clamp(-1, 1)) / 2).mean(1)
        kept[t] = _diverse(1 - rows @ rows.T, saliency[t] * relevance, int(single[t]))
        if t and scene[t] == scene[t - 1] and not bool(kept[t - 1].all()):
            alike = (rows @ before.T).masked_fill(kept[t - 1], -torch.inf).max(1)
            strength[t], parent[t] = alike.values, alike.indices + (t - 1) * patches
    return kept, strength, parent


def _diverse(far: Tensor, worth: Tensor, count: int) -> Tensor:
    """(N,) bool, `count` of them picked by greedy max-min distance times worth; ties to the lower index."""
    picked = torch.zeros(len(far), dtype=torch.bool, device=far.device)
    nearest = (far + torch.diag(torch.full_like(worth, torch.inf))).amin(1).clamp(max=2)
    for step in range(count):
        best = top((nearest.clamp(min=0) * worth).masked_fill(picked, -1), 1)
        picked[best] = True
        nearest = torch.minimum(nearest, far[best[0]]) if step else far[best[0]].clone()
    return picked
