"""Tensor operations that the methods share, a few frames at a time in float32, which keeps memory near the output's."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vtc_lab.tokens import Reduction, VideoTokens, VTCError, tensors_beside

_QUERIES = 729  # of the tower for which SToP gives its numbers
_BLOCK = 1 << 18  # elements of one working block: 1 MB in float32, which stays in a core's cache
_DEVICE_BLOCK = 1 << 26  # away from the CPU, where starting a piece of work costs more than memory
_SAFE = 1e15  # lengths from 1/_SAFE to _SAFE have squares that float32 holds
_SAME = 1e-6  # numbers that differ by less than this share of the largest differ by rounding


def blocks(values: Tensor) -> Iterator[slice]:
    """Yield slices over the first axis, at least one, each of about 1 MB in float32 on a CPU and 256 MB elsewhere."""
    elements = _BLOCK if values.device.type == "cpu" else _DEVICE_BLOCK
    step = max(1, elements // max(1, values[:1].numel()))
    for start in range(0, max(1, len(values)), step):
        yield slice(start, min(start + step, len(values)))


def wide(values: Tensor) -> Iterator[slice]:
    """Yield slices over the first axis to be made float32 one by one: all at once where they are float32 already."""
    yield from [slice(0, len(values))] if values.dtype == torch.float32 else blocks(values)


def add_up(parts: Iterable[Tensor]) -> Tensor:
    """Return the sum of the tensors, added in their order."""
    return functools.reduce(torch.add, parts)


@contextmanager
def few_threads(elements: int) -> Iterator[None]:
    """Let torch use one thread for work on small tensors: waiting for a second one on a busy machine takes longer."""
    before = torch.get_num_threads()
    if elements <= 1 << 21:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine over the last axis: 1 for two zero vectors (black frames stand still), 0 for just one."""
    left, right = length(a), length(b)
    if not (_safe(left) and _safe(right)):
        a, b = _scaled(a), _scaled(b)  # float32 cannot hold their squares
        left, right = length(a), length(b)
    tiny = torch.finfo(left.dtype).tiny
    alike = (a * b).sum(-1) / left.clamp(min=tiny) / right.clamp(min=tiny)
    return torch.where((left == 0) & (right == 0), 1.0, alike).clamp(-1, 1)


def length(vectors: Tensor) -> Tensor:
    """Return the Euclidean length over the last axis."""
    return torch.linalg.vector_norm(vectors, dim=-1)


def _safe(lengths: Tensor) -> bool:
    return bool(((lengths > 1 / _SAFE) & (lengths < _SAFE)).all())


def _scaled(vectors: Tensor) -> Tensor:
    """The vectors with 1 as their largest number, zero vectors as they are."""
    return vectors / vectors.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def even(numbers: Tensor) -> Tensor:
    """Round to 2^-20, so that numbers that differ only by the order of a summation become equal.

    Whatever is ranked, or looked for as the largest or the smallest, is rounded first: ties then fall the same way on
    every device.
    """
    return (numbers * (1 << 20)).round_().div_(1 << 20)


def minmax(scores: Tensor) -> Tensor:
    """Return the rows of (n, N) scaled to 0..1; a row of numbers that differ by rounding alone becomes 0."""
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    flat = high - low <= _SAME * scores.abs().amax(1, keepdim=True)
    return even((scores - low) / torch.where(flat, torch.inf, high - low))


def frame_means(values: Tensor) -> Tensor:
    """Return the (T, D) float32 mean of each frame of (T, h, w, D) values."""
    return torch.cat([values[part].float().mean((1, 2)) for part in wide(values)])


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Return (n, N) inner products of vectors (n, N, D), without a product of their size."""
    if not (a.is_contiguous() and b.is_contiguous()):
        return torch.stack([dots(x[None].contiguous(), y[None].contiguous())[0] for x, y in zip(a, b, strict=True)])
    return torch.bmm(a.view(-1, 1, a.shape[-1]), b.view(-1, 1, b.shape[-1]).mT).view(a.shape[:-1])


def changes(now: Tensor, before: Tensor, lengths: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return (n, N) float32: 1 - cosine of n pairs of frames (n, N, D), position by position.

    `lengths` are those of the vectors, (n, N) each, for a caller who has them.
    """
    left, right = lengths or (sizes(now), sizes(before))
    if _safe(left) and _safe(right):
        found = torch.cat([dots(now[part].float(), before[part].float()) for part in wide(now)])
        return even(1 - found.div_(left).div_(right).clamp_(-1, 1))
    return even(1 - torch.cat([cosine(now[part].float(), before[part].float()) for part in blocks(now)]))


