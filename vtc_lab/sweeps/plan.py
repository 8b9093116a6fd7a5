"""Plan a sweep: samples by settings, each pair named by all that its result depends on."""

import itertools
import json
import math
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd

from vtc_lab.clips.reading import resolve
from vtc_lab.qa.samples import Part, Question
from vtc_lab.reducers.inside import FIRST_BY, IN_TOWER, get_inside, staged, stages_of
from vtc_lab.reducers.registry import Method, check_option
from vtc_lab.sweeps.jobs import Asking, Finished, Job, Result, Setting
from vtc_lab.sweeps.keys import digest, file_hash, portable
from vtc_lab.sweeps.store import to_frame
from vtc_lab.tokens import Clip, VTCError, plain

_PART = ("clip", "start", "end", "picture_rate", "tried")
# What is asked, and how it is scored.
_QUESTION = ("question", "answer", "candidates", "rule", "options", "also", "evidence", "frames")

_MOST = 100_000  # settings, so that a range by mistake does not eat all memory
Chosen = str | tuple[str, Mapping[str, Any]]  # a method, or one with options


def variants(method: str, **options: Sequence[object]) -> list[tuple[str, dict[str, Any]]]:
    """Return every combination of some options of a method, as `sweep` takes them.

    Parameters
    ----------
    method : registered name.
    options : for each a list of values, its default among them if that is to be compared. `stage` is one of every
        method before the language model, see `reduce_clip`.

    Returns
    -------
    List of pairs (method, options), the last option changing fastest.

    Examples
    --------
    >>> variants("lftr", temporal=["merge", "select"])
    [('lftr', {'temporal': 'merge'}), ('lftr', {'temporal': 'select'})]
    >>> len(variants("lftr", temporal=["merge", "select"], stage=["features", "both", "pixels"]))
    6
    """
    chosen = staged(method)
    for name, values in options.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values or values[_MOST:]:
            raise VTCError(f"{name} is {values!r:.60}; give a list of the values to compare")
        for value in values:
            check_option(chosen, name, value)
    return [(method, dict(zip(options, values, strict=True))) for values in itertools.product(*options.values())]


class _Video(NamedTuple):
    """A clip of the plan: its name in the table, what a job reads, and a hash of its bytes, "" if it has none."""

    name: str
    part: Part
    content: str


class _Asked(NamedTuple):
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
    settings: list[Setting]
    keys: list[list[str]]

    def row(self, i: int, n: int, result: Result) -> tuple:
        """Return the values of a table's row, and whether it is to be tried again."""
        sample, setting, (*found, again) = self.samples[i], self.settings[n], result
        question = sample.question
        facts = (sample.name[:12], self.model, self.clips[sample.clip].name, sample.kind)
        asked = (question["question"], question["answer"] or "")
        ratio = result.total / result.kept if setting.ratio is None else setting.ratio
        how = (setting.method, setting.changed, setting.label, setting.seed, ratio)
        return (*facts, *asked, *how, *found, sample.id, sample.group, str(self.asking), again)

    def place(self, i: int, n: int) -> str:
        """Return a key of the sample and setting alone, whatever model and code made the result."""
        sample, setting = self.samples[i], self.settings[n]
        video = self.clips[sample.clip]
        how = (setting.method, setting.changed, setting.seed, setting.ratio)
        return digest(self.model, self.asking, video.name, _range(video.part), sample.question, sample.id, *how)

    def stored(self, finished: Iterable[Finished], saved: Container[tuple[str, str]]) -> Iterator[tuple]:
        """Yield key, place and row of what is finished and not saved yet, under this id of the question."""
        for i, n, result in finished:
            if (self.keys[i][n], self.samples[i].id) not in saved:
                yield self.keys[i][n], self.place(i, n), self.row(i, n, result)

    def jobs(self, found: Mapping[str, Result]) -> list[Job]:
        """Return a job for each clip that has something to do."""
        questions: list[dict[int, Question]] = [{} for _ in self.clips]
        for i, sample in enumerate(self.samples):
            questions[sample.clip][i] = sample.question
        settings, claimed, jobs = tuple(self.settings), set(found), []
        for video, mine in zip(self.clips, questions, strict=True):
            wanted: list[list[int]] = [[] for _ in settings]
            for i, n in itertools.product(mine, range(len(settings))):
                if self.keys[i][n] not in claimed:
                    claimed.add(self.keys[i][n])
                    wanted[n].append(i)
            if any(wanted):
                jobs.append(Job(self.asking, video.part, mine, settings, tuple(map(tuple, wanted))))
        return jobs

    def progress(self, found: Mapping[str, Result]) -> tuple[int, int]:
        """Return how many settings of clips are there for all samples, and how many there are in total."""
        total = len(self.clips) * len(self.settings)
        return total - sum(bool(wanted) for job in self.jobs(found) for wanted in job.wanted), total

    def there(self, found: Mapping[str, Result]) -> list[Finished]:
        """Return what is found, in the order of the table."""
        places = [(i, n, key) for i, keys in enumerate(self.keys) for n, key in enumerate(keys)]
        return [(i, n, found[key]) for i, n, key in places if key in found]

    def table(self, found: Mapping[str, Result]) -> pd.DataFrame:
        """Return the rows that are there."""
        return to_frame(self.row(*one)[:-1] for one in self.there(found))


