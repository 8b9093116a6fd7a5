"""Plan a sweep: samples by settings, each pair named by all that its result depends on."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, cast

import pandas as pd

from vtc_lab.clips.reading import resolve
from vtc_lab.qa.samples import Part, Question
from vtc_lab.reducers.registry import Method, check_option, get_method
from vtc_lab.sweeps.jobs import Asking, Job, Result, Setting
from vtc_lab.sweeps.keys import digest, file_hash, portable
from vtc_lab.sweeps.store import to_frame
from vtc_lab.tokens import Clip, VTCError

_PART = ("start", "end", "picture_rate", "tried")  # of a video, see `Part`
_SCORING = ("rule", "options", "also")  # what else `score` looks at

Chosen = str | tuple[str, Mapping[str, Any]]  # a method, or one with options


def variants(method: str, **options: Sequence[object]) -> list[tuple[str, dict[str, Any]]]:
    """Return every combination of some options of a method, as `sweep` takes them.

    Parameters
    ----------
    method : registered name.
    options : for each a list of values, its default among them if that is to be compared.

    Returns
    -------
    List of pairs (method, options), the last option changing fastest.

    Raises
    ------
    VTCError
        For an unknown method or option, or a value that the option cannot have.

    Examples
    --------
    >>> variants("lftr", temporal=["merge", "select"])
    [('lftr', {'temporal': 'merge'}), ('lftr', {'temporal': 'select'})]
    >>> len(variants("lftr", temporal=["merge", "select"], segments=["greedy", "optimal"]))
    4
    """
    chosen = get_method(method)
    for name, values in options.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise VTCError(f"{name} is {values!r}; give a list of the values to compare")
        for value in values:
            check_option(chosen, name, value)
    return [(method, dict(zip(options, values, strict=True))) for values in itertools.product(*options.values())]


@dataclass(frozen=True)
class Choice:
    """A setting and what its rows say of it: `plain` is JSON of all its options, `options` of those not default."""

    setting: Setting
    plain: str
    options: str
    label: str
    seed: int


@dataclass(frozen=True)
class _Video:
    """A clip of the plan: its name in the table, what a job reads, and a hash of its bytes, "" if it has none."""

    name: str
    part: Part
    content: str

    @property
    def range(self) -> str:
        """The part of the video that this clip is."""
        return repr([portable(self.part.get(name)) for name in ("start", "end", "picture_rate")])


@dataclass(frozen=True)
class _Asked:
    """A sample of the plan: its clip's number, what a job has to know, what its rows say, and a name of its content."""

    clip: int
    question: Question
    kind: str
    id: str
    group: str
    name: str


@dataclass(frozen=True)
class Plan:
    """Samples by settings; `keys[i][n]` names the result of sample i under setting n by what it depends on."""

    model: str
    asking: Asking
    clips: list[_Video]
    samples: list[_Asked]
    settings: list[Choice]
    keys: list[list[str]]

    def row(self, i: int, n: int, result: Result) -> tuple:
        """Return the values of a table's row, and whether it is to be tried again."""
        sample, choice, (*found, again) = self.samples[i], self.settings[n], result
        facts = (sample.name[:12], self.model, self.clips[sample.clip].name, sample.kind)
        asked = (sample.question["question"], sample.question["answer"] or "")
        reached = result.total / result.kept if choice.setting.ratio is None else choice.setting.ratio
        how = (choice.setting.method, choice.options, choice.label, choice.seed, reached)
        return (*facts, *asked, *how, *found, sample.id, sample.group, str(self.asking), again)

    def place(self, i: int, n: int) -> str:
        """Return a name for what a result is of, whatever it is made with."""
        sample, choice = self.samples[i], self.settings[n]
        clip = self.clips[sample.clip]
        how = (choice.setting.method, choice.options, choice.seed, choice.setting.ratio)
        return digest(self.model, self.asking, clip.name, clip.range, *_content(sample.question), *how)

    def jobs(self, found: Mapping[str, Result]) -> tuple[list[Job], list[list[int]]]:
        """Return a job for each clip that has something to do, and the numbers of its samples in the plan."""
        settings, claimed = tuple(choice.setting for choice in self.settings), set(found)
        of_clip: list[list[int]] = [[] for _ in self.clips]
        for i, sample in enumerate(self.samples):
            of_clip[sample.clip].append(i)
        jobs, members = [], []
        for video, mine in zip(self.clips, of_clip, strict=True):
            wanted: list[list[int]] = [[] for _ in settings]
            for s, i in enumerate(mine):
                for n, key in enumerate(self.keys[i]):
                    if key not in claimed:
                        claimed.add(key)
                        wanted[n].append(s)
            if any(wanted):
                questions = tuple(self.samples[i].question for i in mine)
                jobs.append(Job(self.asking, video.part, questions, settings, tuple(map(tuple, wanted))))
                members.append(mine)
        return jobs, members

    @property
    def total(self) -> int:
        """The number of settings of clips."""
        return len(self.clips) * len(self.settings)

    def done(self, found: Mapping[str, Result]) -> int:
        """Return how many settings of clips are there for all samples."""
        return self.total - sum(bool(wanted) for job in self.jobs(found)[0] for wanted in job.wanted)

    def table(self, found: Mapping[str, Result]) -> pd.DataFrame:
        """Return the rows that are there."""
        places = [(i, n, key) for i, keys in enumerate(self.keys) for n, key in enumerate(keys)]
        return to_frame(self.row(i, n, found[key])[:-1] for i, n, key in places if key in found)


