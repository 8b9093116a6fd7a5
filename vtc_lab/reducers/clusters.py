"""Clustering that the published methods share: density peaks, the most diverse subset, cuts between shots."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import cosine, cosines, even, length, ranks, top, unit, weighted_sums

_ELEMENTS = 1 << 23  # of a block of distances or cosines: 32 MB in float32
_KEPT = 1 << 25  # distances of the rows of a set that are held together: 128 MB
_FINE = 1 << 20
_NOISE = 4e-12  # rows are equal whose variance is below this share of their largest square


def shots(mean: Tensor, below: float, at_least: int = 8) -> Tensor:
    """Return the (T,) long label of each frame's shot, 0 upwards, given the frames' means (T, D).

    A shot ends where the cosine between the means of two adjacent frames is below the threshold, and at the
    at_least - 1 lowest cosines in any case (ties to the earlier).
    """
    alike = even(cosine(mean[1:], mean[:-1]))
    cut = alike < below
    cut[top(-alike, at_least - 1)] = True
    return torch.cat([cut.new_zeros(1), cut]).long().cumsum(0)


def peak_of_each(rows: Tensor, member: Tensor, sizes: Tensor, count: Tensor, neighbours: Tensor | int) -> Tensor:
    """Return (m,) long: for each member the row that is the nearest centre of its set, -1 where there is none.

    A centre names itself. Centres have the highest density * delta (DPC-KNN): density = exp(-mean squared distance to
    the k nearest members, itself included), delta = distance to the nearest denser one (for the densest: to the
    farthest). Distances are divided by the root of the channels, as in TCFormer. Ties go to the earlier member, in
    density too; TCFormer and its users add noise of up to 1e-6 to the density instead.

    Parameters
    ----------
    rows : (n, D).
    member : (m,) distinct indices of rows, those of one set after those of the other.
    sizes, count : (S,) long, how many members each set has, and how many of them are to be centres.
    neighbours : k, one for all or (S,) long.

    >>> rows = torch.tensor([0.0, 0.25, 0.5, 1, 1.75, 2])[:, None]
    >>> peak_of_each(rows, torch.arange(6), torch.tensor([6]), torch.tensor([2]), 4).tolist()
    [2, 2, 2, 2, 4, 4]
    """
    home = torch.where(torch.repeat_interleave(count == sizes, sizes), member, -1)
    neighbours = torch.as_tensor(neighbours, device=rows.device).minimum(sizes)
    first, todo = sizes.cumsum(0) - sizes, (count > 0) & (count < sizes)
    for size in sizes[todo].unique().tolist():  # sets of the same size in one piece, as far as memory allows
        same = (todo & (sizes == size)).nonzero().flatten()
        for some in same.split(max(1, _ELEMENTS // (16 * size * max(size, rows.shape[1])))):
            place = first[some, None] + torch.arange(size, device=rows.device)
            which = member[place]
            inside = rows.index_select(0, which.flatten()).view(*which.shape, -1).double()
            home[place] = which.gather(1, _nearest_peak(inside, count[some], neighbours[some]))
    return home


def merge_static(
    frames: Tensor, static: Tensor, window: Tensor, count: Tensor, neighbours: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Cluster the static positions of each window by density peaks of their means over its frames.

    frames is (T, N, D), static (W, N) bool, window (T,), count (W,) the clusters of each window. Returns (T, N) long
    each: the raster index of the token that a static patch goes into, in the window's first frame (-1 for none and for
    patches that are not static), and how many positions its cluster has.
    """
    patches, still = static.shape[1], static[window]
    length = torch.bincount(window)
    place = (static.flatten().cumsum(0) - 1).view_as(static)[window]  # among the static positions of all windows
    position = static.flatten().nonzero().flatten()
    weight = (1 / length.float())[window, None].expand_as(place)
    means = weighted_sums(frames, torch.where(still, place, -1).flatten(), weight.flatten(), len(position))
    every = torch.arange(len(position), device=frames.device)
    peaks = peak_of_each(means, every, static.sum(1), count, neighbours)
    start = (length.cumsum(0) - length)[position // patches] * patches
    home = torch.where(peaks >= 0, start + position[peaks] % patches, -1)
    size = torch.bincount(peaks[peaks >= 0], minlength=len(peaks))[peaks]
    found = torch.stack([torch.full_like(place, -1), torch.zeros_like(place)])
    found[:, still] = torch.stack([home, size])[:, place[still]]
    return found[0], found[1]


def _nearest_peak(rows: Tensor, count: Tensor, neighbours: Tensor) -> Tensor:
    """(b, n) the nearest centre of each row of sets (b, n, D), of doubles, which keep ties."""
    sets, size, channels = rows.shape
    square = length(rows).square()
    spread = square.mean(1) - rows.mean(1).square().sum(1)  # mean squared distance to the centre
    spread = torch.where(spread > _NOISE * square.amax(1), spread, torch.inf)[:, None]
    step = max(1, _ELEMENTS // (sets * size))
    parts = [slice(start, start + step) for start in range(0, size, step)]

    def distances(part: slice, others: slice | Tensor = slice(None)) -> Tensor:
        """Squared distances of some rows to others in units of the spread."""
        both = square[:, part, None] + square[:, None, others]
        return torch.baddbmm(both, rows[:, part], rows[:, others].mT, alpha=-2).div_(spread[..., None])

    def rounded(far: Tensor) -> Tensor:
        """As multiples of 1 / _FINE."""
        return far.mul_(_FINE).round_().float()

    most, known = int(neighbours.amax()), []
    beyond = torch.arange(most, device=rows.device) >= neighbours[:, None, None]
    sparse, delta = torch.empty_like(square), torch.empty_like(square)
    for part in parts:
        far = distances(part)
        sparse[:, part] = far.topk(most, largest=False).values.masked_fill_(beyond, 0).sum(2)
        if sets * size**2 <= _KEPT:  # else they are computed anew
            known.append(rounded(far))
    sparse = even(sparse / neighbours[:, None])  # minus the logarithm of the density, in units of the spread
    place = ranks(-sparse)
    for part, far in zip(parts, known or (rounded(distances(part)) for part in parts), strict=True):
        denser = far.masked_fill(place[:, None] >= place[:, part, None], torch.inf).amin(2)
        delta[:, part] = torch.where(denser.isinf(), far.amax(2), denser)
    # log(density * delta); where distances are large, divided by the square of their scale.
    scale = torch.where(spread.isinf(), 0, spread / channels)
    score = (delta / _FINE).log() / 2 / scale.clamp(min=1) - sparse * scale.clamp(max=1)
    peak = ranks(even(score)) < count[:, None]
    if known:
        home = torch.cat([far.masked_fill(~peak[:, None], torch.inf).argmin(2) for far in known], 1)
    else:  # one large set
        centre = peak[0].nonzero().flatten()
        home = torch.cat([centre[rounded(distances(part, centre)).argmin(2)] for part in parts], 1)
    return torch.where(peak, torch.arange(size, device=home.device), home)


def most_alike(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest cosine of each row to any of the others, and the index of that one, (n,) each."""
    best = [cosines(part, others).max(1) for part in rows.split(max(1, _ELEMENTS // len(others)))]
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