def settings_of(methods: Sequence[Chosen], ratios: Sequence[float | None], seeds: Sequence[int]) -> list[Setting]:
    """Return every method with its options under every seed that it takes, at every ratio; nothing twice."""
    for name, values in {"methods": methods, "ratios": ratios, "seeds": seeds}.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise VTCError(f"{name} is {values!r:.60}; give a list")
    lists: Any = (list(itertools.islice(values, _MOST + 1)) for values in (methods, ratios, seeds))
    methods, ratios, seeds = lists
    if len(methods) * len(ratios) * len(seeds) > _MOST:
        raise VTCError(f"more than {_MOST:,} settings are asked for; give fewer methods, ratios or seeds")
    if not seeds:
        raise VTCError("seeds is empty; give at least one, such as [0]")
    for ratio in ratios:
        if ratio is not None and not (isinstance(ratio, Real) and 1 <= ratio < sys.maxsize):
            raise VTCError(f"ratio is {ratio!r}; give numbers of at least 1, or None where the options make the budget")
    chosen: dict[tuple, Setting] = {}
    for entry in methods:
        name, given = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, {})
        method = staged(name)
        if not isinstance(given, Mapping):
            raise VTCError(f"the options of {name!r} are {given!r}; give a dict")
        seeded = method.options.get("seed", (None,))[0] is int  # a "seed" that is no number is an option like others
        for seed in seeds if seeded and "seed" not in given else [given.get("seed", 0)]:
            for setting in _at_ratios(method, {**given, "seed": seed} if seeded else given, seeded, ratios):
                chosen.setdefault((name, setting.changed, setting.seed, setting.ratio), setting)
    return list(chosen.values())


def _at_ratios(
    method: Method, given: Mapping[str, Any], seeded: bool, ratios: Sequence[float | None]
) -> Iterator[Setting]:
    for key, value in given.items():
        check_option(method, key, value)
    if method.stage == "inside" and "keep" in given and any(ratio is not None for ratio in ratios):
        raise VTCError(f"{method.name!r} was given keep and ratios; give one of the two, or ratios=[None]")
    if given.get("stage") == "both" and None in ratios:
        raise VTCError("stage='both' chooses tokens by the ratio, which cannot be None")
    options = {**method.defaults, **given}
    changed = {
        key: portable(options[key])
        for key, default in sorted(method.defaults.items())
        if not (seeded and key == "seed") and portable(options[key]) != portable(default)
    }
    named = f" ({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""
    written = (json.dumps(changed) if changed else "", f"{method.name}{named}")
    stage = options.pop("stage", "features")
    before, inner = stages_of(method.name)
    for key in IN_TOWER.get(before, {}).keys() - (get_inside(inner).options.keys() if inner else ()):
        if stage != "both" and options.pop(key) is not None:
            raise VTCError(f"{key} is {given[key]!r:.60}, an option of stage='both' alone; add it, or leave {key} out")
    for ratio in ratios:
        seed = int(options["seed"]) if seeded else 0
        yield Setting(method.name, options, None if ratio is None else float(ratio), *written, seed, stage)


