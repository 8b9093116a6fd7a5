"""The states of panels, dicts of plain JSON values, and the view that a state of the explorer asks for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc_lab.clips.reading import ROOT, find_clips, given_path, one_each, read_clip, resolve, unfit
from vtc_lab.encoders import ENCODERS, load_encoder
from vtc_lab.figures.style import VENUES
from vtc_lab.measures import list_measures
from vtc_lab.qa.samples import BUNDLED, Sample, read_samples
from vtc_lab.reducers.registry import INSIDE, METHODS, finds_budget, is_ceiling, needs_saliency, reduce
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError, demand_one_of, suggest

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import Answer, VideoModel

State = dict[str, Any]
DEFAULTS: State = {
    "clip": "data/clips/bigbuckbunny.mp4",
    "folder": "",  # whose clips are in the menu; "" is data/clips
    "frames": 16,
    "encoder": "efficientnet-lite0",
    "model": "",  # folder or hub id of the encoder "video-qa model"; "" is the bundled one
    "question": "",
    "inside": "",  # a method that cuts further inside the language model when it is asked, or ""
    "method": "lftr",
    "options": {},
    "compare": ["uniform"],  # up to three others at the same budget
    "compare_options": {},  # of these, a dict for each name
    "ratio": 8.0,
    "view": "tokens",
    "measure": "coverage",  # of the curve
    "figure": "my_figure",
    "venue": "neurips",
    "width": "text",  # of the exported figure: a "column", or all the "text"
}
MOST = 4  # methods at once
VIEWS = ("tokens", "averaged", "difference", "significance", "saliency", "lost")
_LARGEST = 1e15  # number in a state: a control holds no larger one exactly
_LONGEST = 100  # entries of a list, each of which is a control or a run
ANSWERS = ("probability", "kl")  # measures of answers, which need a question
MODEL = "video-qa model"
_SESSION = 1_000_000  # bytes of a file that can be a session
ENCODER_NAMES = (*ENCODERS, MODEL)


def complete(
    panel: str, state: Mapping[str, Any], defaults: Mapping[str, Any], choices: Mapping[str, Collection[str]]
) -> State:
    """Return a state with every default filled in; `choices` are the names that a setting or its elements can have."""
    for key in state:
        if key not in defaults:
            raise VTCError(f"the {panel} has no setting {key!r}; {suggest(key, defaults)}")
    try:
        whole = json.loads(json.dumps({**defaults, **state}))
    except (TypeError, ValueError, RecursionError) as error:
        raise VTCError(f"the state of the {panel} must be plain JSON values: {error}") from error
    for key, default in defaults.items():
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(whole[key], kinds) or isinstance(whole[key], bool):
            raise VTCError(f"{key} is {whole[key]!r:.60}; it must be of the kind of {default!r}")
        if isinstance(whole[key], list) and len(whole[key]) > _LONGEST:
            raise VTCError(f"{key} has {len(whole[key])} entries; give at most {_LONGEST}")
        if isinstance(whole[key], int | float) and abs(whole[key]) > _LARGEST:
            raise VTCError(f"{key} is {whole[key]!r:.40}; it must be at most {_LARGEST:g}")
    for key, known in choices.items():
        for name in whole[key] if isinstance(whole[key], list) else [whole[key]]:
            demand_one_of(key, name, known)
    return whole


def read_session(path: str | Path) -> State:
    """Return the state that a JSON file holds, unchecked."""
    place = given_path(path)
    try:
        fault = unfit(place) or ("it is too large" if place.stat().st_size > _SESSION else "")
        state = None if fault else json.loads(place.read_text())
    except (OSError, ValueError, RecursionError) as error:
        state, fault = None, str(error)
    if not isinstance(state, dict):
        raise VTCError(f"{path} is no session ({fault or 'no dict'}); give a file that Save wrote")
    return state


def call_line(call: str, state: State, defaults: Mapping[str, Any]) -> str:
    """Return the line of code that opens a panel in a state: `vtc.explore(ratio=4)`."""
    changed = [f"{key}={value!r}" for key, value in state.items() if value != defaults[key]]
    return f"vtc.{call}({', '.join(changed)})"


def sample_set(file: str = "") -> list[Sample]:
    """Return the samples of a file, or the bundled test set, which is empty without the repository."""
    return read_samples(file) if file else _bundled_samples()


@lru_cache(maxsize=1)
def _bundled_samples() -> list[Sample]:
    return read_samples() if BUNDLED.exists() else []


def shortened(path: str | Path) -> str:
    """Return the path from the repository to a file in it, other paths as they are."""
    return Path(path).relative_to(ROOT).as_posix() if Path(path).is_relative_to(ROOT) else str(path)


@dataclass(frozen=True)
class View:
    """A clip, the frames drawn of it, its tokens, and their reduction by each method of a state that could run."""

    clip: Clip
    shown: Clip
    tokens: VideoTokens
    reductions: tuple[Reduction, ...]
    failed: dict[str, str]  # why one of the others has none


def usual(model: str) -> State:
    """Return the defaults; naming a model asks for its tokens."""
    return DEFAULTS | ({"encoder": MODEL} if model else {})


def complete_state(state: State) -> State:
    """Return the state with every default filled in, checked as `complete` does; `compare` may be one name."""
    names = method_names()
    choices = {"encoder": ENCODER_NAMES, "method": names, "compare": names, "venue": VENUES}
    choices |= {"inside": ["", *INSIDE], "view": VIEWS, "measure": curve_measures(), "width": ("column", "text")}
    if isinstance(others := state.get("compare"), str):
        state = state | {"compare": [others] if others else []}
    if "clip" in state:
        state = state | {"clip": str(state["clip"])}
    elif folder := str(state.get("folder", "")):
        state = state | {"clip": str(find_clips(folder)[0])}
    whole = complete("explorer", state, usual(state.get("model", "")), choices)
    others, options = whole["compare"], whole["compare_options"]
    if len(others) >= MOST or len(set(others)) < len(others):
        raise VTCError(f"compare is {others!r}; give up to {MOST - 1} methods, each once")
    for name, given in options.items():
        if name not in others or not isinstance(given, dict):
            raise VTCError(f"compare_options has {name!r}: {given!r}; give a dict of options for a name in {others}")
    return whole


def method_names() -> list[str]:
    """Return the names that `methods` lists, at once."""
    return [name for name in METHODS if not is_ceiling(name)]


@cache
def curve_measures() -> tuple[str, ...]:
    """Return the measures that the curve can show: those of tokens that follow a slider, and those of answers."""
    return (*list_measures().query("follows_a_slider").index, *ANSWERS)


def chosen(state: State) -> list[tuple[str, State]]:
    """Return each method of a state with its options, the first one first."""
    return [(state["method"], state["options"]), *((n, state["compare_options"].get(n, {})) for n in state["compare"])]


def unable(state: State, method: str, options: State) -> str:
    """Return why a method cannot run on the encoder of a state, "" if it can."""
    if state["encoder"] != MODEL and needs_saliency(method, options):
        return f"ranks tokens by attention, which {state['encoder']!r} does not have; choose the encoder {MODEL!r}"
    return ""


def own_budget(method: str, options: State) -> bool:
    """Return True if the options of a method fix its budget."""
    given = {name for name, value in options.items() if value is not None}
    return finds_budget(method, options) or "min_fidelity" in given or {"temporal_ratio", "spatial_ratio"} <= given


def build_view(state: State, model: VideoModel | None = None) -> View:
    """Read, encode and reduce as a state says, the other methods to exactly the first one's budget."""
    (method, options), *others = chosen(state)
    if reason := unable(state, method, options):
        raise VTCError(f"method {method!r} {reason}")
    path = resolve(state["clip"])
    key = (str(path), path.stat().st_mtime_ns, state["frames"])  # a new file under an old name is read again
    clip = _read(*key)
    ranking = state["view"] == "saliency" or any(needs_saliency(*each) for each in chosen(state))
    tokens = _encode(*key, state["encoder"]) if model is None else model.encode(clip, saliency=ranking)
    for name, given in chosen(state):
        if "ratio" in given:
            raise VTCError(f"the options of {name!r} hold a ratio, which is a setting of its own; take it out of them")
    first = reduce(tokens, method, ratio=None if own_budget(method, options) else state["ratio"], **options)
    reductions, failed = [first], {}
    for other, its_options in others:
        if reason := unable(state, other, its_options):
            failed[other] = reason
            continue
        try:
            reductions.append(reduce(tokens, other, ratio=first.total / len(first), **its_options))
        except VTCError as error:
            failed[other] = str(error)
    shown = _one_each(clip, tokens.grid[0])
    return View(clip, shown, tokens, tuple(reductions), failed)


