"""PruneVid, stage 1: segments of the clip, static positions merged over them, and clusters of what is left."""

from itertools import groupby, pairwise
from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import merge_static, peak_of_each, take_apart
from vtc_lab.reducers.ops import add_up, apportion, blocks, even, frame_means, gather, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS, _FEW = 7, 14


@method(
    paper="arXiv 2412.16117",
    year=2024,
    kind="merges",
    instead="cluster_ratio",
    ours="with a budget: small sets are clustered too, or static positions taken apart, where it could not be met",
)
def prunevid(
    tokens: VideoTokens,
    budget: int | None = None,
    *,
    tau: Annotated[float, -1, 1] = 0.8,
    cluster_ratio: Annotated[float | None, 0, 1] = None,
) -> Reduction:
    """Merge what stands still over segments of similar frames, then cluster static and moving patches apart.

    Frame means are clustered by density peaks (k = 7, floor(T / 4) of them). Of each cluster the longest run of frames
    stays, the earliest on ties and none of a single frame; frames between two of these join the longer, the left on
    ties. These are the segments. A position is static in one if the mean cosine of all pairs of its frames is above
    `tau`; it becomes their mean, in the first frame. A segment of one frame has no static position. The static set of a
    segment and the moving set of each frame are clustered by density peaks (k = 7) into plain means if they have more
    than 14 members, into floor(cluster_ratio * members); in the paper 0.5.

    With a budget instead, these sets share what the smaller ones leave, in proportion to their size, at least one each;
    where that cannot be, all sets share the budget in proportion. Where merging leaves fewer tokens than the budget,
    static positions come apart again, those of lowest mean cosine first. The original adds noise to break ties of
    density, its stage 2 prunes inside the language model. Cost: T * N^2 * D.

    >>> still = VideoTokens(torch.ones(8, 2, 2, 8))
    >>> prunevid(still, 4).anchor.tolist(), len(prunevid(still, cluster_ratio=0.5))
    ([0, 1, 2, 3], 4)
    """
    frames = tokens.values.flatten(1, 2)
    segment = _segments(frame_means(tokens.values))
    length = torch.bincount(segment)
    alike = torch.stack([_likeness(part) for part in frames.split(length.tolist())])
    static = alike > tau
    if budget is not None:
        static = take_apart(static, alike, length, budget)
    still = static[segment]
    count = _counts(torch.cat([static.sum(1), (~still).sum(1)]), budget, cluster_ratio)
    clusters, moving = count[: len(static)], (~still).flatten().nonzero().flatten()
    home, _ = merge_static(frames, static, segment, clusters, _NEIGHBOURS)
    home.view(-1)[moving] = peak_of_each(
        frames.flatten(0, 1), moving, (~still).sum(1), count[len(static) :], _NEIGHBOURS
    )
    return gather(tokens, home.flatten())


def _segments(mean: Tensor) -> Tensor:
    """(T,) the segment of each frame, given the frames' means."""
    every = torch.arange(len(mean), device=mean.device)
    whole = torch.full_like(every[:1], len(mean))
    cluster = peak_of_each(mean, every, whole, (whole // 4).clamp(min=1), _NEIGHBOURS).tolist()
    runs, start = [], 0
    for name, members in groupby(cluster):
        size = len([*members])
        runs.append((start, size, name))
        start += size
    longest: dict[int, tuple[int, int]] = {}
    for start, size, name in runs:
        if size > max(1, longest.get(name, (0, 0))[1]):
            longest[name] = (start, size)
    label = torch.zeros(len(mean), dtype=torch.long, device=mean.device)
    for (first, size), (second, other) in pairwise(sorted(longest.values())):
        label[second if size >= other else first + size :] += 1
    return label


def _likeness(frames: Tensor) -> Tensor:
    """(N,) mean cosine of all pairs of frames (W, N, D) at each position; -inf for a single frame."""
    number = len(frames)
    if number == 1:
        return torch.full((frames.shape[1],), -torch.inf, device=frames.device)
    total = add_up(unit(frames[part].float()).sum(0) for part in blocks(frames))
    return even((total.square().sum(-1) - number) / (number * (number - 1)))


def _counts(size: Tensor, budget: int | None, ratio: float | None) -> Tensor:
    """The number of tokens of each set."""
    large = size > _FEW
    if ratio is not None:
        return torch.where(large, (ratio * size.double()).floor().long().clamp(min=1), size)
    assert budget is not None  # `reduce` sees to it
    left = budget - int(size[~large].sum())
    if not 0 < int(large.sum()) <= left:
        return apportion(size, budget, size)
    count = size.clone()
    count[large] = apportion(size[large], left, size[large], least=1)
    return count
