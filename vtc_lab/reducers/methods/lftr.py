"""LFTR, learning-free token reduction: keep what is significant in time and in space.

Source: arXiv 2501.17391 (v1; v2 renames the method LFTR, v3 is about images). Neither its full equations nor its
authors' code were at hand. On record: the reduction sits between the projector and the language model and trains
nothing; adjacent frames are merged, a frame's significance being its difference from its neighbour; the less
significant patches are removed, significance coming from the similarity between patches; both stages are bounded
jointly. The rest is our reading, each part a named option or stated in the docstring of `lftr`: by default one
significance in time and space ranks all tokens of a clip (`joint`); the two stages, one after the other, run where a
ratio of either is given.
"""

import math
from dataclasses import replace
from typing import Literal

import torch

from vtc_lab.reducers.joint import keep_jointly
from vtc_lab.reducers.ops import coverage, difference, even, few_threads
from vtc_lab.reducers.registry import check_ratio, method
from vtc_lab.reducers.stages import Problem, both_stages, cut_greedily, cut_optimally
from vtc_lab.tokens import MinimumBudgetError, Reduction, VideoTokens, VTCError

_SAMPLE = 64  # positions of a frame on which splits are compared
_CANDIDATES = 10  # numbers of segments tried at most
_TRIED_ALL = 64  # up to this many frames min_fidelity tries every number of segments