def sizes(frames: Tensor) -> Tensor:
    """Return (n, N) float32: the length of each vector of frames (n, N, D)."""
    return torch.cat([length(frames[part].float()) for part in wide(frames)])


def difference(values: Tensor) -> Tensor:
    """Return (T, N) float32: 1 - cosine of each patch to the same place one frame before, inf in the first frame."""
    frames = values.flatten(1, 2)
    own = sizes(frames)
    found = torch.full_like(own, torch.inf)
    found[1:] = changes(frames[1:], frames[:-1], (own[1:], own[:-1]))
    return found


def attention(tokens: VideoTokens, sink: float = 0.0) -> Tensor:
    """Return the (T, N) saliency of the tokens, which must carry it, with `sink` as in `sinks` taken off."""
    if tokens.saliency is None:
        raise VTCError("the tokens carry no saliency; encode with saliency=True")
    salient = tokens.saliency.flatten(1)
    if not sink:
        return salient
    unit = salient.float() / (_QUERIES * salient.float().mean().clamp(min=torch.finfo(torch.float32).tiny))
    return unit - sink * sinks(tokens)


def sinks(tokens: VideoTokens) -> Tensor:
    """Return (N,) numbers of 0 to 1: how far a position draws attention in every frame, whatever is there.

    They are the mean saliency of a position to the power of 1.1, scaled to 0..1. Source: SToP, arXiv 2604.20937, whose
    code takes multiples of them off a saliency that is a mean over the queries of SigLIP, 729.
    """
    return minmax(attention(tokens).float().mean(0, keepdim=True) ** 1.1)[0]


def unit(vectors: Tensor) -> Tensor:
    """Return unit vectors whose inner products follow `cosine`; zero vectors all point along an added channel."""
    size = length(vectors)
    if not _safe(size):
        vectors = _scaled(vectors)
        size = length(vectors)
    found = vectors.new_empty(*vectors.shape[:-1], vectors.shape[-1] + 1)
    torch.div(vectors, size.clamp(min=torch.finfo(vectors.dtype).tiny)[..., None], out=found[..., :-1])
    found[..., -1] = size == 0
    return found


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Return (..., n, m) the `cosine` of each of n rows to each of m others, rounded by `even`."""
    left, right = length(rows), length(others)
    if _safe(left) and _safe(right):
        found = (rows @ others.mT).div_(left[..., None]).div_(right[..., None, :])
    else:
        found = unit(rows) @ unit(others).mT
    return found.mul_(1 << 20).round_().div_(1 << 20)


def shares(budget: int, parts: int) -> Tensor:
    """Split a budget into whole numbers that differ by at most one, the larger ones spread evenly.

    >>> shares(10, 4).tolist()
    [2, 3, 2, 3]
    """
    return (torch.arange(parts + 1) * budget // parts).diff()


def apportion(quota: Tensor, budget: int, most: Tensor | int, least: int = 0) -> Tensor:
    """Return (n,) whole numbers that sum to the budget, in proportion to the quotas within least..most.

    A quota of 0 takes a share only when all others are full. Fractions go to the largest remainders, ties to the
    earlier.

    >>> apportion(torch.tensor([1.0, 1.0, 2.0]), 10, 4).tolist()
    [3, 3, 4]
    """
    most = torch.as_tensor(most, device=quota.device).expand(len(quota)).double()
    quota = quota.double() / quota.double().max().clamp(min=torch.finfo(torch.double).tiny)
    quota = quota.clamp(min=1e-9)

    def share(scale: float) -> Tensor:
        return (scale * quota).clamp(min=least).minimum(most)

    low, high = 0.0, 1e9 * (float(most.max()) + 1)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float(share(middle).sum()) < budget else (low, middle)
    count = (share(high) + 1e-6).floor()  # a whole number may come out slightly too small
    remainder = torch.where(count < most, even(share(high) - count), -torch.inf)
    count[top(remainder, budget - int(count.sum()))] += 1
    return count.long()


def hand_out(quota: Tensor, budget: int, most: Tensor, start: Tensor | float = 0.0) -> Tensor:
    """Return (n,) whole numbers that sum to the budget, given one by one to where (number + start) / quota is least.

    Start 0 is what rounding every share up gives, 0.5 what rounding to the nearest gives, at the scale that meets the
    budget (the divisor methods of Adams and Webster). `most` is (n,) long; ties go to the earlier.

    >>> hand_out(torch.tensor([1.0, 1.0, 2.0]), 3, torch.tensor([4, 4, 4])).tolist()
    [1, 1, 1]
    """
    part = torch.repeat_interleave(most)
    number = torch.arange(len(part), device=most.device) - (most.cumsum(0) - most)[part]
    start = torch.as_tensor(start, device=most.device, dtype=torch.double).expand(len(most))
    order = ((number + start[part]) / quota.double()[part]).argsort(stable=True)
    return torch.bincount(part[order[:budget]], minlength=len(most))


def top(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest scores along the last axis; ties go to the lower index."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count]


def ranks(scores: Tensor) -> Tensor:
    """Return the rank of each score in its row, 0 for the highest; ties in order of position."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def ranks_within(group: Tensor, scores: Tensor) -> Tensor:
    """Return (n,) the rank of each score in its group (n,), 0 for the highest; ties in order of position."""
    order = scores.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    size = torch.bincount(group)
    place = torch.arange(len(order), device=order.device) - (size.cumsum(0) - size)[group[order]]
    return torch.empty_like(order).scatter_(0, order, place)


