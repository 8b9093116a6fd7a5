"""FlashVID, before the language model: diverse salient patches, and trees of similar patches through time."""

import math
from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import peak_of_each, shots
from vtc_lab.reducers.ops import (
    attention,
    cosines,
    even,
    frame_means,
    gather,
    group_means,
    hand_out,
    ranks_within,
    shares,
    totals,
    wide,
)
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS = 7
_ELEMENTS = 1 << 22  # of the cosines within some frames: 16 MB


@method(paper="arXiv 2602.08024", year=2026, needs="attention", kind="merges")
def flashvid(
    tokens: VideoTokens,
    budget: int,
    *,
    tau: Annotated[float, -1, 1] = 0.9,
    link: Annotated[float, -1, 1] = 0.8,
    alone: Annotated[float, 0, 1] = 0.7,
    sink: Annotated[float, 0, 100] = 0.0,
) -> Reduction:
    """Keep each frame's salient and diverse patches, merge the rest along trees through time, then by density peaks.

    The clip is cut where the cosine of adjacent frame means is among the 7 lowest or below `tau`. Of every frame's
    equal share of the budget, `alone` (rounded up) goes to patches picked by greedy max-min: cosine distance to the
    nearest one picked (at first: to the nearest of the frame) * saliency * event relevance, the inner product with the
    means of the scene's frames, averaged. Each patch left links to the best one left in the frame before, in the same
    scene, if their cosine reaches `link`; trees become their means, anchored at their earliest patch. If a scene has
    fewer trees than its budget, its weakest links are cut. The trees of each frame are clustered by density peaks into
    a number of means in which every tree counts once, in proportion to how many there are, rounded up as far as the
    budget goes; k = min(clusters, 7), the tree itself included.

    The paper lets 1.25 K tokens enter and prunes on inside the language model; here K enter, for a comparison at equal
    budgets. Its code divides the sum of a tree by 1 + the direct children of its root, clusters the picked patches of
    scenes of one frame once more, and can pick a patch twice; none of that is done here. Cost: T * N^2 * D.

    `sink` times `sinks` is taken off the saliency (SToP, arXiv 2604.20937, takes 0.02), which is then shifted to begin
    at 0, because it is a factor here.
    """
    frames, count = tokens.values.flatten(1, 2), len(tokens)
    mean = frame_means(tokens.values)
    scene = shots(mean, tau)
    scenes = int(scene[-1]) + 1
    share = shares(budget, count).to(frames.device)
    picks = math.ceil(alone * (budget // count))
    single = share if alone and picks == budget // count else torch.full_like(share, picks)
    salient = attention(tokens, sink).float()
    worth = (salient - salient.min() if sink else salient) * _relevance(frames, mean, scene)
    kept, strength, parent = _pick_and_link(frames, worth, scene, single)
    place = torch.arange(tokens.total, device=frames.device)
    home, rest = torch.where(kept.flatten(), place, -1), (~kept).flatten().nonzero().flatten()
    in_scene = scene[rest // frames.shape[1]]
    # A scene's strongest links, as many as leave it trees for its budget.
    room = torch.bincount(in_scene, minlength=scenes) - totals(share - single, scene, scenes)
    linked = (ranks_within(in_scene, strength.flatten()[rest]) < room[in_scene]) & (strength.flatten()[rest] >= link)
    home[rest] = torch.where(linked, parent.flatten()[rest], rest)
    while not torch.equal(home[home[rest]], home[rest]):  # halves the way to the root each time
        home[rest] = home[home[rest]]
    root, tree = home[rest].unique(return_inverse=True)
    size = torch.bincount(tree)
    means = group_means(tokens.values.flatten(0, 2)[rest], tree, len(root))
    number = torch.bincount(root // frames.shape[1], minlength=count)
    in_scene = totals(number, scene, scenes)[scene]
    quota = number * torch.bincount(scene)[scene] / in_scene.clamp(min=1)
    clusters = hand_out(quota, budget - int(kept.sum()), number)
    every = torch.arange(len(root), device=root.device)
    joined = peak_of_each(means, every, number, clusters, clusters.clamp(max=_NEIGHBOURS))
    home[root] = torch.where(joined >= 0, root[joined], -1)
    home[rest] = home[root][tree]
    weight = torch.ones(tokens.total, device=frames.device)
    weight[rest] = 1 / size[tree]
    return gather(tokens, home, weight)


def _relevance(frames: Tensor, mean: Tensor, scene: Tensor) -> Tensor:
    """(T, N) inner product of each patch with the mean of its scene's frame means, over the largest of the clip."""
    mean = group_means(mean, scene, int(scene[-1]) + 1)
    mean = mean / mean.abs().amax().clamp(min=torch.finfo(mean.dtype).tiny)
    found = torch.cat([(mean[scene[p], None] @ frames[p].float().mT)[:, 0] for p in wide(frames)])
    return even(found / found.abs().amax().clamp(min=torch.finfo(found.dtype).tiny))


def _pick_and_link(frames: Tensor, worth: Tensor, scene: Tensor, single: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(T, N) each: patches kept alone, the cosine of the best link backwards (-inf: none), and where it leads."""
    count, patches = frames.shape[:2]
    kept = torch.zeros(count, patches, dtype=torch.bool, device=frames.device)
    strength = torch.full((count, patches), -torch.inf, device=frames.device)
    parent = torch.full_like(kept, -1, dtype=torch.long)
    step = max(1, _ELEMENTS // patches**2)
    for start in range(0, count, step):
        part = slice(start, start + step)
        now = frames[part].float()
        kept[part] = _diverse(cosines(now, now).neg_().add_(1), worth[part], single[part])
    stop = 0
    for length in torch.bincount(scene).tolist():
        start, stop = stop, stop + length
        for first in range(start + 1, stop, step):
            part = slice(first, min(first + step, stop))
            before = slice(part.start - 1, part.stop - 1)
            alike = cosines(frames[part].float(), frames[before].float()).masked_fill_(kept[before, None], -torch.inf)
            strength[part], best = alike.max(2)
            parent[part] = best + patches * torch.arange(before.start, before.stop, device=kept.device)[:, None]
    return kept, strength, parent


def _diverse(far: Tensor, worth: Tensor, count: Tensor) -> Tensor:
    """(T, N) bool, `count` (T,) of each frame picked by greedy max-min distance times worth, ties to the lower."""
    frame = torch.arange(len(far), device=far.device)
    picked = torch.zeros_like(worth, dtype=torch.bool)
    score = far.mul_(worth[:, None])  # (T, N, N): of the last patch, were the one before it its nearest
    score.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = score.amin(1).clamp(max=torch.finfo(far.dtype).max)
    for step in range(int(count.max())):
        best = nearest.masked_fill(picked, -torch.inf).argmax(1)
        picked[frame, best] |= step < count
        nearest = torch.minimum(nearest, score[frame, best]) if step else score[frame, best]
    return picked
