"""The contract: what a clip, its tokens and their reduction are.

Everything else in the package hangs on these three dataclasses, and they know nobody.
A reduction describes where every token of the *source grid* went. It never needs the
source values, so it can also describe tokens that were never computed.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


class VTCError(ValueError):
    """Something a user can mend, said in one sentence: what was wrong and what would be right."""


class MinimumBudgetError(VTCError):
    """A method cannot go down to this budget; the message states the least it can keep."""


def suggest(wrong: object, names: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest known ones, or all of them.

    >>> suggest("lfrt", ["lftr", "pool"]), suggest("x", ["lftr", "pool"])
    ("did you mean 'lftr'?", "there are 'lftr', 'pool'")
    """
    names = list(names)
    close = difflib.get_close_matches(str(wrong), names, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(map(repr, names))}" if names else "there are none"


@dataclass(frozen=True, eq=False)
class Clip:
    """Sampled frames of one video.

    Parameters
    ----------
    frames : (T, H, W, 3) uint8 array, RGB.
    times : (T,) float array, the presentation time of each frame in seconds.
    path : where the frames came from, or "" for frames made in memory.
    reader : the library that decoded them, with its version ("decord 0.6.0").
    seconds : how long reading took.

    Raises
    ------
    VTCError
        If the frames are not (T, H, W, 3) uint8 or the times do not match them.

    Examples
    --------
    >>> clip = Clip(np.zeros((4, 32, 48, 3), np.uint8), np.arange(4.0))
    >>> len(clip), clip[1:3].times.tolist()
    (4, [1.0, 2.0])
    """

    frames: np.ndarray
    times: np.ndarray
    path: str = ""
    reader: str = "memory"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        frames = np.asarray(self.frames)
        times = np.asarray(self.times, dtype=float)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise VTCError(
                f"clip frames are {frames.dtype} of shape {frames.shape}; "
                "they must be uint8 of shape (T, H, W, 3) with T, H and W at least 1"
            )
        if times.shape != frames.shape[:1]:
            raise VTCError(f"clip has {len(frames)} frames but times of shape {times.shape}; give one time per frame")
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "times", times)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frames: slice) -> Clip:
        part = _frame_slice(frames, len(self))
        return replace(self, frames=self.frames[part], times=self.times[part])

    @property
    def sha256(self) -> str:
        """Hash of the decoded frames, so that a figure can say which pixels it shows."""
        return hashlib.sha256(np.ascontiguousarray(self.frames)).hexdigest()


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """The visual tokens of one clip on their grid.

    Parameters
    ----------
    values : (T, h, w, D) floating tensor, after the projector and the model's own pooling.
    saliency : (T, h, w) floating tensor of encoder attention, or None if there is none.
    saliency_source : in words, where the saliency is from; every result that used it carries this as a note.
    encoder : the name of what made them; it is copied into every result.
    seconds : how long encoding took.

    Raises
    ------
    VTCError
        If a shape or dtype is not as above, or a saliency is negative or not finite.

    Examples
    --------
    >>> tokens = VideoTokens(torch.randn(8, 4, 4, 16))
    >>> tokens.grid, tokens.total, tokens[:2].grid
    ((8, 4, 4), 128, (2, 4, 4))
    """

    values: Tensor
    saliency: Tensor | None = None
    encoder: str = ""
    seconds: float = 0.0
    saliency_source: str = ""

    def __post_init__(self) -> None:
        values, saliency = self.values, self.saliency
        if not isinstance(values, Tensor) or values.ndim != 4 or not values.is_floating_point() or not values.numel():
            raise VTCError(
                f"token values are {_what(values)}; "
                "they must be a floating tensor of shape (T, h, w, D), none of them 0"
            )
        if saliency is not None:
            floating = isinstance(saliency, Tensor) and saliency.is_floating_point()
            if not floating or tuple(saliency.shape) != self.grid:
                raise VTCError(f"saliency is {_what(saliency)}; it must be a floating tensor of shape {self.grid}")
            if not bool((saliency.isfinite() & (saliency >= 0)).all()):
                raise VTCError("saliency holds negative or non-finite numbers; attention is finite and at least 0")

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, frames: slice) -> VideoTokens:
        part = _frame_slice(frames, len(self))
        return replace(self, values=self.values[part], saliency=None if self.saliency is None else self.saliency[part])

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, h, w): frames, patch rows, patch columns."""
        return tuple(self.values.shape[:3])

    @property
    def total(self) -> int:
        """M = T * h * w."""
        frames, height, width = self.grid
        return frames * height * width

    def to(self, device: str | torch.device) -> VideoTokens:
        """The same tokens on another device."""
        saliency = None if self.saliency is None else self.saliency.to(device)
        return replace(self, values=self.values.to(device), saliency=saliency)


@dataclass(frozen=True, eq=False)
class Reduction:
    """What stayed of a clip's tokens, and where each source token went.

    Parameters
    ----------
    tokens : (K, D) the output tokens, in the dtype of the source.
    anchor : (K,) long, raster index (t, y, x) of each output token, strictly increasing;
        a merged token takes its anchor's position.
    assign : (M,) long, the output each source token went into, or -1 if it was dropped.
    weight : (M,) float32, the share of each source token in its output: a merged token is the
        weighted sum of its members. 0 where dropped.
    grid : (T, h, w) of the source; M = T * h * w.
    method, options : the registered name and every option in force, defaults included.
    notes : what a reader must know beside the numbers (a fallback, an automatic choice).
    encoder : the name of what made the source tokens.
    seconds : how long reducing took.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> reduced = vtc.reduce(VideoTokens(torch.randn(16, 8, 8, 32)), "uniform", ratio=8)
    >>> reduced.ledger
    'kept 128 of 1024 tokens, 8.0x, 2 of 16 frames'
    >>> reduced.kept.shape, reduced.reconstruct().shape
    (torch.Size([16, 8, 8]), torch.Size([16, 8, 8, 32]))
    """

    tokens: Tensor
    anchor: Tensor
    assign: Tensor
    weight: Tensor
    grid: tuple[int, int, int]
    method: str = ""
    options: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    encoder: str = ""
    seconds: float = 0.0

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __str__(self) -> str:
        return self.ledger

    @property
    def total(self) -> int:
        """M, the number of source tokens."""
        return self.assign.numel()

    @property
    def kept(self) -> Tensor:
        """(T, h, w) bool, True where a source token anchors an output token."""
        mask = torch.zeros(self.total, dtype=torch.bool, device=self.anchor.device)
        mask[self.anchor] = True
        return mask.view(self.grid)

    @property
    def ledger(self) -> str:
        """The result in words, by what was really kept and not by the nominal ratio."""
        frames = int((self.kept.flatten(1).any(1)).sum())
        factor = f"{self.total / len(self):.1f}x" if len(self) else "nothing left"
        return f"kept {len(self)} of {self.total} tokens, {factor}, {frames} of {self.grid[0]} frames"

    @property
    def representative(self) -> Tensor:
        """(M,) long, the output token that stands for each source token.

        A token that went into an output is represented by it. A dropped one is represented by the output
        of the nearest token that was not dropped: nearest in time first, then in the patch grid. That needs
        positions alone; what a dropped token *looks* most like is a matter of fidelity (`vtc.fidelity`).

        Raises
        ------
        VTCError
            If nothing was kept (an empty slice of a reduction).
        """
        frames, height, width = self.grid
        if not len(self):
            raise VTCError(f"no token of these {frames} frames was kept, so nothing represents them; slice more frames")
        dropped = (self.assign < 0).view(self.grid).cpu().numpy()
        if not dropped.any():
            return self.assign
        # One frame apart weighs more than any distance within a frame, hence "time first".
        index = ndimage.distance_transform_edt(
            dropped, sampling=(height + width, 1, 1), return_distances=False, return_indices=True
        )
        flat = np.ravel_multi_index(tuple(index), self.grid).reshape(-1)
        return self.assign[torch.from_numpy(flat).to(self.assign.device)]

    def reconstruct(self) -> Tensor:
        """The (T, h, w, D) grid in which each source token is replaced by its representative."""
        return self.tokens[self.representative].view(*self.grid, -1)

    def __getitem__(self, frames: slice) -> Reduction:
        """The part anchored in some frames; source tokens that went into other frames count as dropped there."""
        part = _frame_slice(frames, self.grid[0])
        patches = self.grid[1] * self.grid[2]
        low, high = part.start * patches, part.stop * patches
        mine = (self.anchor >= low) & (self.anchor < high)
        renumbered = torch.where(mine, mine.cumsum(0) - 1, -1)
        assign, weight = self.assign[low:high], self.weight[low:high]
        assign = torch.where(assign >= 0, renumbered[assign.clamp(min=0)], -1)
        return replace(
            self,
            tokens=self.tokens[mine],
            anchor=self.anchor[mine] - low,
            assign=assign,
            weight=torch.where(assign >= 0, weight, 0),
            grid=(part.stop - part.start, *self.grid[1:]),
        )

    def to(self, device: str | torch.device) -> Reduction:
        """The same reduction on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "anchor", "assign", "weight")}
        return replace(self, **moved)

    def check(self) -> Reduction:
        """Return self if the contract holds.

        Raises
        ------
        VTCError
            Naming the first rule that is broken; a method that returns such a reduction is at fault.
        """
        count, total = len(self), int(np.prod(self.grid))
        rules = {
            "tokens must be (K, D) with K at least 1": self.tokens.ndim == 2 and count >= 1,
            "anchor must be (K,) long": self.anchor.shape == (count,) and self.anchor.dtype == torch.long,
            "assign must be (M,) long": self.assign.shape == (total,) and self.assign.dtype == torch.long,
            "weight must be (M,) float32": self.weight.shape == (total,) and self.weight.dtype == torch.float32,
        }
        _demand(rules, self.method)
        inside = (
            self.anchor.min() >= 0
            and self.anchor.max() < total
            and self.assign.min() >= -1
            and self.assign.max() < count
        )
        _demand({"anchor and assign must point inside the grid": bool(inside)}, self.method)
        ordered = bool((self.anchor.diff() > 0).all())
        own = bool((self.assign[self.anchor] == torch.arange(count, device=self.anchor.device)).all())
        shares = bool(((self.weight >= 0) & ((self.assign >= 0) | (self.weight == 0))).all())
        rules = {
            "anchors must be strictly increasing": ordered,
            "each anchor must be a member of its own output": own,
            "weights must be at least 0, and 0 where dropped": shares,
        }
        _demand(rules, self.method)
        return self


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def demand_clip(clip: object) -> None:
    """Raise a VTCError for anything but a Clip, such as the path of one."""
    if not isinstance(clip, Clip):
        raise VTCError(f"{clip!r:.60} is no Clip; read one with vtc.read_clip(path)")


def _demand(rules: dict[str, bool], method: str) -> None:
    for rule, holds in rules.items():
        if not holds:
            raise VTCError(f"method {method!r} broke the contract: {rule}")


def _frame_slice(frames: slice, count: int) -> slice:
    """A contiguous, non-empty range of frames with its bounds filled in."""
    if not isinstance(frames, slice):
        raise VTCError(f"frames are chosen by a slice such as [2:5], not by {frames!r}")
    start, stop, step = frames.indices(count)
    if step != 1 or stop <= start:
        raise VTCError(
            f"[{frames.start}:{frames.stop}:{frames.step}] of {count} frames is empty or strided; use a plain range"
        )
    return slice(start, stop)
