"""Do one clip's part of a sweep, which is plain data that any process can work on.

A clip is read and encoded once, and again in part for each setting whose `stage` is before the encoder. Settings of one
ratio keep equally many tokens, so some of them are prefilled together, and all questions share the prefill. Which ones
go together depends on the plan alone, not on what is done already, so a sweep that was interrupted gives the same
numbers to the last bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from vtc_lab.measures import NO_NUMBERS, answer_fidelity, log_probabilities
from vtc_lab.qa.clips import read_sample_clip
from vtc_lab.qa.samples import Part, Question
from vtc_lab.qa.scoring import letter_of, likeliest, score
from vtc_lab.reducers.inside import IN_TOWER, Stage, get_inside, held, schedule, stages_of
from vtc_lab.reducers.ops import prune
from vtc_lab.reducers.registry import get_method, is_ceiling, needs_saliency, reduce
from vtc_lab.tokens import MinimumBudgetError, Reduction, VideoTokens, VTCError, plain
from vtc_lab.toy.evidence import evidence_recall, with_evidence

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import Answer, VideoModel

_TOGETHER = 2048  # visual tokens prefilled at once: with more the bundled model got no faster on a CPU
_CACHED = 65536  # tokens in the KV cache at once, over all questions: 400 MB for the bundled model, 4 GB for 7B


class Result(NamedTuple):
    """The outcome of one sample under one setting, NaN where there is none; `again` if another try may give another."""

    kept: float = math.nan
    total: float = math.nan
    said: str | None = None
    right: float = math.nan
    likelihood: float = math.nan
    kl: float = math.nan
    tv: float = math.nan
    flipped: float = math.nan
    recall: float = math.nan
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
    per_layer: float = math.nan
    cache_bytes: float = math.nan
    letter: str | None = None
    again: bool = False


@dataclass(frozen=True)
class Setting:
    """A method with all its options at a ratio, or at the budget that its options make (None); and its columns."""

    method: str
    options: dict[str, Any]
    ratio: float | None
    changed: str  # JSON of the options that are not default, without the seed; "" for none
    label: str
    seed: int
    stage: Stage = "features"

    @property
    def salient(self) -> bool:
        """True if the method looks at the encoder's attention to the whole clip."""
        before, _ = self.stages
        return bool(before) and self.stage == "features" and needs_saliency(before, self.options)

    @property
    def before(self) -> dict[str, Any]:
        """The options of the method before the language model."""
        before, inner = self.stages
        taken = get_inside(inner).options if inner else {}
        own = [name for name in IN_TOWER.get(before, {}) if name in self.options and name not in taken]
        return {name: self.options[name] for name in (*get_method(before).options, *own)}

    @property
    def stages(self) -> tuple[str, str]:
        """The method before the language model and the one inside, "" where there is none."""
        return stages_of(self.method)

    def inside(self) -> dict[str, Any]:
        """Return the options of the method inside, without `keep` where the ratio takes its place."""
        before, inner = self.stages
        options = {name: self.options[name] for name in get_inside(inner).options}
        if before or self.ratio is None:
            return options
        return {name: value for name, value in options.items() if name != "keep"}

    @property
    def informed(self) -> bool:
        """True for a ceiling, which knows where the answers are."""
        return is_ceiling(self.stages[0])


@dataclass(frozen=True)
class Asking:
    """The arguments of reading and asking, the same throughout a sweep."""

    frames: int | None = None
    fps: float | None = None
    positions: Literal["preserve", "compact"] = "preserve"
    max_new_tokens: int = 16
    budget: Literal["enters", "mean"] = "enters"

    def __str__(self) -> str:
        """Return JSON of what is not default, "" for nothing."""
        changed = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        return json.dumps(changed) if changed else ""


@dataclass(frozen=True)
class Job:
    """A clip, its samples by their numbers in the plan, all settings, and for each the samples still to do."""

    asking: Asking
    clip: Part
    samples: dict[int, Question]
    settings: tuple[Setting, ...]
    wanted: tuple[tuple[int, ...], ...]


Finished = tuple[int, int, Result]  # number of the sample and of the setting in the plan


def work(model: VideoModel, job: Job) -> Iterator[list[Finished]]:
    """Do a job, yielding what is finished a few settings at a time; what fails is a result that says so in words."""
    try:
        clip = _ClipAtWork(model, job)
    except Exception as error:
        yield from failed(job, error)
        return
    for chunk in _chunks(job, clip.tokens.total):
        reductions = {n: clip.reduce(n) for n in chunk}
        answers = clip.ask(reductions)
        yield [(i, n, clip.result(i, n, reductions[n], answer)) for (i, n), answer in answers.items()]