def prune(tokens: VideoTokens, anchor: Tensor) -> Reduction:
    """Keep the tokens at these raster indices as they are and drop the rest.

    `anchor` holds (K,) distinct raster indices, a tensor or a list, in any order.

    Examples
    --------
    >>> prune(VideoTokens(torch.randn(2, 2, 2, 3)), torch.tensor([5, 0])).anchor.tolist()
    [0, 5]
    """
    (anchor,) = tensors_beside(tokens, anchor=anchor)
    indices = anchor.ndim == 1 and len(anchor) > 0 and not anchor.is_floating_point() and anchor.dtype != torch.bool
    order = anchor.long().sort().values if indices else anchor
    if not indices or order[0] < 0 or order[-1] >= tokens.total or bool((order.diff() == 0).any()):
        raise VTCError(f"anchors are {anchor.tolist()!r:.60}; give distinct raster indices, 0 to {tokens.total - 1}")
    anchor = order
    assign = torch.full((tokens.total,), -1, dtype=torch.long, device=anchor.device)
    assign[anchor] = torch.arange(len(anchor), device=anchor.device)
    kept = tokens.values.flatten(0, 2).index_select(0, anchor)
    return Reduction(kept, anchor, assign, (assign >= 0).float(), tokens.grid, encoder=tokens.encoder)


def merge(tokens: VideoTokens, group: Tensor, weight: Tensor, anchor: Tensor) -> Reduction:
    """Merge source tokens into weighted means, one for each anchor.

    Parameters
    ----------
    group : (M,) long, the group of each source token, 0 to K-1, or -1 to drop it.
    weight : (M,) float, at least 0; scaled to sum to 1 in each group (equal shares where the sum is 0).
    anchor : (K,) long, the raster index of each group's anchor, a member of that group.

    Examples
    --------
    >>> tokens = VideoTokens(torch.arange(4.0).view(4, 1, 1, 1))
    >>> group = torch.tensor([0, 0, 1, -1])
    >>> merge(tokens, group, torch.ones(4), torch.tensor([0, 2])).tokens.flatten().tolist()
    [0.5, 2.0]
    """
    group, weight, anchor = tensors_beside(tokens, group=group, weight=weight, anchor=anchor)
    if not group.shape == weight.shape == (tokens.total,) or anchor.ndim != 1 or not len(anchor):
        shapes = [tuple(each.shape) for each in (group, weight, anchor)]
        raise VTCError(f"group, weight and anchor have shapes {shapes}; they must be ({tokens.total},) twice and (K,)")
    if group.is_floating_point() or group.min() < -1 or group.max() >= len(anchor):
        raise VTCError(
            f"groups run from {group.min()} to {group.max()}; give whole numbers, -1 or 0 to {len(anchor) - 1}"
        )
    return add(tokens, group.long(), normalise(weight, group, len(anchor)), anchor.long())


def add(tokens: VideoTokens, group: Tensor, weight: Tensor, anchor: Tensor) -> Reduction:
    """Merge like `merge`, but with the weights as they are, which need not sum to 1 in a group."""
    order = anchor.argsort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    assign = torch.where(group >= 0, place[group.clamp(min=0)], -1)
    weight = torch.where(assign >= 0, weight.float(), 0)
    merged = weighted_sums(tokens.values, assign, weight, len(anchor))
    return Reduction(merged, anchor[order], assign, weight, tokens.grid, encoder=tokens.encoder)


def gather(tokens: VideoTokens, home: Tensor, weight: Tensor | None = None) -> Reduction:
    """Merge every token into the one that it names: home is (M,) long, the raster index of an anchor, or -1 to drop.

    An anchor names itself. Weights are scaled as in `merge`; without any, tokens merge into plain means.
    """
    anchor = (home == torch.arange(len(home), device=home.device)).nonzero().flatten()
    group = torch.searchsorted(anchor, home.clamp(min=0)).clamp(max=len(anchor) - 1)
    weight = torch.ones(len(home), device=home.device) if weight is None else weight
    return merge(tokens, torch.where(home >= 0, group, -1), weight, anchor)


