"""LFTR for a fixed number of segments: cut the clip, merge in time, remove in space, in either order."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vtc_lab.reducers.ops import attention, blocks, cosine, even, merge, nearest, normalise, ranks, top, weighted_sums
from vtc_lab.tokens import Reduction, VideoTokens

_SKETCH = 64  # channels on which candidate splits are compared

# From T' to (T, S) labels 0 to T'-1, not decreasing in time; S is 1, or N where each grid position is cut on its own.
Labels = Callable[[int], Tensor]


def cut_greedily(evidence: Tensor) -> Labels:
    """Cut before the frames of largest evidence (T, S), which is inf for the first frame.

    >>> cut_greedily(torch.tensor([[torch.inf], [0.1], [0.7], [0.2]]))(2).flatten().tolist()
    [0, 0, 1, 1]
    """
    rank = ranks(evidence.T).T
    return lambda count: (rank < count).long().cumsum(0) - 1


def cut_optimally(values: Tensor, per_position: bool) -> Labels:
    """Cut the values (T, h, w, D) so that the squared deviation from the segment means is least, the earliest on ties.

    The cost is T^2 * N * D for the inner products and T' * T^2 for the dynamic programme.

    >>> cut_optimally(torch.tensor([0.0, 0.1, 1.0, 1.1]).view(4, 1, 1, 1), False)(2).flatten().tolist()
    [0, 0, 1, 1]
    """
    frames = values.flatten(1, 2)
    columns = [frames[:, n : n + 1] for n in range(frames.shape[1])] if per_position else [frames]
    costs = [_deviation(column.flatten(1)) for column in columns]
    return lambda count: torch.stack([_cut(cost, count) for cost in costs], 1)


def _deviation(rows: Tensor) -> Tensor:
    """(T, T) double: at [i, j] the squared deviation of rows i..j from their mean, inf where j < i."""
    rows = rows.float()
    rows = rows - rows.mean(0)  # a common offset changes no deviation, but it would cost float32 its digits
    count = len(rows)
    gram = (rows @ rows.T).double()
    squares = torch.cat([gram.new_zeros(1), gram.diagonal().cumsum(0)])
    block = torch.zeros(count + 1, count + 1, dtype=torch.double, device=rows.device)
    block[1:, 1:] = gram.cumsum(0).cumsum(1)
    start, stop = torch.arange(count, device=rows.device)[:, None], torch.arange(1, count + 1, device=rows.device)
    corner = block.diagonal()
    of_sum = corner[stop] - block[start, stop] - block[stop, start] + corner[start]  # |sum of rows i..j|^2
    deviation = (squares[stop] - squares[start]) - of_sum / (stop - start).clamp(min=1)
    return deviation.clamp(min=0).masked_fill(stop <= start, torch.inf)


def _cut(cost: Tensor, count: int) -> Tensor:
    """(T,) labels of the cheapest cut into `count` segments."""
    total = len(cost)
    best, starts = cost[0], []
    for _ in range(count - 1):
        # best[i-1] + cost[i, j]: the last segment runs from i to j
        options = torch.cat([cost.new_full((1,), torch.inf), best[:-1]])[:, None] + cost
        best, start = options.min(0)
        starts.append(start)
    label = torch.zeros(total, dtype=torch.long, device=cost.device)
    end = total - 1
    for start in reversed(starts):
        first = int(start[end])
        label[first:] += 1
        end = first - 1
    return label


@dataclass(frozen=True)
class Problem:
    """One clip with the options of both stages: computed once, used for every budget and split that is tried."""

    tokens: VideoTokens
    evidence: Tensor  # (T, N)
    labels: Labels
    temporal: str
    significance: str
    allocation: str
    dropped: str
    order: str

    @cached_property
    def sketch(self) -> VideoTokens:
        """The tokens with every 1/64 of the channels summed up under seeded signs, as a cheap random projection."""
        values = self.tokens.values
        channels = values.shape[-1]
        if channels <= 2 * _SKETCH:
            return self.tokens
        sign = torch.randint(0, 2, (channels,), generator=torch.Generator().manual_seed(0)).to(values.device) * 2.0 - 1
        sketch = torch.empty(*self.tokens.grid, _SKETCH, device=values.device)
        for part in blocks(values):  # in place: small pieces kept between large ones fragment the heap
            signed = torch.nn.functional.pad(values[part].float() * sign, (0, -channels % _SKETCH))
            torch.sum(signed.unflatten(-1, (_SKETCH, -1)), -1, out=sketch[part])
        return replace(self.tokens, values=sketch)

    def patch_scores(self, tokens: VideoTokens) -> Tensor:
        """(T, N) significance of each patch of these tokens."""
        if self.significance == "attention":
            return attention(tokens).float()
        frames = (tokens.values[part].float() for part in blocks(tokens.values))
        return even(torch.cat([1 - _likeness(some, self.significance).flatten(1) for some in frames]))


def both_stages(problem: Problem, tokens: VideoTokens, budget: int, count: int) -> Reduction:
    """Reduce the problem's tokens, or their sketch, to the budget in `count` segments."""
    evidence = problem.evidence
    patches = evidence.shape[1]
    cells = count * patches
    # Every source token belongs to one cell of the (T', N) grid, or to none (-1) once it is removed.
    cell = problem.labels(count).expand_as(evidence) * patches + torch.arange(patches, device=evidence.device)
    if problem.temporal == "select":
        lead = _leaders(cell, evidence, cells)
        cell = torch.full_like(cell, -1)
        cell.view(-1)[lead] = torch.arange(cells, device=cell.device)
    finite = evidence.isfinite()
    weight = torch.where(finite, evidence, evidence[finite].max() if bool(finite.any()) else 1.0)
    stage = _spatial_first if problem.order == "spatial-first" else _temporal_first
    return stage(problem, tokens, cell, weight, budget, cells)


