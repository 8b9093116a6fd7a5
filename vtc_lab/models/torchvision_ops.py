"""Lets torchvision built for CUDA import beside a CPU torch; import this before transformers.

Video processors use torchvision's transforms, which are plain Python. Its compiled operators do not load beside a CPU
torch, and its import fails because two of them are then not declared; to declare them is enough.
"""

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    _OPERATORS = torch.library.Library("torchvision", "DEF")  # must outlive the import
    _OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