def make_plan(
    model: str,
    samples: Iterable[Mapping[str, Any]],
    settings: list[Setting],
    asking: Asking,
    origins: Mapping[str, str],
) -> Plan:
    """Return the plan of samples by settings; `origins` name what results of a method depend on beside those."""
    numbers: dict[tuple[object, str], int] = {}
    clips: list[_Video] = []
    asked = []
    for number, sample in enumerate(samples, 1):
        said = _said(sample, number)
        part = cast(Part, {name: said[name] for name in _PART if name in said})
        asks = {"answer": None, "candidates": None} | {name: said[name] for name in _QUESTION if name in said}
        question = cast(Question, asks)
        source = id(part["clip"]) if isinstance(part.get("clip"), Clip) else str(part.get("clip"))
        clip = numbers.setdefault((source, _range(part)), len(clips))
        if clip == len(clips):
            clips.append(_video(part))
        name = digest(clips[clip].content or clips[clip].name, _range(part), question)
        kind, own, group = (plain(said.get(key, "")) for key in ("kind", "id", "group"))
        asked.append(_Asked(clip, question, kind, own, group, name))
    code = [origins[s.method] + (origins[FIRST_BY] if s.stage == "both" else "") for s in settings]
    ways = [digest(asking, own, s.method, s.changed, s.seed, s.ratio) for s, own in zip(settings, code, strict=True)]
    names: list[list[str]] = [[] for _ in clips]
    for each in asked:
        names[each.clip].append(each.name)
    shown = [digest(*sorted(some)) for some in names]  # what a ceiling knows
    keys = [
        [
            digest(s.name, way, shown[s.clip] if setting.informed else "")
            for setting, way in zip(settings, ways, strict=True)
        ]
        for s in asked
    ]
    return Plan(model, asking, clips, asked, settings, keys)


def _said(sample: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return what a sample says, without a table's empty cells, which are NaN; raise a VTCError if it is none."""
    given = sample if isinstance(sample, Mapping) else {}
    empty = [key for key, value in given.items() if value is None or (isinstance(value, float) and math.isnan(value))]
    said = {key: value for key, value in given.items() if key not in empty}
    if lacks := [key for key, there in (("question", said), ("answer", given)) if key not in there]:
        words = f"sample {number} is {sample!r:.60}, without {' and '.join(lacks)}"
        raise VTCError(f"{words}; give a dict with clip, question and answer")
    if isinstance(candidates := said.get("candidates", []), str) or not isinstance(candidates, Iterable):
        raise VTCError(f"the candidates of sample {number} are {candidates!r:.60}; give a list of texts, or None")
    texts = {key: plain(said[key]) for key in ("question", "answer") if key in said}
    return said | texts | ({"candidates": list(map(plain, candidates))} if "candidates" in said else {})


def _range(part: Part) -> str:
    """Return which part of its video a clip is."""
    return repr([portable(part.get(name)) for name in ("start", "end", "picture_rate")])


def _video(part: Part) -> _Video:
    """Return a clip with its name, where it lies, and the hash of its bytes, if it can be read."""
    clip = part.get("clip")
    if isinstance(clip, Clip):
        return _Video(plain(clip.path) or f"clip {clip.sha256[:8]}", part, clip.sha256)
    try:
        found = next((path for path in part.get("tried", ()) if Path(path).exists()), clip)
        if Path(found).is_dir():
            pictures = sorted(filter(Path.is_file, Path(found).iterdir()))  # a pipe would be waited for
            return _Video(plain(clip), part, digest(*(f"{picture.name} {file_hash(picture)}" for picture in pictures)))
        path = str(resolve(found))
        rest = {name: value for name, value in part.items() if name not in ("clip", "tried")}
        return _Video(plain(clip), cast(Part, rest | {"clip": path}), file_hash(path))
    except (VTCError, OSError, TypeError):  # read again, and refused in words, by the job
        return _Video(plain(clip or ""), part, "")