def _temporal_first(
    problem: Problem, tokens: VideoTokens, cell: Tensor, weight: Tensor, budget: int, cells: int
) -> Reduction:
    frames, height, width = tokens.grid
    count = cells // (height * width)
    weight = normalise(weight.flatten(), cell.flatten(), cells)
    merged = tokens
    if count < frames:  # otherwise every cell is one source token already

        def means(source: Tensor) -> Tensor:
            return weighted_sums(source, cell.flatten(), weight, cells).view(count, height, width, -1)

        saliency = None if tokens.saliency is None else means(tokens.saliency[..., None])[..., 0]
        merged = replace(tokens, values=means(tokens.values), saliency=saliency)
    lead = _leaders(cell, problem.evidence, cells)
    change = problem.evidence.flatten()[lead].view(count, -1).mean(1)
    chosen = _choose(problem.patch_scores(merged), change, budget, problem.allocation)
    if problem.dropped == "prune":
        joined = torch.where(chosen.flatten()[cell.clamp(min=0)] & (cell >= 0), cell, -1)
        return _gather(tokens, joined, weight, lead, chosen.flatten(), merged.values)
    home = nearest(merged.values.flatten(1, 2), chosen).flatten()
    joined = torch.where(cell >= 0, home[cell.clamp(min=0)], -1)
    return _gather(tokens, joined, weight, lead, chosen.flatten())


def _spatial_first(
    problem: Problem, tokens: VideoTokens, cell: Tensor, weight: Tensor, budget: int, cells: int
) -> Reduction:
    admitted = _admit(problem.patch_scores(tokens), cell, budget, cells, problem.allocation)
    joined = torch.where(admitted, cell, -1)
    lead = _leaders(joined, problem.evidence, cells)
    if problem.dropped == "merge":
        home = nearest(tokens.values.flatten(1, 2), admitted).flatten()
        joined = torch.where(home >= 0, cell.flatten()[home.clamp(min=0)], -1)
    return _gather(tokens, joined, weight, lead, lead >= 0)


