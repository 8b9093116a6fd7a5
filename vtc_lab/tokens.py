"""The contract of the whole package: a clip, its tokens and their reduction.

A reduction says where every token of the *source grid* went. It never needs the source values, so it can also
describe tokens that were never computed.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


class VTCError(ValueError):
    """An error that the user can fix; its one sentence says what was wrong and what would be right."""


class MinimumBudgetError(VTCError):
    """The method cannot keep this budget, which is below its minimum or at odds with its options; the message says."""


def plain(text: object) -> str:
    """Return a text that any file or table can hold: half characters, as in names of files, are escaped."""
    return str(text).encode(errors="backslashreplace").decode()


def suggest(wrong: object, names: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest names, or all of them.

    >>> suggest("lfrt", ["lftr", "pool"]), suggest("x", ["lftr", "pool"])
    ("did you mean 'lftr'?", "there are 'lftr', 'pool'")
    """
    names = list(names)
    close = difflib.get_close_matches(str(wrong), names, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"there are {', '.join(map(repr, names))}" if names else "there are none"


def demand_one_of(what: str, value: object, names: Iterable[object]) -> None:
    """Raise a VTCError that offers the nearest names if a value, which may be of any kind, is none of them."""
    names = list(names)
    if not isinstance(value, str | int) or value not in names:  # of a table, `in` has no truth
        raise VTCError(f"{what} is {plain(repr(value))[:60]}; {suggest(value, map(str, names))}")


@dataclass(frozen=True, eq=False)
class Clip:
    """Sampled frames of one video.

    Parameters
    ----------
    frames : (T, H, W, 3) uint8 array, RGB.
    times : (T,) float array, the presentation time of each frame in seconds.
    path : the file they were read from, "" for frames made in memory.
    reader : the library that decoded them, with its version ("decord 0.6.0").
    seconds : time that reading took.

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
        try:
            frames, times = np.asarray(self.frames), np.asarray(self.times, dtype=float)
        except (ValueError, OverflowError) as error:
            raise VTCError(f"a clip needs arrays of frames and of times in seconds: {error}") from error
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            given = f"{frames.dtype} of shape {frames.shape}"
            raise VTCError(f"clip frames are {given}; they must be uint8 of shape (T, H, W, 3), none of them 0")
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
        """Hash of the decoded frames."""
        return hashlib.sha256(np.ascontiguousarray(self.frames).data).hexdigest()


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """Visual tokens of one clip on their grid.

    Parameters
    ----------
    values : (T, h, w, D) floating tensor, after the projector and the model's own pooling.
    saliency : (T, h, w) floating tensor of encoder attention, finite and at least 0, or None.
    encoder : name of the encoder, copied into every result.
    seconds : time that encoding took.
    saliency_source : where the saliency comes from, in words; a note in every result that used it.
    evidence : (T, h, w) bool, the patches that show the answers, which only the generated world knows, or None.

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
    evidence: Tensor | None = None

    def __post_init__(self) -> None:
        values, saliency, evidence = self.values, self.saliency, self.evidence
        if not isinstance(values, Tensor) or values.ndim != 4 or not values.is_floating_point() or not values.numel():
            wanted = "a floating tensor of shape (T, h, w, D), none of them 0"
            raise VTCError(f"token values are {_what(values)}; they must be {wanted}")
        if saliency is not None:
            floating = isinstance(saliency, Tensor) and saliency.is_floating_point()
            if not floating or tuple(saliency.shape) != self.grid:
                raise VTCError(f"saliency is {_what(saliency)}; it must be a floating tensor of shape {self.grid}")
            if not bool((saliency.isfinite() & (saliency >= 0)).all()):
                raise VTCError("saliency holds negative or non-finite numbers; attention is finite and at least 0")
        fits = isinstance(evidence, Tensor) and (tuple(evidence.shape), evidence.dtype) == (self.grid, torch.bool)
        if evidence is not None and not fits:
            raise VTCError(f"evidence is {_what(evidence)}; it must be a bool tensor of shape {self.grid}")

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, frames: slice) -> VideoTokens:
        part = _frame_slice(frames, len(self))
        return self._each(lambda tensor: tensor[part])

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, h, w): frames, patch rows, patch columns."""
        frames, height, width, _ = self.values.shape
        return frames, height, width

    @property
    def total(self) -> int:
        """M = T * h * w."""
        return math.prod(self.grid)

    def to(self, device: str | torch.device) -> VideoTokens:
        """Return the same tokens on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> VideoTokens:
        tensors = {name: getattr(self, name) for name in ("values", "saliency", "evidence")}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class Reduction:
    """The tokens that are left of a clip, and where each source token went.

    Parameters
    ----------
    tokens : (K, D) output tokens, in the dtype of the source.
    anchor : (K,) long, raster index (t, y, x) of each output token, strictly increasing; a merged token
        has the position of its anchor.
    assign : (M,) long, the output that each source token went into, -1 if it was dropped.
    weight : (M,) float32, the weight of each source token in its output, which is the weighted sum of its members; 0 if
        it was dropped.
    grid : (T, h, w) of the source; M = T * h * w.
    method, options : the registered name and every option in force, defaults included.
    notes : remarks that belong to the numbers (a fallback, an automatic choice).
    encoder : name of the encoder of the source tokens.
    seconds : time that reducing took.

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
    options: dict[str, Any] = field(default_factory=dict)
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
        """The number of tokens and frames that were kept, in words."""
        frames = int((self.kept.flatten(1).any(1)).sum())
        factor = f"{self.total / len(self):.1f}x" if len(self) else "nothing left"
        return f"kept {len(self)} of {self.total} tokens, {factor}, {frames} of {self.grid[0]} frames"

    @property
    def representative(self) -> Tensor:
        """(M,) long, the output that each source token went into; if dropped, that of the nearest token kept or merged.

        Nearest is in time first and then in the patch grid; `vtc.fidelity` compares values instead.
        """
        frames, height, width = self.grid
        if not len(self):
            raise VTCError(f"no token of these {frames} frames was kept, so nothing represents them; slice more frames")
        dropped = (self.assign < 0).view(self.grid).cpu().numpy()
        if not dropped.any():
            return self.assign
        # One frame apart is farther than any distance within a frame.
        index = ndimage.distance_transform_edt(
            dropped, sampling=(height + width, 1, 1), return_distances=False, return_indices=True
        )
        flat = np.ravel_multi_index(tuple(index), self.grid).reshape(-1)
        return self.assign[torch.from_numpy(flat).to(self.assign.device)]

    def reconstruct(self) -> Tensor:
        """Return the (T, h, w, D) grid with each source token replaced by its representative."""
        return self.tokens[self.representative].view(*self.grid, -1)

    def explain(self, t: int, y: int, x: int) -> dict[str, Any]:
        """Return what became of one source token.

        Parameters
        ----------
        t, y, x : its frame, patch row and patch column, each from 0.

        Returns
        -------
        dict of fate ("kept", "merged" or "dropped"); output, the row of `tokens` that it went into, and the (t, y, x)
        of that token's anchor, both None if it was dropped; its weight there; and members, the (t, y, x) of every
        source token that went into the same output.

        Examples
        --------
        >>> import vtc_lab as vtc
        >>> reduced = vtc.reduce(VideoTokens(torch.ones(2, 1, 2, 4)), "pool", ratio=2)
        >>> reduced.explain(1, 0, 1)
        {'fate': 'merged', 'output': 1, 'anchor': (1, 0, 0), 'weight': 0.5, 'members': [(1, 0, 0), (1, 0, 1)]}
        """
        sides = dict(zip("tyx", self.grid, strict=True))
        for (name, side), place in zip(sides.items(), (t, y, x), strict=True):
            if not isinstance(place, Integral) or place not in range(side):
                raise VTCError(f"{name} is {place!r}; it must be a whole number from 0 to {side - 1}")
        source = int(np.ravel_multi_index((t, y, x), self.grid))
        output = int(self.assign[source])
        if output < 0:
            return {"fate": "dropped", "output": None, "anchor": None, "weight": 0.0, "members": []}
        anchor, members = int(self.anchor[output]), (self.assign == output).nonzero().flatten().tolist()
        return {
            **{"fate": "kept" if anchor == source else "merged", "output": output, "anchor": self._place(anchor)},
            **{"weight": float(self.weight[source]), "members": [self._place(member) for member in members]},
        }

    def _place(self, source: int) -> tuple[int, ...]:
        return tuple(int(part) for part in np.unravel_index(source, self.grid))

    def __getitem__(self, frames: slice) -> Reduction:
        """Return the part anchored in these frames; source tokens that went to other frames count as dropped."""
        part = _frame_slice(frames, self.grid[0])
        patches = self.grid[1] * self.grid[2]
        low, high = part.start * patches, part.stop * patches
        here = self.only((self.anchor >= low) & (self.anchor < high))
        assign, weight = here.assign[low:high], here.weight[low:high]
        grid = (part.stop - part.start, *self.grid[1:])
        return replace(here, anchor=here.anchor - low, assign=assign, weight=weight, grid=grid)

    def only(self, stays: Tensor) -> Reduction:
        """Return some of the output tokens, by (K,) bool; source tokens that went into others count as dropped."""
        assign = torch.where(stays, stays.cumsum(0) - 1, -1)[self.assign.clamp(min=0)]
        assign = torch.where(self.assign >= 0, assign, -1)
        weight = torch.where(assign >= 0, self.weight, 0)
        return replace(self, tokens=self.tokens[stays], anchor=self.anchor[stays], assign=assign, weight=weight)

    def to(self, device: str | torch.device) -> Reduction:
        """Return the same reduction on another device."""
        return replace(
            self, **{part: getattr(self, part).to(device) for part in ("tokens", "anchor", "assign", "weight")}
        )

    def check(self) -> Reduction:
        """Return self if the contract holds; else raise a VTCError that names the method and the broken rule."""
        for rule, holds in self._rules():
            if not holds:
                raise VTCError(f"method {self.method!r} broke the contract: {rule}")
        return self

    def _rules(self) -> Iterator[tuple[str, bool]]:
        """Each rule and whether it holds; a rule is evaluated only once all before it hold."""
        count, total, anchor, assign, weight = len(self), math.prod(self.grid), self.anchor, self.assign, self.weight
        yield "tokens must be (K, D) with K at least 1", self.tokens.ndim == 2 and count >= 1
        yield "anchor must be (K,) long", anchor.shape == (count,) and anchor.dtype == torch.long
        yield "assign must be (M,) long", assign.shape == (total,) and assign.dtype == torch.long
        yield "weight must be (M,) float32", weight.shape == (total,) and weight.dtype == torch.float32
        inside = anchor.min() >= 0 and anchor.max() < total and assign.min() >= -1 and assign.max() < count
        yield "anchor and assign must point inside the grid", bool(inside)
        yield "anchors must be strictly increasing", bool((anchor.diff() > 0).all())
        own = torch.arange(count, device=anchor.device)
        yield "each anchor must be a member of its own output", torch.equal(assign[anchor], own)
        shares = (weight >= 0) & ((assign >= 0) | (weight == 0))
        yield "weights must be at least 0, and 0 where dropped", bool(shares.all())


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def demand(kind: type, value: object) -> None:
    """Raise a VTCError that says how to get one for anything that is not of this kind."""
    if not isinstance(value, kind):
        name = kind.__name__
        raise VTCError(f"{plain(repr(value))[:60]} is no {name}; {_MADE_BY[name]}")


def tensors_beside(tokens: VideoTokens, **given: object) -> list[Tensor]:
    """Return arguments as tensors on the device of the tokens; a VTCError names the one that cannot be a tensor."""
    demand(VideoTokens, tokens)
    found = []
    for name, value in given.items():
        try:
            found.append(torch.as_tensor(value, device=tokens.values.device).to_dense())
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise VTCError(f"{name} is {plain(repr(value))[:60]}; give a tensor or a list of numbers") from error
    return found


_MADE_BY = {
    "Clip": "read one with vtc.read_clip(path)",
    "Reduction": "make one with vtc.reduce(tokens, method, ratio=...)",
    "VideoTokens": "make them with model.encode(clip) or vtc.load_encoder(name).encode(clip)",
    "VideoModel": "load one with vtc.load_model()",
    "Mapping": "give a sample, a dict as vtc.read_samples returns",
}


def _frame_slice(frames: slice, count: int) -> slice:
    """The slice with its bounds filled in; an error if it is empty or strided."""
    if not isinstance(frames, slice):
        raise VTCError(f"frames are chosen by a slice such as [2:5], not by {frames!r}")
    start, stop, step = frames.indices(count)
    if step != 1 or stop <= start:
        raise VTCError(
            f"[{frames.start}:{frames.stop}:{frames.step}] of {count} frames is empty or strided; use a plain range"
        )
    return slice(start, stop)
