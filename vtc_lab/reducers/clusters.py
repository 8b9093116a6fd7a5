"""Clustering that the published methods share: density peaks, the most diverse subset, cuts between shots."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, cosine, even, top, unit

_ELEMENTS = 1 << 24  # of a block of distances or cosines: 64 MB
_SAME = 1e-5  # squared distances below this share of the squared norms are rounding


def shots(values: Tensor, below: float, at_least: int = 8) -> Tensor:
    """Return the (T,) long label of each frame's shot, 0 upwards.

    A shot ends where the cosine between the means of two adjacent frames is below the threshold, and at the
    at_least - 1 lowest cosines in any case (ties to the earlier).
    """
    mean = torch.cat([values[part].float().mean((1, 2)) for part in blocks(values)])
    alike = cosine(mean[1:], mean[:-1])
    cut = alike < below
    cut[top(-alike, at_least - 1)] = True
    return torch.cat([cut.new_zeros(1), cut]).long().cumsum(0)


def density_peaks(rows: Tensor, count: int, neighbours: int) -> Tensor:
    """Return (count,) long, ascending: the rows (n, D) that are cluster centres by density and distance (DPC-KNN).

    Those of highest density * delta: density = exp(-mean squared distance to the k nearest neighbours), delta =
    distance to the nearest denser row (for the densest: to the farthest). Distances are divided by the root of the
    channels, as in TCFormer. Ties go to the lower index, in density too.
    """
    number, k = len(rows), min(neighbours, len(rows) - 1)
    if count == number:
        return torch.arange(number, device=rows.device)
    near = [far.topk(k, largest=False).values for _, far in _distances(rows, apart=True)]
    density = -torch.cat(near).square().mean(1)
    place = torch.empty(number, dtype=torch.long, device=rows.device)
    place[density.argsort(descending=True, stable=True)] = torch.arange(number, device=rows.device)
    delta = []
    for part, far in _distances(rows):
        denser = far.masked_fill(place[None] >= place[part, None], torch.inf).amin(1)
        delta.append(torch.where(denser.isinf(), far.amax(1), denser))
    return top(density + torch.cat(delta).log(), count).sort().values


def closest(rows: Tensor, centre: Tensor) -> Tensor:
    """Return (n,) long: the centre (an index of a row) nearest to each row, a centre naming itself."""
    home = torch.cat([far.argmin(1) for _, far in _distances(rows, centre)])
    home[centre] = torch.arange(len(centre), device=rows.device)
    return centre[home]


def peak_of_each(rows: Tensor, count: int, neighbours: int) -> Tensor:
    """Return (n,) long: for each row the nearest of `count` density peaks."""
    return closest(rows, density_peaks(rows, count, neighbours))


def most_alike(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest cosine of each row to any of the others, and the index of that one, (n,) each."""
    others = unit(others)
    best = [(unit(part) @ others.T).max(1) for part in rows.split(max(1, _ELEMENTS // len(others)))]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])


def _distances(rows: Tensor, columns: Tensor | None = None, apart: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows with their distances to all or some rows over sqrt(D); `apart`: a row is inf from itself."""
    rows = rows - rows.mean(0)  # distances do not see a common offset, but their float32 products would
    square = rows.square().sum(1)
    others, size = (rows, square) if columns is None else (rows[columns], square[columns])
    for part in torch.arange(len(rows), device=rows.device).split(max(1, _ELEMENTS // len(others))):
        far = torch.addmm(square[part, None] + size, rows[part], others.T, alpha=-2)
        far = torch.where(far < _SAME * (square[part, None] + size), 0, far / rows.shape[1]).sqrt()
        if apart:
            far[part - part[0], part] = torch.inf
        yield part, far


def most_diverse(rows: Tensor, count: int, pool: int = 256) -> Tensor:
    """Return (count,) long: the greedy max-min subset of the rows (n, D) by cosine distance, in the order of picking.

    First the row farthest from its nearest neighbour, then always the row farthest from all picked ones; ties go to the
    lower index. Distances only shrink, so the next picks are among the rows that are farthest now: a pool of them is
    compared in one product and picked from for as long as none outside can be farther.
    """
    rows = unit(rows)
    number = len(rows)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return even(1 - a @ b.T)

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
