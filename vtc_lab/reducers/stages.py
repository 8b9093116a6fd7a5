"""The two stages of LFTR for a fixed number of segments: merge in time, remove in space, in either order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, merge, nearest, normalise, ranks, top, weighted_sums
from vtc_lab.reducers.segments import Labels
from vtc_lab.reducers.significance import patch_significance
from vtc_lab.tokens import Reduction, VideoTokens

_SKETCH = 64  # channels on which candidate splits are compared


@dataclass(frozen=True)
class Way:
    """The options that say how the two stages work, whatever the budget."""

    temporal: str
    granularity: str
    significance: str
    allocation: str
    dropped: str
    order: str


@dataclass(frozen=True)
class Problem:
    """What does not depend on the budget: computed once, used for every split that is tried."""

    tokens: VideoTokens
    evidence: Tensor  # (T, 1) or (T, N)
    labels: Labels
    way: Way

    @cached_property
    def sketch(self) -> VideoTokens:
        """The tokens with every 1/64 of the channels summed up under seeded random signs.

        That keeps inner products on average, as a random projection does, at the cost of reading the tokens once.
        """
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


def both_stages(problem: Problem, tokens: VideoTokens, budget: int, count: int) -> Reduction:
    """Both stages for a fixed number of segments, on the tokens or on their sketch."""
    frames, height, width = tokens.grid
    patches, cells = height * width, count * height * width
    evidence = problem.evidence.expand(frames, patches)
    # Every source token belongs to one cell of the (T', N) grid, or to none (-1) once it is removed.
    cell = problem.labels(count).expand(frames, patches) * patches + torch.arange(patches, device=evidence.device)
    if problem.way.temporal == "select":
        lead = _leaders(cell, evidence, cells)
        cell = (
            torch.full_like(cell, -1).flatten().scatter(0, lead, torch.arange(cells, device=lead.device)).view_as(cell)
        )
    finite = evidence.isfinite()
    largest = evidence[finite].max() if bool(finite.any()) else 1.0
    weight = torch.where(finite, evidence, largest)
    stage = _spatial_first if problem.way.order == "spatial-first" else _temporal_first
    return stage(problem.way, tokens, evidence, cell, weight, budget, count)


def _temporal_first(
    way: Way, tokens: VideoTokens, evidence: Tensor, cell: Tensor, weight: Tensor, budget: int, count: int
) -> Reduction:
    frames, height, width = tokens.grid
    cells = count * height * width
    weight = normalise(weight.flatten(), cell.flatten(), cells)
    values, saliency = tokens.values, tokens.saliency
    if count < frames:  # otherwise every cell is one source token already

        def merged(source: Tensor) -> Tensor:
            return weighted_sums(source, cell.flatten(), weight, cells).view(count, height, width, -1)

        values, saliency = merged(values), None if saliency is None else merged(saliency[..., None])[..., 0]
    lead = _leaders(cell, evidence, cells)
    change = evidence.flatten()[lead].view(count, -1).mean(1)
    chosen = _choose(_significance(values, saliency, way.significance), change, budget, way.allocation)
    if way.dropped == "prune":
        joined = torch.where(chosen.flatten()[cell.clamp(min=0)] & (cell >= 0), cell, -1)
        return _gather(tokens, joined, weight, lead, chosen.flatten(), values)
    home = nearest(values.flatten(1, 2), chosen).flatten()
    joined = torch.where(cell >= 0, home[cell.clamp(min=0)], -1)
    return _gather(tokens, joined, weight, lead, chosen.flatten())


def _spatial_first(
    way: Way, tokens: VideoTokens, evidence: Tensor, cell: Tensor, weight: Tensor, budget: int, count: int
) -> Reduction:
    cells = count * cell.shape[1]
    significance = _significance(tokens.values, tokens.saliency, way.significance)
    admitted = _admit(significance, cell, budget, cells, way.allocation)
    joined = torch.where(admitted, cell, -1)
    lead = _leaders(joined, evidence, cells)
    if way.dropped == "merge":
        home = nearest(tokens.values.flatten(1, 2), admitted).flatten()
        joined = torch.where(home >= 0, cell.flatten()[home.clamp(min=0)], -1)
    return _gather(tokens, joined, weight, lead, lead >= 0)


def _significance(values: Tensor, saliency: Tensor | None, kind: str) -> Tensor:
    return saliency.flatten(1).float() if kind == "attention" else patch_significance(values, kind)


def _choose(significance: Tensor, change: Tensor, budget: int, allocation: str) -> Tensor:
    """(T', N) bool, exactly `budget` of them True; `change` (T',) says which frames get one patch more."""
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
    """(cells,) the raster index of the member of largest evidence, the earliest on ties; -1 for an empty cell."""
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
