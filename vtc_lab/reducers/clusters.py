"""Clustering that the published methods share: density peaks, the most diverse subset, cuts between shots."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, cosine, cosines, even, length, top, unit

_ELEMENTS = 1 << 24  # of a block of distances or cosines: 64 MB
_NOISE = 2e-6  # rows that differ by this share of their largest number are equal
_SAME = 1e-5  # squared distances below this share of the squared norms are rounding


def shots(values: Tensor, below: float, at_least: int = 8) -> Tensor:
    """Return the (T,) long label of each frame's shot, 0 upwards.

    A shot ends where the cosine between the means of two adjacent frames is below the threshold, and at the
    at_least - 1 lowest cosines in any case (ties to the earlier).
    """
    mean = torch.cat([values[part].float().mean((1, 2)) for part in blocks(values)])
    alike = even(cosine(mean[1:], mean[:-1]))
    cut = alike < below
    cut[top(-alike, at_least - 1)] = True
    return torch.cat([cut.new_zeros(1), cut]).long().cumsum(0)


def density_peaks(rows: Tensor, count: int, neighbours: int) -> Tensor:
    """Return (count,) long, ascending: the rows (n, D) that are cluster centres by density and distance (DPC-KNN).

    Those of highest density * delta: density = exp(-mean squared distance to the k nearest rows, itself included),
    delta = distance to the nearest denser row (for the densest: to the farthest). Distances are divided by the root of
    the channels, as in TCFormer. Ties go to the lower index, in density too; TCFormer and its users add noise of up to
    1e-6 to the density instead.

    >>> density_peaks(torch.tensor([0.0, 0.25, 0.5, 1, 1.75, 2])[:, None], 2, 4).tolist()
    [2, 4]
    """
    number = len(rows)
    if count == number:
        return torch.arange(number, device=rows.device)
    rows, scale = _to_scale(rows)
    parts = [*_distances(rows, rows)] if number**2 <= _ELEMENTS else None  # else they are computed twice
    near = [far.topk(min(neighbours, number), largest=False).values for _, far in parts or _distances(rows, rows)]
    sparse = even(torch.cat(near).mean(1))  # minus the logarithm of the density, in units of the scale
    place = torch.empty(number, dtype=torch.long, device=rows.device)
    place[sparse.argsort(stable=True)] = torch.arange(number, device=rows.device)
    delta = []
    for part, far in parts or _distances(rows, rows):
        denser = far.masked_fill(place[None] >= place[part, None], torch.inf).amin(1)
        delta.append(torch.where(denser.isinf(), far.amax(1), denser))
    # log(density * delta); where distances are large, divided by the square of their scale.
    score = torch.cat(delta).log() / 2 / scale.square().clamp(min=1) - sparse * scale.square().clamp(max=1)
    return top(even(score), count).sort().values


def closest(rows: Tensor, centre: Tensor) -> Tensor:
    """Return (n,) long: the centre (an index of a row) nearest to each row, a centre naming itself."""
    rows, _ = _to_scale(rows)
    home = torch.cat([far.argmin(1) for _, far in _distances(rows, rows[centre])])
    home[centre] = torch.arange(len(centre), device=rows.device)
    return centre[home]


def peak_of_each(rows: Tensor, count: int, neighbours: int) -> Tensor:
    """Return (n,) long: for each row the nearest of `count` density peaks."""
    return closest(rows, density_peaks(rows, count, neighbours))


def most_alike(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest cosine of each row to any of the others, and the index of that one, (n,) each."""
    others = unit(others)
    best = [cosines(unit(part), others).max(1) for part in rows.split(max(1, _ELEMENTS // len(others)))]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])


def take_apart(static: Tensor, alike: Tensor, length: Tensor, budget: int) -> Tensor:
    """Return which positions stay static, (S, N) bool, if as few as needed come apart to leave `budget` tokens.

    static and alike are (S, N), length is (S,) frames of each segment, in which a static position is one token. Those
    that are least alike come apart first.
    """
    missing = budget - int((static + (~static) * length[:, None]).sum())
    order = alike.masked_fill(~static, torch.inf).flatten().argsort(stable=True)
    gained = ((length - 1)[:, None] * static).flatten()[order].cumsum(0)
    static = static.clone()
    static.view(-1)[order[: int((gained < missing).sum()) + (missing > 0)]] = False
    return static


def _to_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The centred rows over their root mean square length, and that length over the root of the channels."""
    tiny, largest = torch.finfo(rows.dtype).tiny, rows.abs().amax()
    rows = rows - rows.mean(0)  # distances do not see a common offset, but their float32 products would
    most = rows.abs().amax().clamp(min=tiny)  # the squares of 1e20 would overflow
    rows = rows / most * (most > _NOISE * largest)
    size = length(rows).square().mean().sqrt().clamp(min=tiny)
    return rows / size, most * (size / math.sqrt(rows.shape[1]))


def _distances(rows: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of the indices of rows and their squared distances to all others, rounded by `even`."""
    square, size = rows.square().sum(1), others.square().sum(1)
    for part in torch.arange(len(rows), device=rows.device).split(max(1, _ELEMENTS // len(others))):
        both = square[part, None] + size
        far = torch.addmm(both, rows[part], others.T, alpha=-2)
        far.masked_fill_(far < both.mul_(_SAME), 0)
        if rows is others and len(part) == len(rows):  # two rows are as far from each other, whoever is asked
            far = torch.minimum(far, far.T)
        yield part, far.mul_(1 << 20).round_().div_(1 << 20)


def most_diverse(rows: Tensor, count: int, pool: int = 256) -> Tensor:
    """Return (count,) long: the greedy max-min subset of the rows (n, D) by cosine distance, in the order of picking.

    First the row farthest from its nearest neighbour, then always the row farthest from all picked ones; ties go to the
    lower index. Distances only shrink, so the next picks are among the rows that are farthest now: a pool of them is
    compared in one product and picked from for as long as none outside can be farther.
    """
    rows = unit(rows)
    number = len(rows)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return cosines(a, b).neg_().add_(1)

    lonely = []
    for start in range(0, number, step := max(1, _ELEMENTS // number)):
        far = distance(rows[start : start + step], rows)
        own = torch.arange(len(far), device=rows.device)
        far[own, own + start] = torch.inf
        lonely.append(far.amin(1))
    picked = [int(torch.cat(lonely).argmax())]
    nearest = distance(rows, rows[picked])[:, 0]
    nearest[picked] = -torch.inf
    while len(picked) < count:
        order = top(nearest, pool + 1)
        members, beyond = order[:pool].sort().values, float(nearest[order[-1]]) if number > pool else -torch.inf
        among, left = distance(rows[members], rows[members]), nearest[members].clone()
        fresh: list[int] = []
        while len(picked) + len(fresh) < count:
            best = int(left.argmax())
            if fresh and float(left[best]) <= beyond:
                break
            fresh.append(best)
            left = torch.minimum(left, among[best])
            left[best] = -torch.inf
        picked += members[fresh].tolist()
        nearest = torch.minimum(nearest, distance(rows, rows[members[fresh]]).amin(1))
        nearest[picked] = -torch.inf
    return torch.tensor(picked, device=rows.device)


def pick_in_order(near: Tensor) -> Tensor:
    """Return (b, n) bool: the rows picked greedily in their order, each unless it is near one picked before it.

    near is (b, n, n) bool and symmetric. Each round picks all open rows without an earlier open row near them, which
    takes a few rounds where a loop over the rows would take n.

    >>> chain = (torch.arange(5)[:, None] - torch.arange(5)).abs() == 1
    >>> pick_in_order(chain[None]).tolist()
    [[True, False, True, False, True]]
    """
    earlier = near.tril(-1)
    picked, left = near.new_zeros(near.shape[:2]), near.new_ones(near.shape[:2])
    while bool(left.any()):
        fresh = left & ~(earlier & left[:, None]).any(-1)
        picked |= fresh
        left &= ~fresh & ~(earlier & fresh[:, None]).any(-1)
    return picked
