"""One clip's part of a sweep: plain data that any process can work on, and the work.

A clip is read and encoded once. The settings of one ratio have equally many tokens, so some of them are prefilled
together, and all questions share what was prefilled. What is prefilled together depends on the plan alone and not on
what is done already: a sweep that was interrupted gives the same numbers to the last bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch

from vtc_lab.measures import NO_NUMBERS, answer_fidelity, log_probabilities
from vtc_lab.qa.clips import read_sample_clip
from vtc_lab.qa.scoring import likeliest, score
from vtc_lab.reducers.registry import needs_saliency, reduce
from vtc_lab.tokens import Clip, MinimumBudgetError, Reduction, VideoTokens, VTCError

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import Answer, VideoModel

_TOGETHER = 2048  # visual tokens prefilled at once: with more the bundled model got no faster on a CPU
_CACHED = 65536  # tokens in the KV cache at once, over all questions: 400 MB for the bundled model, 4 GB for 7B


class Result(NamedTuple):
    """What came of one sample under one setting; NaN where there is nothing. `again`: it may be another next time."""

    kept: float = math.nan
    total: float = math.nan
    said: str | None = None
    right: float = math.nan
    likelihood: float = math.nan
    kl: float = math.nan
    tv: float = math.nan
    flipped: float = math.nan
    read_s: float = math.nan
    encode_s: float = math.nan
    reduce_s: float = math.nan
    prefill_s: float = math.nan
    decode_s: float = math.nan
    engaged: bool = False
    status: str = "ok"
    error: str = ""
    frames: float = math.nan
    likeliest: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Setting:
    """A method with all its options at a ratio, or at the budget that its options make (None)."""

    method: str
    options: dict[str, object]
    ratio: float | None


@dataclass(frozen=True)
class Asking:
    """How clips are read and questions asked, the same throughout a sweep."""

    frames: int | None = None
    fps: float | None = None
    positions: str = "preserve"
    max_new_tokens: int = 16

    def __str__(self) -> str:
        """JSON of what is not default, "" for nothing."""
        changed = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return json.dumps(changed) if changed else ""


@dataclass(frozen=True)
class Job:
    """What to read and how to ask, the samples, all settings of the plan, and for each the samples still to do."""

    asking: Asking
    clip: dict[str, object]
    samples: tuple[dict[str, object], ...]
    settings: tuple[Setting, ...]
    wanted: tuple[tuple[int, ...], ...]


Finished = tuple[int, int, Result]  # number of the sample and of the setting in the job


def work(model: VideoModel, job: Job) -> Iterator[list[Finished]]:
    """Do a job, yielding what is finished a few settings at a time; what fails is a result that says so in words."""
    try:
        if "clip" not in job.clip:
            raise VTCError("the sample has no clip; give it the path of one, or a Clip")
        clip = read_sample_clip(job.clip, job.asking.frames, job.asking.fps)
        if any(needs_saliency(setting.method, setting.options) for setting in job.settings):
            with suppress(Exception):  # said again where a setting needs it
                model.encode(clip, saliency=True)
        tokens = model.encode(clip)
        full = _reference(model, clip, job)
    except Exception as error:
        yield from failed(job, error)
        return
    for chunk in _chunks(job, tokens.total):
        reduced = {n: _reduced(model, clip, job.settings[n]) for n in chunk}
        answers = _ask(model, clip, job, full, {n: reduction for n, (_, reduction) in reduced.items()})
        yield [
            (s, n, _result(job.samples[s], clip, *reduced[n], answer, full[s])) for (s, n), answer in answers.items()
        ]


def failed(job: Job, error: Exception) -> Iterator[list[Finished]]:
    """Every result of a job as this failure, which came before anything could be reduced."""
    yield [(s, n, _failure(error)) for n, wanted in enumerate(job.wanted) for s in wanted]


def _chunks(job: Job, total: int) -> Iterator[list[int]]:
    """The settings that are prefilled together: neighbours in the plan, of one ratio, and only those still to do."""
    numbers = sorted(range(len(job.settings)), key=lambda n: job.settings[n].ratio or math.inf)
    for ratio, same in groupby(numbers, key=lambda n: job.settings[n].ratio):
        together = list(same)
        size = 1 if ratio is None else max(1, int(_TOGETHER * max(ratio, 1) / total))
        for start in range(0, len(together), size):
            if chunk := [n for n in together[start : start + size] if job.wanted[n]]:
                yield chunk


def _reference(model: VideoModel, clip: Clip, job: Job) -> dict[int, Answer | Exception]:
    """The answers to everything that is asked, with all tokens."""
    asked = sorted({s for wanted in job.wanted for s in wanted})
    return dict(zip(asked, _answers(model, clip, job, asked, [None])[0], strict=True))


def _reduced(model: VideoModel, clip: Clip, setting: Setting) -> tuple[VideoTokens, Reduction | Exception]:
    """The tokens that a setting reduces, and the reduction or why there is none."""
    tokens = model.encode(clip)
    try:
        tokens = model.encode(clip, saliency=needs_saliency(setting.method, setting.options))
        return tokens, reduce(tokens, setting.method, ratio=setting.ratio, **setting.options)
    except Exception as error:
        return tokens, error


def _ask(
    model: VideoModel,
    clip: Clip,
    job: Job,
    full: dict[int, Answer | Exception],
    reductions: dict[int, Reduction | Exception],
) -> dict[tuple[int, int], Answer | Exception]:
    """What is said, or why nothing is, by numbers of sample and setting."""
    everything = model.encode(clip).values.flatten(0, 2)
    found: dict[tuple[int, int], Answer | Exception] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for n, reduction in reductions.items():
        failed = isinstance(reduction, Exception)
        found |= {(s, n): reduction if failed else full[s] for s in job.wanted[n]}
        if not failed and not torch.equal(reduction.tokens, everything):
            groups.setdefault(job.wanted[n], []).append(n)
    for asked, numbers in groups.items():
        rows = _answers(model, clip, job, asked, [reductions[n] for n in numbers])
        found |= {(s, n): row[at] for n, row in zip(numbers, rows, strict=True) for at, s in enumerate(asked)}
    return found


def _answers(
    model: VideoModel, clip: Clip, job: Job, asked: Sequence[int], reductions: Sequence[Reduction | None]
) -> list[list[Answer | Exception]]:
    """Answers of each reduction to some samples; where a batch fails its halves are tried, down to the one at fault."""
    kept = model.encode(clip).total if reductions[0] is None else len(reductions[0])
    limit = max(1, _CACHED // (kept * len(reductions)))
    if len(asked) > limit:
        parts = [_answers(model, clip, job, asked[n : n + limit], reductions) for n in range(0, len(asked), limit)]
        return [[answer for row in rows for answer in row] for rows in zip(*parts, strict=True)]
    try:
        questions, candidates = ([job.samples[s][name] for s in asked] for name in ("question", "candidates"))
        how = {"positions": job.asking.positions, "max_new_tokens": job.asking.max_new_tokens}
        rows = model.ask_each(questions, clip, reductions, candidates=candidates, **how)
        return [[_sound(answer) for answer in row] for row in rows]
    except Exception as error:
        half, middle = len(asked) // 2, len(reductions) // 2
        if half:
            parts = [_answers(model, clip, job, part, reductions) for part in (asked[:half], asked[half:])]
            return [first + last for first, last in zip(*parts, strict=True)]
        if middle:
            parts = [_answers(model, clip, job, asked, part) for part in (reductions[:middle], reductions[middle:])]
            return parts[0] + parts[1]
        return [[error]]


def _sound(answer: Answer) -> Answer | VTCError:
    """An answer, or what to say of one that was made of NaN."""
    try:
        log_probabilities(answer.logits)
    except VTCError as error:
        return error
    return VTCError(NO_NUMBERS) if any(map(math.isnan, answer.scores.values())) else answer


def _result(
    sample: dict[str, object],
    clip: Clip,
    tokens: VideoTokens,
    reduction: Reduction | Exception,
    answer: Answer | Exception,
    full: Answer | Exception,
) -> Result:
    if not isinstance(answer, Exception) and answer.entered != len(reduction):
        words = f"{answer.entered} visual tokens entered, not {len(reduction)}; the reduction did not engage"
        answer = VTCError(words)
    if not isinstance(answer, Exception):
        try:
            right = score(sample, answer)
        except VTCError as error:
            answer = error
    if isinstance(answer, Exception):
        return _failure(answer)._replace(
            total=tokens.total,
            read_s=clip.seconds,
            encode_s=tokens.seconds,
            frames=len(clip),
            again=not isinstance(answer, VTCError),
        )
    nothing = {"kl": math.nan, "tv": math.nan, "agrees": math.nan}
    apart = nothing if isinstance(full, Exception) else answer_fidelity(full, answer)
    return Result(
        kept=answer.entered,
        total=answer.total,
        said=answer.text,
        right=right,
        likelihood=answer.scores.get(sample["answer"], math.nan) if sample["candidates"] else math.nan,
        kl=apart["kl"],
        tv=apart["tv"],
        flipped=1 - apart["agrees"],
        read_s=clip.seconds,
        encode_s=tokens.seconds,
        reduce_s=reduction.seconds,
        prefill_s=answer.seconds["prefill"],
        decode_s=answer.seconds["decode"],
        engaged=True,
        error=f"nothing to compare with: {_words(full)}" if isinstance(full, Exception) else "",
        frames=len(clip),
        likeliest=(likeliest(answer, sample["candidates"]) or "") if sample["candidates"] else "",
    )


def _failure(error: Exception) -> Result:
    return Result(
        status="minimum" if isinstance(error, MinimumBudgetError) else "error", error=_words(error), again=True
    )


def _words(error: Exception) -> str:
    """An exception in one line."""
    words = " ".join(str(error).split())
    return words if isinstance(error, VTCError) else f"{type(error).__name__}: {words}"
