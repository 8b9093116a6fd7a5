"""Rebuild a clip from what a reduction kept, and measure how far it is from the clip in pixels."""

import math
from dataclasses import replace

import numpy as np
import skimage  # loads its parts when they are first used
import torch
from PIL import Image

from vtc_lab.reducers.ops import few_threads, normalise, weighted_sums
from vtc_lab.tokens import Clip, Reduction, VTCError, demand

_PIXEL_BLOCK = 256  # values of a patch merged at a time, so that no float copy of the clip is held
_WINDOW = 11  # side in pixels of the window of SSIM; a frame has to hold one


def rebuild(clip: Clip, reduction: Reduction) -> Clip:
    """Return the clip as the kept tokens would show it if a token were the pixels of its patch.

    The reduction's grid is stretched over the frame, so the reduction may come from any encoder. Patches are merged
    with the reduction's own groups and weights (as shares that sum to 1: a method that adds tokens up would give a
    picture brighter than white), and each patch is replaced by its `Reduction.representative`. Our definition.

    Parameters
    ----------
    clip : T frames, of any size.
    reduction : of a (T, h, w) grid, with at least one token.

    Returns
    -------
    Clip of the same times, resized to the nearest size of whole patches and of at least 11 pixels.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 90, 120, 3), np.uint8), np.arange(4.0))
    >>> reduced = vtc.reduce(vtc.VideoTokens(torch.randn(4, 8, 8, 16)), "lftr", ratio=4)
    >>> rebuild(clip, reduced).frames.shape
    (4, 88, 120, 3)
    """
    return _rebuilt(_whole_patches(clip, reduction), reduction)


def pixel_fidelity(clip: Clip, reduction: Reduction) -> dict[str, float]:
    """Compare a clip with the one that `rebuild` makes of it, both at the rebuilt size.

    Parameters
    ----------
    clip, reduction : as for `rebuild`.

    Returns
    -------
    dict of two numbers:

    - psnr: 10 log10(255^2 / MSE) in dB, 0 to infinity, which it is where no pixel differs. The mean squared error is of
      all frames and colours together, because a mean over frames would be infinite as soon as one frame is whole.
    - ssim: structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004: Gaussian window of 11 pixels, sigma 1.5,
      K1 = 0.01, K2 = 0.03), mean over pixels, colours and frames. -1 to 1; 1 where no pixel differs.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip = Clip(np.zeros((4, 90, 120, 3), np.uint8), np.arange(4.0))
    >>> pixel_fidelity(clip, vtc.reduce(vtc.VideoTokens(torch.randn(4, 8, 8, 16)), "lftr", ratio=1))
    {'psnr': inf, 'ssim': 1.0}
    """
    source = _whole_patches(clip, reduction)
    pairs = list(zip(source.frames, _rebuilt(source, reduction).frames, strict=True))
    error = np.mean([skimage.metrics.mean_squared_error(*pair) for pair in pairs])
    as_in_2004 = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    alike = [
        skimage.metrics.structural_similarity(*pair, channel_axis=-1, data_range=255, **as_in_2004) for pair in pairs
    ]
    return {"psnr": 10 * math.log10(255**2 / error) if error else math.inf, "ssim": float(np.mean(alike))}


def _whole_patches(clip: Clip, reduction: Reduction) -> Clip:
    """Return the clip at the nearest size that the patch grid divides."""
    demand(Clip, clip)
    demand(Reduction, reduction)
    count, *grid = reduction.grid
    if len(clip) != count:
        raise VTCError(
            f"the clip has {len(clip)} frames and the reduction {count}; rebuild a clip from its own reduction"
        )
    height, width = (
        parts * max(round(side / parts), math.ceil(_WINDOW / parts))
        for side, parts in zip(clip.frames.shape[1:3], grid, strict=True)
    )
    pictures = (Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR) for frame in clip.frames)
    return replace(clip, frames=np.stack([np.asarray(picture) for picture in pictures]))


def _rebuilt(clip: Clip, reduction: Reduction) -> Clip:
    """Replace each patch of a clip of whole patches by its representative."""
    reduction = reduction.to("cpu")
    (count, rows, columns), frames = reduction.grid, torch.from_numpy(clip.frames)
    tall, wide = frames.shape[1] // rows, frames.shape[2] // columns
    patches = frames.view(count, rows, tall, columns, wide, 3).transpose(2, 3).reshape(reduction.total, -1)
    home, share = reduction.representative, normalise(reduction.weight, reduction.assign, len(reduction))
    rebuilt = torch.empty_like(patches)
    with few_threads(patches.numel()):
        for part, place in zip(patches.split(_PIXEL_BLOCK, 1), rebuilt.split(_PIXEL_BLOCK, 1), strict=True):
            merged = weighted_sums(part.float(), reduction.assign, share, len(reduction))
            place.copy_(merged.round().clamp(0, 255)[home])
    grid = rebuilt.view(count, rows, columns, tall, wide, 3).transpose(2, 3)
    return replace(clip, frames=grid.reshape(frames.shape).numpy())
