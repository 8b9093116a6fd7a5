"""What a sweep has to do: samples by settings, each pair named by all that its result depends on."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vtc_lab.clips.reading import resolve
from vtc_lab.reducers.registry import Method, check_option, get_method
from vtc_lab.sweeps.jobs import Asking, Job, Result, Setting
from vtc_lab.sweeps.keys import code_hash, digest, file_hash, portable, revision
from vtc_lab.sweeps.store import to_frame
from vtc_lab.sweeps.workers import environment
from vtc_lab.tokens import Clip, VTCError

if TYPE_CHECKING:
    from vtc_lab.models.video_model import VideoModel

_PART = ("start", "end", "picture_rate", "tried")  # what of a video a sample is about, see `read_sample_clip`
_SCORING = ("rule", "options", "also")  # what else `score` looks at


def variants(method: str, **options: Sequence[object]) -> list[tuple[str, dict[str, object]]]:
    """Every combination of some options of a method, as `sweep` takes them.

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
class _Asked:
    """A sample, and which clip of the plan it is about."""

    clip: int
    kind: str
    question: str
    answer: str | None
    candidates: list[str] | None
    scoring: dict[str, object]
    id: str
    group: str

    @property
    def facts(self) -> dict[str, object]:
        """What a job has to know."""
        return {"question": self.question, "answer": self.answer, "candidates": self.candidates, **self.scoring}


@dataclass(frozen=True)
class Choice:
    """A setting with what its rows say of it; `plain` are all its options as JSON, `options` those not default."""

    setting: Setting
    plain: str
    options: str
    label: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """Samples by settings; `clips` are (name, what a job reads, hash), `keys[i][n]` names a result by its content."""

    model: str
    asking: Asking
    clips: list[tuple[str, dict[str, object], str]]
    samples: list[_Asked]
    names: list[str]
    settings: list[Choice]
    keys: list[list[str]]

    def row(self, i: int, n: int, result: Result) -> tuple:
        """The values of a table's row, and whether it is to be tried again."""
        sample, choice = self.samples[i], self.settings[n]
        reached = result.total / result.kept if choice.setting.ratio is None else choice.setting.ratio
        asked = (self.clips[sample.clip][0], sample.kind, sample.question, sample.answer or "")
        how = (choice.setting.method, choice.options, choice.label, choice.seed, reached)
        *found, again = result
        return (self.names[i][:12], self.model, *asked, *how, *found, sample.id, sample.group, str(self.asking), again)

    def place(self, i: int, n: int) -> str:
        """What a result is of, whatever it is made with."""
        sample, choice = self.samples[i], self.settings[n]
        name, part, _ = self.clips[sample.clip]
        asked = (name, _range(part), sample.question, sample.answer, sample.candidates, sample.scoring)
        how = (choice.setting.method, choice.options, choice.seed, choice.setting.ratio)
        return digest(self.model, self.asking, *asked, *how)

    def jobs(self, found: Mapping[str, Result]) -> tuple[list[Job], list[list[int]]]:
        """A job for each clip that has something to do, and the numbers of its samples in the plan."""
        members: dict[int, list[int]] = {}
        for i, sample in enumerate(self.samples):
            members.setdefault(sample.clip, []).append(i)
        settings, claimed, made = tuple(choice.setting for choice in self.settings), set(found), []
        for clip, mine in members.items():
            wanted: list[list[int]] = [[] for _ in settings]
            for s, i in enumerate(mine):
                for n, key in enumerate(self.keys[i]):
                    if key not in claimed:
                        claimed.add(key)
                        wanted[n].append(s)
            if any(wanted):
                samples = tuple(self.samples[i].facts for i in mine)
                wanted = tuple(map(tuple, wanted))
                made.append((Job(self.asking, self.clips[clip][1], samples, settings, wanted), mine))
        return [job for job, _ in made], [mine for _, mine in made]

    def table(self, found: Mapping[str, Result]) -> pd.DataFrame:
        """The rows that are there."""
        places = [(i, n, key) for i, keys in enumerate(self.keys) for n, key in enumerate(keys)]
        return to_frame(self.row(i, n, found[key])[:-1] for i, n, key in places if key in found)


def settings_of(
    methods: Sequence[str | tuple[str, Mapping[str, object]]], ratios: Sequence[float | None], seeds: Sequence[int]
) -> list[Choice]:
    """Every method with its options under every seed that it takes, at every ratio; nothing twice."""
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
        seeded = method.options.get("seed", (None,))[0] is int  # a "seed" that is no number is an option like others
        for seed in seeds if seeded and "seed" not in given else [given.get("seed", 0)]:
            options = {**given, "seed": seed} if seeded else {**given}
            for choice in _choices(method, options, ratios):
                chosen.setdefault((name, choice.plain, choice.setting.ratio), choice)
    return list(chosen.values())


