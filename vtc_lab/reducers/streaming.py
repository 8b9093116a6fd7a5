"""Reduce a video while it arrives, with the memory of a few frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from numbers import Integral

import torch
from torch import Tensor

from vtc_lab.reducers.joint import joint_significance
from vtc_lab.reducers.ops import cosine, difference, even, frame_means, prune, top
from vtc_lab.reducers.registry import check_ratio
from vtc_lab.tokens import Reduction, VideoTokens, VTCError, demand_one_of

_STREAMED = ("dtd", "evs", "lftr", "stc")
_ALPHA = 0.5  # the default of `stc`


def reduce_stream(
    frames: Iterable[Tensor], method: str, ratio: float | None = None, *, tau: float | None = None, window: int = 8
) -> Iterator[Reduction]:
    """Yield what is kept of each frame of a stream, without holding more than `window` + 2 frames.

    With a ratio r, round(t * N / r) of the first t frames' tokens are kept by the end of frame t, or of its window. The
    methods score as they do on a clip, "lftr" with one frame of look-ahead. Then "dtd" and "stc" keep the best of each
    frame, as `dtd` with scope "frame" and `stc` do; "lftr" and "evs" keep the best of every `window` frames, which is
    our reading: with a window as long as the clip it is the ranking of `evs`, or of `lftr` with temporal "select", over
    the whole clip, and with a window of 1 that of `lftr` with allocation "per-frame". "dtd" and "evs" keep the first
    frame whole.

    Parameters
    ----------
    frames : (h, w, D) floating tensors of one shape, one for each frame; any iterable, also an endless one.
    method : "dtd", "evs", "lftr" or "stc".
    ratio : compression, 1 to h * w.
    tau : for "dtd" and "evs", in place of a ratio: keep the patches whose cosine to the frame before is at most tau.
    window : at least 1. For "lftr" and "evs" with a ratio, how many frames share a budget, and come out together; for
        "stc", how many frames it looks back.

    Returns
    -------
    Iterator of one Reduction for each frame, in order, on a grid of (1, h, w): what `reduced[t : t + 1]` is for a
        reduction of the whole clip. It may keep nothing.

    Raises
    ------
    VTCError
        If an argument is none of those above; while iterating, if there is no frame, or one that has another shape or
        holds non-finite numbers.

    Examples
    --------
    >>> stream = (torch.randn(4, 4, 8) for _ in range(100))
    >>> kept = [len(reduced) for reduced in reduce_stream(stream, "stc", ratio=8)]
    >>> len(kept), sum(kept)
    (100, 200)
    """
    demand_one_of("method for a stream", method, _STREAMED)
    thresholds = method in ("dtd", "evs")
    if (ratio is None) == (tau is None) or (tau is not None and not thresholds):
        other = " or tau, not both" if thresholds else ", not tau"
        raise VTCError(f"ratio is {ratio!r} and tau is {tau!r}; give {method} on a stream a ratio{other}")
    if isinstance(window, bool) or not isinstance(window, Integral) or window < 1:
        raise VTCError(f"window is {window!r:.60}; give a number of frames, at least 1")
    return _stream(frames, method, ratio, tau, int(window))


@torch.no_grad()
def _stream(
    frames: Iterable[Tensor], method: str, ratio: float | None, tau: float | None, window: int
) -> Iterator[Reduction]:
    size = window if method in ("evs", "lftr") and tau is None else 1
    options = {"ratio": ratio, "tau": tau, "window": window}
    means: deque[Tensor] = deque(maxlen=window)  # of the frames before, for stc
    done = 0
    for part, lead in _parts(_checked(frames), size, ahead=method == "lftr"):
        new = part[lead : lead + size]
        patches = new[0, :, :, 0].numel()
        if method == "lftr":
            score = joint_significance(VideoTokens(part), "distinct")[1][lead : lead + size]
        elif method == "stc":
            score = _unlike(new, means)
        else:
            score = difference(part)[lead:]
        if tau is not None:
            kept = 1 - score <= tau
        else:
            each = patches / check_ratio("ratio", ratio, patches)
            budget = round((done + len(new)) * each) - round(done * each)
            kept = torch.zeros_like(score, dtype=torch.bool)
            kept.view(-1)[top(score.flatten(), max(budget, int(score.isinf().sum())))] = True
        for frame, stays in zip(new, kept, strict=True):
            whole = prune(VideoTokens(frame[None] if isinstance(frame, Tensor) else frame), torch.arange(patches))
            yield replace(whole.only(stays), method=method, options=options)
        done += len(new)


def _parts(frames: Iterable[Tensor], size: int, ahead: bool) -> Iterator[tuple[Tensor, int]]:
    """Yield `size` frames with the one before and, with `ahead`, the one after; and the number of frames before."""
    held: list[Tensor] = []
    lead = 0
    for frame in frames:
        held.append(frame)
        if len(held) == lead + size + ahead:
            yield torch.stack(held), lead
            held, lead = held[lead + size - 1 :], 1
    if len(held) > lead:
        yield torch.stack(held), lead


def _unlike(frame: Tensor, means: deque[Tensor]) -> Tensor:
    """Return the (1, N) scores of `stc`, and add the frame's mean to those of the frames before."""
    rows, mean = frame.flatten(1, 2).float(), frame_means(frame)
    score = 1 - cosine(rows, mean[:, None])
    if means:
        past = torch.stack(list(means)).sum(0) / len(means)
        score = _ALPHA * (1 - cosine(rows, past[:, None])) + (1 - _ALPHA) * score
    means.append(mean)
    return even(score)


def _checked(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    shape = None
    for number, frame in enumerate(frames):
        VideoTokens(frame[None] if isinstance(frame, Tensor) else frame)
        now = tuple(frame.shape)
        shape = shape or now
        if now != shape:
            raise VTCError(f"frame {number} of the stream is {now} after frames of {shape}; keep one size")
        if not bool(frame.isfinite().all()):
            raise VTCError(f"frame {number} of the stream holds non-finite numbers; fix the encoder's output")
        yield frame
    if shape is None:
        raise VTCError("the stream has no frames; give at least one (h, w, D) tensor")
