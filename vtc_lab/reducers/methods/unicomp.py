"""UniComp: runs of like frames become one, rare ones get more of the budget, and in each the unique patches stay."""

import math
from typing import Annotated

import torch
from torch import Tensor

from vtc_lab.reducers.clusters import pick_in_order
from vtc_lab.reducers.ops import apportion, cosines, even, frame_means, gather, group_means, ranks, top, unit
from vtc_lab.reducers.registry import method
from vtc_lab.tokens import Reduction, VideoTokens

_ELEMENTS = 1 << 24  # of a block of cosines: 64 MB


@method(
    paper="arXiv 2512.03575",
    year=2025,
    kind="merges",
    ours="where fused frames or picked patches are fewer than the budget: long groups are halved, unique patches added",
)
def unicomp(
    tokens: VideoTokens, budget: int, *, frame: Annotated[float, 0, 2] = 0.005, patch: Annotated[float, 0, 2] = 0.2
) -> Reduction:
    """Fuse runs of like frames, share the budget by how unlike the others they are, and keep patches unlike another.

    A frame joins the open group while 1 - cos of its mean to that of the group's first is at most `frame` and the group
    has at most floor(M / K) + 1 frames; a group becomes its mean. Groups of T' are halved, the longest first, until
    they hold K. With s a group's mean cosine to all of them, its share is softmax((mean s - s) * sqrt(T')) of K,
    rounded down and at most max(1, 2 * floor(K / T')); what is left goes evenly to groups below that.

    In a group, patches are gone through by rising mean cosine to all of them: one is picked unless 1 - cos to one
    picked before is below `patch`. The first of them stay, each as half itself and half the mean of itself and of those
    that it kept from being picked (in the paper a patch may count for several). A share that a group cannot use goes
    evenly to groups that had to cut, then to the most unique patches not picked, as they are.

    The original compares the keys of the encoder's last layer, which do not come with tokens, and puts a newline token
    after every group. Cost: T' * N^2 * D.

    >>> unicomp(VideoTokens(torch.ones(4, 2, 2, 8)), 4).assign.view(4, 4).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    """
    patches = tokens.total // len(tokens)
    device = tokens.values.device
    group = _runs(tokens.values, frame, tokens.total // budget + 1, -(-budget // patches)).to(device)
    cell = group[:, None] * patches + torch.arange(patches, device=device)
    number = int(group[-1]) + 1
    fused = group_means(tokens.values.flatten(0, 2), cell.flatten(), number * patches).view(number, patches, -1)
    unique, picked, owner = _pick(fused, patch)
    found = picked.sum(1)
    even_share = torch.ones_like(found)
    count = _allot(unit(fused.mean(1)), budget, patches).minimum(found)
    count += apportion(even_share, min(budget, int(found.sum())) - int(count.sum()), found - count)
    place = torch.arange(patches, device=device).expand_as(owner)
    rank = ranks(unique.masked_fill(~picked, -torch.inf))
    kept = picked & (rank < count[:, None])
    added = top(unique.masked_fill(picked, -torch.inf).flatten(), budget - int(count.sum()))
    kept.view(-1)[added] = True
    home = torch.where(kept, place, torch.where(kept.gather(1, owner), owner, -1))
    own = home == place
    first = torch.searchsorted(group, torch.arange(number, device=device))[:, None] * patches
    members = torch.zeros_like(home).scatter_add_(1, home.clamp(min=0), (home >= 0).long())
    weight = own + 1 / members.gather(1, home.clamp(min=0)).clamp(min=1)
    return gather(tokens, torch.where(home >= 0, home + first, -1)[group].flatten(), weight[group].flatten())


def _runs(values: Tensor, tau: float, most: int, least: int) -> Tensor:
    """(T,) the group of each frame: at most `most` like frames, and at least `least` groups."""
    mean = frame_means(values)
    far = (1 - cosines(mean, mean)).tolist()
    lengths = [1]
    for t in range(1, len(values)):
        if far[t - lengths[-1]][t] <= tau and lengths[-1] < most:
            lengths[-1] += 1
        else:
            lengths.append(1)
    while len(lengths) < least:
        longest = lengths.index(max(lengths))
        length = lengths[longest]
        lengths[longest : longest + 1] = [length - length // 2, length // 2]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def _allot(mean: Tensor, budget: int, patches: int) -> Tensor:
    """(T',) the share of each group, given the unit mean of each."""
    alike = even(mean @ mean.mean(0)).double()
    share = ((alike.mean() - alike) * math.sqrt(len(mean))).softmax(0) * budget
    most = min(patches, max(1, 2 * (budget // len(mean))))
    count = (share + 1e-6).floor().long().clamp(max=most)  # a whole number may come out slightly too small
    return count + apportion(torch.ones_like(count), budget - int(count.sum()), most - count)


def _pick(fused: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """(T', N) each: 1 - mean cosine to the frame, whether a patch is picked, and the picked one that stands for it."""
    found = []
    for part in fused.split(max(1, _ELEMENTS // fused.shape[1] ** 2)):
        rows = unit(part)
        unique = even(1 - (rows @ rows.mean(1)[..., None])[..., 0])
        order = top(unique, unique.shape[1])
        rows = rows.take_along_dim(order[..., None], 1)
        near = 1 - cosines(rows, rows) < tau
        near.diagonal(dim1=1, dim2=2).fill_(True)
        picked = pick_in_order(near)
        owner = order.gather(1, (near & picked[:, None]).byte().argmax(-1))  # the first of them
        back = order.argsort(1)
        found.append((unique, picked.gather(1, back), owner.gather(1, back)))
    unique, picked, owner = (torch.cat(each) for each in zip(*found, strict=True))
    return unique, picked, owner