def _likeness(frames: Tensor, kind: str) -> Tensor:
    """(T, h, w) cosine to the mean of the frame, or mean cosine to the 4-neighbours."""
    if kind == "distinct":
        return cosine(frames, frames.mean((1, 2), keepdim=True))
    total, count = torch.zeros_like(frames[..., 0]), torch.zeros_like(frames[0, ..., 0])
    for axis in (1, 2):
        size = frames.shape[axis]
        alike = cosine(frames.narrow(axis, 1, size - 1), frames.narrow(axis, 0, size - 1))
        for start in (0, 1):  # each pair counts for both of its patches
            total.narrow(axis, start, size - 1).add_(alike)
            count.narrow(axis - 1, start, size - 1).add_(1)
    return total / count.clamp(min=1)


def _choose(significance: Tensor, change: Tensor, budget: int, allocation: str) -> Tensor:
    """(T', N) bool, exactly `budget` of them True; the frames of largest `change` (T',) get one patch more."""
    chosen = torch.zeros_like(significance, dtype=torch.bool)
    if allocation == "global":
        chosen.view(-1)[top(significance.flatten(), budget)] = True
        return chosen
    share = torch.full_like(change, budget // len(change), dtype=torch.long)
    share[top(change, budget % len(change))] += 1
    return ranks(significance) < share[:, None]


def _admit(significance: Tensor, cell: Tensor, budget: int, cells: int, allocation: str) -> Tensor:
    """(T, N) bool: source patches in order of significance, as many as go into exactly `budget` cells."""
    queue = significance.flatten().argsort(descending=True, stable=True)
    if allocation == "per-frame":  # the best patch of every frame, then the second best, and so on
        queue = queue[ranks(significance).flatten()[queue].argsort(stable=True)]
    queue = queue[cell.flatten()[queue] >= 0]
    place = torch.full((cell.numel(),), cell.numel(), dtype=torch.long, device=cell.device)
    place[queue] = torch.arange(len(queue), device=cell.device)
    opened = torch.full((cells,), cell.numel(), dtype=torch.long, device=cell.device)
    opened.scatter_reduce_(0, cell.flatten()[queue], place[queue], "amin")
    limit = opened.sort().values[budget] if budget < cells else cell.numel()
    return (place < limit).view_as(cell)


def _leaders(cell: Tensor, evidence: Tensor, cells: int) -> Tensor:
    """(cells,) raster index of the member of largest evidence, the earliest on ties; -1 for an empty cell."""
    member = (cell >= 0).flatten().nonzero().flatten()
    home, strength = cell.flatten()[member], evidence.flatten()[member]
    most = torch.full((cells,), -torch.inf, device=strength.device).scatter_reduce(0, home, strength, "amax")
    first = torch.full((cells,), cell.numel(), dtype=torch.long, device=cell.device)
    leads = strength == most[home]
    first.scatter_reduce_(0, home[leads], member[leads], "amin")
    return torch.where(first < cell.numel(), first, -1)


def _gather(
    tokens: VideoTokens, joined: Tensor, weight: Tensor, lead: Tensor, chosen: Tensor, merged: Tensor | None = None
) -> Reduction:
    """The reduction whose outputs are the chosen cells; `merged` holds their values if they are known already."""
    kept = chosen.nonzero().flatten()
    kept = kept[lead[kept].argsort()]
    place = torch.full_like(lead, -1)
    place[kept] = torch.arange(len(kept), device=kept.device)
    assign = torch.where(joined >= 0, place[joined.clamp(min=0)], -1).flatten()
    if merged is None:
        return merge(tokens, assign, weight.flatten(), lead[kept])
    weight = torch.where(assign >= 0, weight, 0)
    return Reduction(merged.flatten(0, 2)[kept], lead[kept], assign, weight, tokens.grid, encoder=tokens.encoder)