def settings_of(methods: Sequence[Chosen], ratios: Sequence[float | None], seeds: Sequence[int]) -> list[Choice]:
    """Return every method with its options under every seed that it takes, at every ratio; nothing twice."""
    for name, values in {"methods": methods, "ratios": ratios, "seeds": seeds}.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise VTCError(f"{name} is {values!r}; give a list")
    if not list(seeds):
        raise VTCError("seeds is empty; give at least one, such as [0]")
    for ratio in ratios:
        if ratio is not None and not (isinstance(ratio, Real) and ratio >= 1 and math.isfinite(ratio)):
            raise VTCError(f"ratio is {ratio!r}; give numbers of at least 1, or None where the options make the budget")
    chosen: dict[tuple, Choice] = {}
    for entry in methods:
        name, given = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, {})
        method = get_method(name)
        if not isinstance(given, Mapping):
            raise VTCError(f"the options of {name!r} are {given!r}; give a dict")
        for seed in seeds if _seeded(method) and "seed" not in given else [given.get("seed", 0)]:
            for choice in _choices(method, {**given, "seed": seed} if _seeded(method) else {**given}, ratios):
                chosen.setdefault((name, choice.plain, choice.setting.ratio), choice)
    return list(chosen.values())


def _seeded(method: Method) -> bool:
    return method.options.get("seed", (None,))[0] is int  # a "seed" that is no number is an option like others


def _choices(method: Method, given: Mapping[str, Any], ratios: Sequence[float | None]) -> Iterator[Choice]:
    for key, value in given.items():
        check_option(method, key, value)
    defaults = {key: default for key, (_, default) in sorted(method.options.items())}
    options = defaults | given
    plain = {key: portable(value) for key, value in options.items()}
    seed = options["seed"] if _seeded(method) else 0
    named = {key: value for key, value in plain.items() if not (_seeded(method) and key == "seed")}
    changed = {key: value for key, value in named.items() if value != portable(defaults[key])}
    label = f"{method.name} ({', '.join(f'{key}={value}' for key, value in changed.items())})"
    facts = (json.dumps(changed), label) if changed else ("", method.name)
    for ratio in ratios:
        setting = Setting(method.name, options, None if ratio is None else float(ratio))
        yield Choice(setting, json.dumps(plain), *facts, int(seed))


def make_plan(
    model: str,
    samples: Iterable[Mapping[str, Any]],
    settings: list[Choice],
    asking: Asking,
    origins: Mapping[str, str],
) -> Plan:
    """Return the plan of samples by settings; `origins` name what results of a method depend on beside those."""
    numbers: dict[tuple[object, str], int] = {}
    clips, asked = [], []
    for number, sample in enumerate(samples, 1):
        lacks = [key for key in ("question", "answer") if not isinstance(sample, Mapping) or key not in sample]
        if lacks or _given(sample, "question") is None:
            raise VTCError(
                f"sample {number} is {sample!r:.60}, without {' and '.join(lacks) or 'a question'}; "
                "give a dict with clip, question and answer"
            )
        part = {name: value for name in ("clip", *_PART) if (value := _given(sample, name)) is not None}
        video = _Video("", cast(Part, part), "")
        source = id(part["clip"]) if isinstance(part.get("clip"), Clip) else str(part.get("clip"))
        clip = numbers.setdefault((source, video.range), len(clips))
        if clip == len(clips):
            clips.append(_found(video))
        question = _question(sample, number)
        name = digest(clips[clip].content or clips[clip].name, clips[clip].range)
        texts = ["" if (text := _given(sample, key)) is None else str(text) for key in ("kind", "id", "group")]
        asked.append(_Asked(clip, question, *texts, digest(name, *_content(question))))
    ways = []
    for choice in settings:
        setting = choice.setting
        ways.append(digest(asking, origins[setting.method], setting.method, choice.plain, setting.ratio))
    keys = [[digest(sample.name, way) for way in ways] for sample in asked]
    return Plan(model, asking, clips, asked, settings, keys)


def _given(sample: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    """Return what a sample says, None if it says nothing; a table's empty cell, NaN, is nothing."""
    value = sample.get(name)
    return None if isinstance(value, float) and math.isnan(value) else value


def _question(sample: Mapping[str, Any], number: int) -> Question:
    answer, candidates = _given(sample, "answer"), _given(sample, "candidates")
    if isinstance(candidates, str) or not isinstance(candidates, Iterable | None):
        raise VTCError(f"the candidates of sample {number} are {candidates!r:.60}; give a list of texts, or None")
    question = {
        "question": str(sample["question"]),
        "answer": None if answer is None else str(answer),
        "candidates": None if candidates is None else list(map(str, candidates)),
    }
    scoring = {name: value for name in _SCORING if (value := _given(sample, name)) is not None}
    return cast(Question, question | scoring)


def _content(question: Question) -> tuple[object, ...]:
    """Return what of a question a result depends on."""
    scoring = {name: question[name] for name in _SCORING if name in question}
    return question["question"], question["answer"], question["candidates"], scoring


def _found(video: _Video) -> _Video:
    """Return a clip with its name, where it lies, and the hash of its bytes, if it can be read."""
    part, clip = video.part, video.part.get("clip")
    if isinstance(clip, Clip):
        return _Video(clip.path or f"clip {clip.sha256[:8]}", part, clip.sha256)
    if clip is None:
        return video
    try:
        found = next((path for path in part.get("tried", ()) if Path(path).exists()), clip)
        if Path(found).is_dir():
            pictures = sorted(Path(found).iterdir())
            return _Video(str(clip), part, digest(*(f"{picture.name} {file_hash(picture)}" for picture in pictures)))
        path = str(resolve(found))
        rest = {name: value for name, value in part.items() if name not in ("clip", "tried")}
        return _Video(str(clip), cast(Part, rest | {"clip": path}), file_hash(path))
    except (VTCError, OSError, TypeError):  # read again, and refused in words, by the job
        return _Video(str(clip), part, "")
