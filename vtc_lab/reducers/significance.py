"""What makes a frame or a patch significant, from token features alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vtc_lab.reducers.ops import blocks, cosine, even


def difference(values: Tensor) -> Tensor:
    """(T, N) float32: 1 - cosine of each patch to the same place one frame before; the first frame is 0."""
    frames = values.flatten(1, 2)
    change = torch.zeros(frames.shape[:2], device=values.device)
    for part in blocks(frames[1:]):
        now, before = frames[1:][part].float(), frames[:-1][part].float()
        change[1:][part] = even(1 - cosine(now, before))
    return change


def patch_significance(values: Tensor, kind: str) -> Tensor:
    """(T, N) float32 significance of each patch of (T, h, w, D) values: "distinct" or "neighbours"."""
    parts = []
    for part in blocks(values):
        frame = values[part].float()
        if kind == "distinct":
            parts.append(1 - cosine(frame, frame.mean((1, 2), keepdim=True)).flatten(1))
            continue
        total, count = (
            torch.zeros(frame.shape[:3], device=values.device),
            torch.zeros(frame.shape[1:3], device=values.device),
        )
        for axis in (1, 2):
            size = frame.shape[axis]
            alike = cosine(frame.narrow(axis, 1, size - 1), frame.narrow(axis, 0, size - 1))
            for start in (0, 1):  # each pair counts for both of its patches
                total.narrow(axis, start, size - 1).add_(alike)
                count.narrow(axis - 1, start, size - 1).add_(1)
        parts.append(1 - (total / count.clamp(min=1)).flatten(1))
    return torch.cat(parts)