@method(paper="arXiv 2501.17391", year=2025, kind="merges")
def lftr(
    tokens: VideoTokens,
    budget: int | None = None,
    *,
    joint: Literal["significance", "coverage"] = "significance",
    temporal_ratio: float | None = None,
    spatial_ratio: float | None = None,
    min_fidelity: float | None = None,
    segments: Literal["greedy", "optimal"] = "greedy",
    temporal: Literal["merge", "select"] = "merge",
    granularity: Literal["frame", "patch"] = "frame",
    significance: Literal["distinct", "neighbours", "attention"] = "distinct",
    allocation: Literal["auto", "per-frame", "global"] = "auto",
    dropped: Literal["prune", "merge"] = "prune",
    order: Literal["temporal-first", "spatial-first"] = "temporal-first",
) -> Reduction:
    """Keep what is significant in time and space, and merge what says the same as before, to an exact budget.

    The difference of a patch from its neighbour in time is d[t,n] = 1 - cos(X[t,n], X[t-1,n]). With a budget alone, the
    K tokens of largest joint significance u * f * v^(1/4) stay: u is 1 - the mean cosine to the up to 4 neighbours in
    space, f is 1 - the cosine to the frame's mean, and v the least difference from those of the two neighbours in time
    whose u * f is larger, at most 1, and 1 if there is none; 2^-10 is added to each. The differences are on record;
    their product, the exponent and the ranking over the whole clip are our reading of "bounded jointly", chosen on
    validation clips of the generated world.

    With a ratio for time or space, with `joint` "coverage", or with an option that only the stages have (`segments`,
    `granularity`, `order`), the two stages run one after the other: d[t] is the mean d of a frame, inf for the first;
    the clip is cut into T' contiguous segments; a segment becomes one frame; of the T' * N patches, K stay. Ties go to
    the earlier frame and the lower patch; two zero vectors have cosine 1.

    Parameters
    ----------
    joint : what bounds both stages where only a budget is given: "significance", as above; or "coverage", our first
        reading, which loses to chance on questions about what moves: T' is the one of up to 10 values whose result
        covers the source best (mean `coverage`, on a seeded sketch of 64 channels and at most 64 positions of a frame).
        The notes of the reduction state that split and its coverage.
    temporal_ratio, spatial_ratio : compression of each stage, 1 to T and 1 to N. One alone is that stage alone:
        T' = round(T / temporal_ratio) whole frames, or all frames with N / spatial_ratio patches each on average. Both:
        K = round(M / (temporal_ratio * spatial_ratio)), at most T' * N. One together with a budget fixes the split:
        T' = round(T / temporal_ratio) or round(K * spatial_ratio / N), moved to where T' <= K <= T' * N.
    min_fidelity : 0 to 1; instead of a budget, find the smallest one whose coverage reaches this, over all T' (10 of
        them above 64 frames), by bisection, which takes coverage to grow with the budget while T' is the same.
    segments : "greedy" cuts at the T'-1 largest d; "optimal" minimises the squared deviation from segment means.
    temporal : "merge" is the mean of the segment weighted by d (the first frame counts as the largest finite d of the
        clip; equal weights where all are 0); "select" keeps its frame of largest d. Either is anchored at that frame.
        In the joint significance "merge" takes a token that is not kept into the one before it while d is at most 0.1.
    granularity : "frame", or "patch": every grid position is cut, weighted and anchored in time on its own, by d[t,n].
    significance : of a patch: "distinct" is f; "neighbours" is u; "attention" is the encoder's saliency, merged in time
        as the tokens are. In the joint significance the second leaves out f, the third has saliency in its place.
    allocation : "per-frame", equal shares (larger by one for the segments whose anchors have the largest mean d, or the
        frames of largest mean significance); or "global", the K most significant of all. "auto" is "global" for the
        joint significance and "per-frame" for the stages.
    dropped : "prune" removes patches, as on record; "merge" takes the plain mean of each kept patch and of those
        removed ones of its frame to which it is nearest by cosine (a frame that keeps none is removed).
    order : "temporal-first"; or "spatial-first": source patches are admitted in order of significance ("per-frame": the
        best of every frame, then the second best, and so on) while they occupy no more than K cells of the (T', N)
        grid, with "select" only patches of the selected frames; then the admitted ones of each cell are merged as
        `temporal` says. `dropped` "merge" lets each other patch into the cell of the nearest admitted one of its source
        frame, weighted by d.

    >>> tokens = VideoTokens(torch.randn(16, 8, 8, 32))
    >>> lftr(tokens, 128).ledger.split(",")[0]
    'kept 128 of 1024 tokens'
    >>> lftr(tokens, temporal_ratio=4, spatial_ratio=2).ledger
    'kept 128 of 1024 tokens, 8.0x, 4 of 16 frames'
    """
    staged = joint == "coverage" or (segments, granularity, order) != ("greedy", "frame", "temporal-first")
    if budget is not None and temporal_ratio is spatial_ratio is min_fidelity is None and not staged:
        return keep_jointly(tokens, budget, significance, temporal, allocation, dropped)
    allocation = "per-frame" if allocation == "auto" else allocation
    evidence = difference(tokens.values)
    if granularity == "frame":
        evidence = even(evidence.mean(1, keepdim=True))
    labels = cut_greedily(evidence) if segments == "greedy" else cut_optimally(tokens.values, granularity == "patch")
    evidence = evidence.expand(-1, tokens.total // len(tokens))
    problem = Problem(tokens, evidence, labels, temporal, significance, allocation, dropped, order)
    if min_fidelity is None:
        return _solve(problem, *_budget(tokens.grid, budget, temporal_ratio, spatial_ratio))
    if budget is not None or spatial_ratio is not None:
        raise VTCError("min_fidelity finds the budget by itself; give it without ratio and spatial_ratio")
    return _reach(problem, min_fidelity, temporal_ratio)


def _budget(
    grid: tuple[int, int, int], budget: int | None, temporal_ratio: float | None, spatial_ratio: float | None
) -> tuple[int, int | None]:
    """K and the number of segments, None where it is to be chosen."""
    frames, patches = grid[0], grid[1] * grid[2]
    in_time, in_space = temporal_ratio is not None, spatial_ratio is not None
    along = check_ratio("temporal_ratio", temporal_ratio if in_time else 1, frames)
    across = check_ratio("spatial_ratio", spatial_ratio if in_space else 1, patches)
    if budget is None:
        if not in_time and not in_space:
            raise VTCError("lftr was given no budget; set ratio, temporal_ratio, spatial_ratio or min_fidelity")
        count = max(1, round(frames / along))
        wanted = max(1, round(frames * patches / (along * across)))
        return (count * patches if across == 1 else min(wanted, count * patches)), count
    if in_time and in_space:
        raise VTCError("ratio, temporal_ratio and spatial_ratio were all given; any two of them fix the third")
    if not in_time and not in_space:
        return budget, None
    total, part = frames * patches / budget, along if in_time else across
    if part > total * (1 + 0.5 / budget) + 0.5:
        raise MinimumBudgetError(
            f"{'temporal' if in_time else 'spatial'}_ratio is {part:g}, more than the whole reduction of {total:g}; "
            f"choose 1 to {total:g}"
        )
    return budget, max(1, round(frames / (along if in_time else total / across)))


def _solve(problem: Problem, budget: int, count: int | None) -> Reduction:
    """Reduce to the budget; without a number of segments, choose the one that covers the source best."""
    frames, height, width = problem.tokens.grid
    lowest, highest = -(-budget // (height * width)), min(frames, budget)
    if count is not None:
        return both_stages(problem, problem.tokens, budget, min(max(count, lowest), highest))
    sketch = problem.sketch

    def covered(count: int) -> float:
        return float(even(coverage(sketch.values, both_stages(problem, sketch, budget, count), _SAMPLE).mean()))

    with few_threads(sketch.values.numel()):
        count = max(_ladder(lowest, highest), key=covered)
    result = both_stages(problem, problem.tokens, budget, count)
    return replace(result, notes=(_split_note(budget, count, frames),))


def _ladder(lowest: int, highest: int) -> list[int]:
    """All whole numbers of the range, or up to 10 of them in equal steps of their logarithm."""
    if highest - lowest < _CANDIDATES:
        return list(range(lowest, highest + 1))
    steps = torch.logspace(math.log10(lowest), math.log10(highest), _CANDIDATES, dtype=torch.double)
    return sorted({lowest, highest, *steps.round().long().clamp(lowest, highest).tolist()})


def _reach(problem: Problem, fidelity: float, temporal_ratio: float | None) -> Reduction:
    """The smallest budget that reaches the fidelity, bisected for each T' apart: one frame more lowers coverage."""
    if not 0 <= fidelity <= 1:
        raise VTCError(f"min_fidelity is {fidelity!r}; coverage lies between 0 and 1")
    tokens, enough = problem.tokens, fidelity - 1e-6  # a cosine of equal vectors can fall short of 1 by rounding
    frames, patches = len(tokens), tokens.total // len(tokens)
    counts = [*range(1, frames + 1)] if frames <= _TRIED_ALL else _ladder(1, frames)
    if temporal_ratio is not None:
        counts = [max(1, round(frames / check_ratio("temporal_ratio", temporal_ratio, frames)))]

    def attempt(budget: int, count: int) -> tuple[float, Reduction]:
        result = _solve(problem, budget, count)
        return float(coverage(tokens.values, result).mean()), result

    best, limit = None, tokens.total
    for count in counts:
        high = min(limit, count * patches)
        found = attempt(high, count)
        if found[0] < enough:
            continue
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            trial = attempt(middle, count)
            if trial[0] >= enough:
                high, found = middle, trial
            else:
                low = middle
        best, limit = (*found, count), high - 1
        if not limit:
            break
    if best is None:
        raise VTCError(
            f"min_fidelity {fidelity:g} is out of reach with temporal_ratio {temporal_ratio:g}, where whole frames "
            f"cover {found[0]:.4f}; ask for less or leave temporal_ratio out"
        )
    covered, result, count = best
    note = f"coverage {covered:.4f} reaches min_fidelity {fidelity:g} with {len(result)} of {tokens.total} tokens"
    return replace(result, notes=(note,) if temporal_ratio else (_split_note(len(result), count, frames), note))


def _split_note(budget: int, count: int, frames: int) -> str:
    return f"automatic split: {count} of {frames} frames, {budget / count:.1f} patches each"