def failed(job: Job, error: Exception) -> Iterator[list[Finished]]:
    """Yield every result of a job as this failure, which came before anything could be reduced."""
    yield [(i, n, failure(error)) for n, wanted in enumerate(job.wanted) for i in wanted]


def _chunks(job: Job, total: int) -> Iterator[list[int]]:
    """Yield batches of pending settings that share a ratio, to be prefilled together."""
    numbers = sorted(range(len(job.settings)), key=lambda n: job.settings[n].ratio or math.inf)
    for ratio, same in groupby(numbers, key=lambda n: job.settings[n].ratio):
        together = list(same)
        size = 1 if ratio is None else max(1, int(_TOGETHER * max(ratio, 1) / total))
        for start in range(0, len(together), size):
            if chunk := [n for n in together[start : start + size] if job.wanted[n]]:
                yield chunk


class _ClipAtWork:
    """A job's clip: read, encoded, and asked everything with all tokens."""

    def __init__(self, model: VideoModel, job: Job) -> None:
        self.model, self.job = model, job
        self.clip = read_sample_clip(job.clip, job.asking.frames, job.asking.fps)
        self.encoding: dict[int, float] = {}  # seconds of settings that encode for themselves
        self.salient: VideoTokens | Exception | None = None
        if any(setting.salient for setting in job.settings):
            try:  # first, because it brings the tokens without saliency, too
                self.salient = model.encode(self.clip, saliency=True)
            except Exception as error:
                self.salient = error
        self.tokens = model.encode(self.clip)
        asked = sorted({i for wanted in job.wanted for i in wanted})
        self.full = dict(zip(asked, self._answers(asked, [None])[0], strict=True))

    def _encoded(self, setting: Setting) -> VideoTokens:
        return self.salient if setting.salient and isinstance(self.salient, VideoTokens) else self.tokens

    def reduce(self, n: int) -> Reduction | Exception:
        """Return the reduction of a setting, or why there is none."""
        setting = self.job.settings[n]
        if setting.salient and isinstance(self.salient, Exception):
            return self.salient
        before, inner = setting.stages
        tokens, ratio = self._encoded(setting), setting.ratio
        if not before:
            return prune(tokens, torch.arange(tokens.total, device=tokens.values.device))
        try:
            if inner and ratio is not None and self.job.asking.budget == "mean":
                depth = len(self.model.network.get_decoder().layers)
                layers = held(tokens.total, depth, schedule(inner, depth, **setting.inside()))
                share = sum(layers) / (depth * tokens.total)
                if ratio * share < 1:
                    words = f"if all tokens enter, {setting.method!r} leaves {share:.1%} of them on average"
                    raise VTCError(f"{words}, not 1 / {ratio:g}; take a ratio of {1 / share:.3g} or more")
                ratio *= share
            tokens = with_evidence(tokens, self.job.samples.values()) if setting.informed else tokens
            if setting.stage == "features":
                return reduce(tokens, before, ratio=ratio, **setting.before)
            from vtc_lab.models.before_encoding import reduce_clip  # transformers, as below

            how: dict[str, Any] = {"ratio": ratio, "stage": setting.stage} | setting.before
            start = time.perf_counter()
            reduced = reduce_clip(self.model.fresh(), self.clip, before, **how)
            self.encoding[n] = time.perf_counter() - start - reduced.seconds
            return reduced
        except Exception as error:
            return error

    def ask(self, reductions: dict[int, Reduction | Exception]) -> dict[tuple[int, int], Answer | Exception]:
        """Return the answer, or why there is none, by numbers of sample and setting."""
        wanted, everything = self.job.wanted, self.tokens.values.flatten(0, 2)
        found: dict[tuple[int, int], Answer | Exception] = {}
        groups: dict[tuple[int, ...], dict[int, Reduction]] = {}
        for n, reduction in reductions.items():
            if isinstance(reduction, Exception):
                found |= {(i, n): reduction for i in wanted[n]}
            elif self.job.settings[n].stages[1]:
                each = self._inside(self.job.settings[n], wanted[n], reduction)
                found |= {(i, n): answer for i, answer in zip(wanted[n], each, strict=True)}
            elif torch.equal(reduction.tokens, everything):
                found |= {(i, n): self.full[i] for i in wanted[n]}
            else:
                groups.setdefault(wanted[n], {})[n] = reduction
        for asked, some in groups.items():
            rows = self._answers(asked, list(some.values()))
            for n, row in zip(some, rows, strict=True):
                found |= {(i, n): answer for i, answer in zip(asked, row, strict=True)}
        return found

    def _inside(self, setting: Setting, asked: Sequence[int], reduction: Reduction) -> list[Answer | Exception]:
        """Return the answers with a stage inside the language model."""
        from vtc_lab.models.inside import inside  # transformers, which whoever has a model has imported

        before, inner = setting.stages
        how = setting.inside()
        how |= {} if before else {"ratio": setting.ratio, "budget": self.job.asking.budget}
        answers: list[Answer | Exception] = []
        try:
            with inside(self.model.network, inner, **how):
                answers = self._answers(asked, [reduction])[0]
        except Exception as error:  # at the start; or on leaving, since it did not engage
            failed = [isinstance(answer, Exception) for answer in answers] or [False] * len(asked)
            answers = [answers[n] if known else error for n, known in enumerate(failed)]
        return answers

    def _answers(self, asked: Sequence[int], reductions: Sequence[Reduction | None]) -> list[list[Answer | Exception]]:
        """Return each reduction's answers to some samples; a batch that is too large or fails is halved."""
        kept = self.tokens.total if reductions[0] is None else len(reductions[0])
        if len(asked) == 1 or kept * len(reductions) * len(asked) <= _CACHED:
            samples, asking = [self.job.samples[i] for i in asked], self.job.asking
            try:
                rows = self.model.ask_each(
                    [sample["question"] for sample in samples],
                    self.clip,
                    reductions,
                    candidates=[sample["candidates"] for sample in samples],
                    positions=asking.positions,
                    max_new_tokens=asking.max_new_tokens,
                )
                return [[_sound(answer) for answer in row] for row in rows]
            except Exception as error:
                if len(asked) == len(reductions) == 1:
                    return [[error]]
        half, middle = len(asked) // 2, len(reductions) // 2
        if half:
            halves = (self._answers(asked[:half], reductions), self._answers(asked[half:], reductions))
            return [first + second for first, second in zip(*halves, strict=True)]
        return self._answers(asked, reductions[:middle]) + self._answers(asked, reductions[middle:])

    def result(self, i: int, n: int, reduction: Reduction | Exception, answer: Answer | Exception) -> Result:
        """Return what came of a sample under a setting."""
        setting, sample, full = self.job.settings[n], self.job.samples[i], self.full[i]
        tokens = self._encoded(setting)
        known: dict[str, Any] = {"total": tokens.total, "frames": len(self.clip)}
        known |= {"read_s": self.clip.seconds, "encode_s": self.encoding.get(n, tokens.seconds)}
        try:
            if isinstance(answer, Exception):
                raise answer
            if isinstance(reduction, Exception):
                raise reduction
            if answer.entered != len(reduction):
                raise VTCError(
                    f"{answer.entered} visual tokens entered, not {len(reduction)}; the reduction did not engage"
                )
            right = score(sample, answer)
        except Exception as error:
            return failure(error)._replace(**known, again=not isinstance(error, VTCError))
        candidates = sample["candidates"]
        if isinstance(full, Exception):
            known["error"] = f"nothing to compare with: {_words(full)}"
        else:
            apart = answer_fidelity(full, answer)
            known |= {"kl": apart["kl"], "tv": apart["tv"], "flipped": 1 - apart["agrees"]}
        if "evidence" in sample and self.job.asking.fps is None and not setting.stages[1]:
            with suppress(VTCError):  # tokens on another grid than the generated world's
                known["recall"] = evidence_recall(reduction, sample)
        return Result(
            kept=answer.entered,
            said=answer.text,
            right=right,
            likelihood=answer.scores.get(sample["answer"] or "", math.nan) if candidates else math.nan,
            reduce_s=reduction.seconds,
            prefill_s=answer.seconds["prefill"],
            decode_s=answer.seconds["decode"],
            engaged=True,
            per_layer=answer.per_layer,
            likeliest=(likeliest(answer, candidates) or "") if candidates else "",
            cache_bytes=answer.cache_bytes,
            letter=letter_of(answer.text, sample["options"]) or "" if "options" in sample else "",
            **known,
        )


def _sound(answer: Answer) -> Answer | VTCError:
    """Return the answer, or the error to report if its logits are NaN."""
    try:
        log_probabilities(answer.logits)
    except VTCError as error:
        return error
    return VTCError(NO_NUMBERS) if any(map(math.isnan, answer.scores.values())) else answer


def failure(error: Exception) -> Result:
    """Return an exception as a result: its status, and the exception in one line."""
    status = "minimum" if isinstance(error, MinimumBudgetError) else "error"
    return Result(status=status, error=_words(error), again=True)


def _words(error: Exception) -> str:
    words = plain(" ".join(str(error).split()))
    return words if isinstance(error, VTCError) else f"{type(error).__name__}: {words}"