def normalise(weight: Tensor, group: Tensor, count: int) -> Tensor:
    """Return (M,) float32 weights that sum to 1 in each of `count` groups; group -1 gets 0."""
    member = group >= 0
    home = group.clamp(min=0)
    weight = torch.where(member, weight.double(), 0)
    total = totals(weight, home, count)
    weight = torch.where(member & (total[home] == 0), 1.0, weight)  # equal shares where nothing weighs anything
    return (weight / totals(weight, home, count)[home].clamp(min=torch.finfo(torch.double).tiny)).float()


def weighted_sums(values: Tensor, group: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return (count, D) sums of weight * value over each group, computed in at least float32, in the input's dtype.

    values is (T, h, w, D) or (T, N, D); group and weight are (M,), group -1 is left out. Every group has a member. Each
    sum runs over its members in order of position, so the bits are the same from run to run.
    """
    rows = values.flatten(0, -2)
    if not count:
        return rows[:0]
    order = group.argsort(stable=True)[int((group < 0).sum()) :]
    start = torch.searchsorted(group[order], torch.arange(count, device=group.device))
    precise = rows.dtype if rows.dtype == torch.float64 else torch.float32
    share = weight[order].to(precise)

    def sums(part: Tensor) -> Tensor:
        return torch.nn.functional.embedding_bag(order, part, start, mode="sum", per_sample_weights=share)

    if rows.dtype == precise:
        return sums(rows)
    # Half precision is widened a few channels at a time, so that no full float32 copy is ever held; never fewer than
    # fill a cache line, and written into place, because small pieces kept between large ones fragment the heap.
    merged = rows.new_empty(count, rows.shape[1])
    step = max(32, _BLOCK // len(rows))
    for part, place in zip(rows.split(step, dim=1), merged.split(step, dim=1), strict=True):
        place.copy_(sums(part.float().contiguous()))
    return merged


def group_means(rows: Tensor, group: Tensor, count: int) -> Tensor:
    """Return the (count, D) float32 means of the rows (n, D) of each group; group is (n,), and no group is empty."""
    size = torch.bincount(group)[group].float()
    return weighted_sums(rows[:, None], group, 1 / size, count).float()


def nearest(frames: Tensor, kept: Tensor) -> Tensor:
    """Return (T, N) long: the raster index of the kept patch of the same frame that is nearest by cosine.

    frames is (T, N, D), kept (T, N) bool. A kept patch is its own nearest; -1 where the frame keeps none.
    """
    count = frames.shape[1]
    own = torch.arange(count, device=kept.device)
    best = []
    for part in blocks(frames):
        rows = frames[part].float()
        alike = cosines(rows, rows).masked_fill_(~kept[part][:, None, :], -torch.inf)
        best.append(torch.where(kept[part], own, alike.argmax(-1)))
    start = torch.arange(len(frames), device=kept.device)[:, None] * count
    return torch.where(kept.any(1, keepdim=True), torch.cat(best) + start, -1)


def totals(numbers: Tensor, group: Tensor, count: int) -> Tensor:
    """Return the (count,) sums of each group's numbers, with the same bits each time (unlike index_add_ on CUDA)."""
    return numbers.new_zeros(count).index_put_((group,), numbers, accumulate=True)


def coverage(values: Tensor, reduction: Reduction, sample: int | None = None) -> Tensor:
    """Return the (T, N) cosine of each token of the source (T, h, w, D) to the output that stands for it.

    That is the output it went into, and for a dropped token the most similar output of the whole clip: of two prunings
    of which one keeps all that the other does, it covers no token less. With `sample`, only that many evenly spaced
    positions of a frame are compared. The cost is (dropped tokens) * (outputs) * D.
    """
    frames = values.flatten(1, 2)
    assign = reduction.assign.view(frames.shape[:2])
    if sample is not None and sample < frames.shape[1]:
        spread = torch.arange(sample, device=assign.device) * frames.shape[1] // sample
        frames, assign = frames[:, spread], assign[:, spread]
    outputs = unit(reduction.tokens.float())
    parts = []
    for part in blocks(frames):
        source, home = frames[part].float(), assign[part]
        alike, dropped = cosine(source, reduction.tokens[home.clamp(min=0)].float()), home < 0
        if bool(dropped.any()):
            alike[dropped] = (unit(source[dropped]) @ outputs.mT).amax(-1).clamp(-1, 1)
        parts.append(alike)
    return torch.cat(parts)
