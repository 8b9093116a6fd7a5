"""Significance of frames and patches, from token features alone."""

import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, cosine, even


def changes(now: Tensor, before: Tensor) -> Tensor:
    """Return (n, N) float32: 1 - cosine of n pairs of frames (n, N, D), position by position."""
    found = torch.empty(now.shape[:2], device=now.device)
    for part in blocks(now):
        found[part] = even(1 - cosine(now[part].float(), before[part].float()))
    return found


def difference(values: Tensor) -> Tensor:
    """Return (T, N) float32: 1 - cosine of each patch to the same place one frame before, inf in the first frame."""
    frames = values.flatten(1, 2)
    return torch.cat(
        [torch.full_like(frames[:1, :, 0], torch.inf, dtype=torch.float32), changes(frames[1:], frames[:-1])]
    )


def patch_significance(values: Tensor, kind: str) -> Tensor:
    """Return the (T, N) float32 significance of each patch of (T, h, w, D) values: "distinct" or "neighbours"."""
    return torch.cat([1 - _likeness(values[part].float(), kind).flatten(1) for part in blocks(values)])


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
