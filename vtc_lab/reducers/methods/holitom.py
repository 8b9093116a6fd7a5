"""HoliTom, outer stage: windows in which much stands still, merged in time, then thinned out in space."""

from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import merge_static, take_apart
from vtc_lab.reducers.ops import attention, difference, gather, hand_out, ranks, sinks
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_NEIGHBOURS, _OWN = 7, 0.6
_STILL = 0.07 / 0.04  # of what `sink` takes off the saliency, what it adds to the cosines


@method(paper="arXiv 2505.21334", year=2025, needs="attention", kind="merges")
def holitom(
    tokens: VideoTokens,
    budget: int,
    *,
    tau: Annotated[float | None, -1, 1] = None,
    sink: Annotated[float, 0, 100] = 0.0,
) -> Reduction:
    """Cut the clip into the windows that save most by merging static positions, then thin out both kinds of token.

    A position is static in a window if the cosine of all its consecutive frames there is above `tau` (by default 0.8,
    and 0.65 from 10x on, as in the paper). A dynamic programme picks the windows that maximise the sum of static
    positions * (length - 1), the shortest last window on ties. A static position becomes its mean over the window, in
    its first frame. The budget is shared in proportion to what there is, rounded to the nearest for static positions
    and up for dynamic ones. The static positions of a window are clustered by density peaks (k = min(7, clusters)),
    and a cluster becomes 0.6 * centre + 0.4 * mean of the others; of the dynamic patches of a frame those of highest
    saliency stay. Where merging leaves fewer tokens than the budget, static positions are taken apart again, those of
    lowest mean cosine first; the original does not reach such budgets. Its inner stage, which merges inside the
    language model, is left out. Cost: T * N * D + T^2, and N^2 * D a window.

    `sink` times `sinks` is taken off the saliency (SToP, arXiv 2604.20937, takes 0.04), and 1.75 times as much is added
    to the cosines, which makes such positions static more easily.

    >>> still = VideoTokens(torch.randn(1, 3, 3, 8).expand(4, 3, 3, 8), torch.rand(4, 3, 3))
    >>> holitom(still, 9).kept.flatten(1).sum(1).tolist()
    [9, 0, 0, 0]
    """
    if tau is None:
        tau = 0.65 if tokens.total >= 10 * budget else 0.8
    alike = 1 - difference(tokens.values)
    if sink:
        alike = alike + _STILL * sink * sinks(tokens)
    window, static = _windows(alike, tau)
    length = torch.bincount(window)
    inside = torch.where(window.diff(prepend=window[:1] - 1)[:, None] == 0, alike, 0)  # links within a window
    links = torch.zeros(static.shape, device=alike.device).index_add_(0, window, inside)
    static = take_apart(static, links / (length - 1).clamp(min=1)[:, None], length, budget)
    still = static[window]  # (T, N)
    size = torch.cat([static.sum(1), (~still).sum(1)])
    is_static = torch.arange(len(size), device=size.device) < len(static)
    count = hand_out(size, budget, size, torch.where(is_static, 0.5, 0.0))
    patches = still.shape[1]
    place = torch.arange(tokens.total, device=still.device).view_as(still)
    kept = ranks(attention(tokens, sink).masked_fill(still, -torch.inf)) < count[len(static) :, None]
    home = torch.where(kept, place, -1)
    clusters = count[: len(static)]
    merged, cluster = merge_static(
        tokens.values.flatten(1, 2), static, window, clusters, clusters.clamp(max=_NEIGHBOURS)
    )
    home = torch.where(still, merged, home)
    centre = merged % patches == place % patches
    weight = torch.where(still, torch.where(centre, _OWN, (1 - _OWN) / (cluster - 1).clamp(min=1)), 1.0)
    return gather(tokens, home.flatten(), weight.flatten())


def _windows(alike: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """(T,) the window of each frame, and (windows, N) which positions are static in it."""
    frames = len(alike)
    time = torch.arange(frames, device=alike.device)
    # How many links above tau end at each token; a position is static in i..j if at least j - i do at j.
    run = time[:, None] - torch.where(alike > tau, 0, time[:, None]).cummax(0).values
    exactly = torch.zeros(frames, frames + 1, device=alike.device, dtype=torch.long)
    exactly.scatter_add_(1, run, torch.ones_like(run))
    count = exactly.flip(1).cumsum(1).flip(1).tolist()  # at [j][l] positions whose run is at least l
    best, start = [0], [0]
    for j in range(frames):
        gains = [best[i] + count[j][j - i] * (j - i) for i in range(j, -1, -1)]  # the latest start first
        best.append(max(gains))
        start.append(j - gains.index(best[-1]))
    label, end = torch.zeros(frames, dtype=torch.long), frames
    while end > 0:
        end = start[end]
        label[end:] += 1
    label = (label - 1).to(alike.device)
    length = torch.bincount(label)
    last = length.cumsum(0) - 1
    return label, (run[last] >= (length - 1)[:, None]) & (length > 1)[:, None]