def _choices(method: Method, given: dict[str, object], ratios: Sequence[float | None]) -> Iterator[Choice]:
    for key, value in given.items():
        check_option(method, key, value)
    defaults = {key: default for key, (_, default) in sorted(method.options.items())}
    options = defaults | given
    plain = {key: portable(value) for key, value in options.items()}
    seeded = method.options.get("seed", (None,))[0] is int
    changed = {
        key: value
        for key, value in plain.items()
        if not (seeded and key == "seed") and value != portable(defaults[key])
    }
    label = f"{method.name} ({', '.join(f'{key}={value}' for key, value in changed.items())})"
    for ratio in ratios:
        setting = Setting(method.name, options, None if ratio is None else float(ratio))
        facts = (json.dumps(changed), label) if changed else ("", method.name)
        yield Choice(setting, json.dumps(plain), *facts, int(options["seed"]) if seeded else 0)


def make_plan(
    model: VideoModel, samples: Iterable[Mapping[str, object]], settings: list[Choice], asking: Asking
) -> Plan:
    """Samples by settings, with the key of every result."""
    clips, asked = {}, []
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, Mapping) or _given(sample, "question") is None or "answer" not in sample:
            lacks = [key for key in ("question", "answer") if not isinstance(sample, Mapping) or key not in sample]
            lacks = " and ".join(lacks) or "a question"
            raise VTCError(
                f"sample {number} is {sample!r:.60}, without {lacks}; give a dict with clip, question and answer"
            )
        part = {name: value for name in ("clip", *_PART) if (value := _given(sample, name)) is not None}
        source = id(part["clip"]) if isinstance(part.get("clip"), Clip) else str(part.get("clip"))
        clip = clips.setdefault((source, _range(part)), (len(clips), part))[0]
        texts = {name: _given(sample, name) for name in ("kind", "question", "id", "group")}
        texts = {name: "" if value is None else str(value) for name, value in texts.items()}
        answer, candidates = _given(sample, "answer"), _given(sample, "candidates")
        if isinstance(candidates, str) or not isinstance(candidates, Iterable | None):
            raise VTCError(f"the candidates of sample {number} are {candidates!r:.60}; give a list of texts, or None")
        scoring = {name: value for name in _SCORING if (value := _given(sample, name)) is not None}
        answer = None if answer is None else str(answer)
        candidates = None if candidates is None else list(map(str, candidates))
        asked.append(_Asked(clip, answer=answer, candidates=candidates, scoring=scoring, **texts))
    read = [_source(part) for _, part in clips.values()]
    pixels = [digest(content or name, _range(part)) for name, part, content in read]
    names = [digest(pixels[s.clip], s.question, s.answer, s.candidates, s.scoring) for s in asked]
    made = digest(revision(model), environment(), asking)
    used = {choice.setting.method: get_method(choice.setting.method) for choice in settings}
    codes = {name: digest(name, method.needs, code_hash(method.run, method.least)) for name, method in used.items()}
    ways = [digest(made, codes[choice.setting.method], choice.plain, choice.setting.ratio) for choice in settings]
    keys = [[digest(name, way) for way in ways] for name in names]
    return Plan(model.name, asking, read, asked, names, settings, keys)


def _given(sample: Mapping[str, object], name: str) -> object:
    """What a sample says, None if it says nothing; a table's empty cell, NaN, is nothing."""
    value = sample.get(name)
    return None if isinstance(value, float) and math.isnan(value) else value


def _range(part: Mapping[str, object]) -> str:
    """Which part of its video a clip is."""
    return repr([portable(part.get(name)) for name in ("start", "end", "picture_rate")])


def _source(part: dict[str, object]) -> tuple[str, dict[str, object], str]:
    """A clip's name, what a job reads, and the hash of its bytes or, where it cannot be read, nothing."""
    clip = part.get("clip")
    if isinstance(clip, Clip):
        return clip.path or f"clip {clip.sha256[:8]}", part, clip.sha256
    if clip is None:
        return "", part, ""
    try:
        found = next((path for path in part.get("tried", ()) if Path(path).exists()), clip)
        if Path(found).is_dir():
            pictures = sorted(Path(found).iterdir())
            return str(clip), part, digest(*(f"{picture.name} {file_hash(picture)}" for picture in pictures))
        path = str(resolve(found))
        rest = {name: value for name, value in part.items() if name != "tried"}
        return str(clip), rest | {"clip": path}, file_hash(path)
    except (VTCError, OSError, TypeError):  # read again, and refused in words, by the job
        return str(clip), part, ""
