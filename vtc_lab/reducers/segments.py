"""Cuts of a clip into T' contiguous segments, as functions from T' to the (T, S) labels 0 to T'-1.

S is 1, or N where each grid position is cut on its own; labels do not decrease in time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Labels = Callable[[int], Tensor]


def greedy(evidence: Tensor) -> Labels:
    """Cut before the frames of largest evidence (T, S), which is inf for the first frame.

    >>> greedy(torch.tensor([[torch.inf], [0.1], [0.7], [0.2]]))(2).flatten().tolist()
    [0, 0, 1, 1]
    """
    rank = evidence.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    return lambda count: (rank < count).long().cumsum(0) - 1


def optimal(values: Tensor, per_position: bool) -> Labels:
    """Cut the values (T, h, w, D) so that the squared deviation from the segment means is least, the earliest on ties.

    The cost is T^2 * N * D for the inner products and T' * T^2 for the dynamic programme.

    >>> optimal(torch.tensor([0.0, 0.1, 1.0, 1.1]).view(4, 1, 1, 1), False)(2).flatten().tolist()
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