def ask_view(
    state: State, view: View, model: VideoModel | None, reductions: Sequence[Reduction | None]
) -> tuple[list[Answer], str | None]:
    """Return the answers from reductions, None for all tokens, and the right one if a bundled sample has it.

    What is reduced is also cut by the state's method inside the language model.
    """
    if model is None:
        raise VTCError(f"encoder {state['encoder']!r} gives features only and cannot answer; choose {MODEL!r}")
    if not state["question"].strip():
        raise VTCError("there is no question; choose a sample or type one")
    asked = (str(resolve(state["clip"])), state["question"])
    sample: Any = next((s for s in sample_set() if (s["clip"], s["question"]) == asked), {})
    ask = partial(model.ask_each, [state["question"]], view.clip, candidates=[sample.get("candidates")])
    answers = []
    for reduced in reductions:
        with _cut_inside(model, state["inside"] if reduced else ""):
            answers.append(ask([reduced])[0][0])
    return answers, sample.get("answer")


def _cut_inside(model: VideoModel, name: str) -> AbstractContextManager:
    from vtc_lab.models.inside import inside

    return inside(model.network, name) if name else nullcontext()


def unknown_words(question: str, model: VideoModel) -> list[str]:
    """Return the words of a question that the model's tokenizer cannot tell apart."""
    tokenizer = model.processor.tokenizer
    if tokenizer.unk_token_id is None:
        return []
    return [word for word in question.split() if tokenizer.unk_token_id in tokenizer(word).input_ids]


@lru_cache(maxsize=2)
def _read(path: str, changed: int, frames: int) -> Clip:
    return read_clip(path, frames=frames)


@lru_cache(maxsize=2)
def _encode(path: str, changed: int, frames: int, encoder: str) -> VideoTokens:
    return _encoder(encoder).encode(_read(path, changed, frames))


_encoder = lru_cache(maxsize=2)(load_encoder)
_one_each = lru_cache(maxsize=2)(one_each)
