"""The view that a state of the explorer asks for: the same picture from a line of code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from vtc_lab.clips.reading import find_clips, one_each, read_clip, resolve
from vtc_lab.encoders import ENCODERS, load_encoder
from vtc_lab.figures.style import VENUES
from vtc_lab.reducers.registry import finds_budget, get_method, methods, needs_saliency, reduce
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError
from vtc_lab.widgets.settings import State, bundled_samples, complete

if TYPE_CHECKING:
    from vtc_lab.models.video_model import Answer, VideoModel

DEFAULTS: State = {
    "clip": "data/clips/bigbuckbunny.mp4",
    "folder": "",  # whose clips are in the menu; "" is data/clips
    "frames": 16,
    "encoder": "efficientnet-lite0",
    "model": "",  # folder or hub id of the encoder "video-qa model"; "" is the bundled one
    "question": "",
    "method": "lftr",
    "options": {},
    "compare": "uniform",  # a second method at the same budget, or ""
    "compare_options": {},
    "budget": "ratio",  # which of the following is in force: "ratio", "stages" or "fidelity"
    "ratio": 8.0,
    "temporal_ratio": 4.0,
    "spatial_ratio": 2.0,
    "min_fidelity": 0.8,
    "figure": "my_figure",
    "venue": "neurips",
}
BUDGETS = {  # the settings that fix the budget
    "ratio": ("ratio",),
    "stages": ("temporal_ratio", "spatial_ratio"),
    "fidelity": ("min_fidelity",),
}
MODEL = "video-qa model"
ENCODER_NAMES = (*ENCODERS, MODEL)


@dataclass(frozen=True)
class View:
    """A clip, the frames drawn of it, its tokens, and their reduction by each of the methods of a state."""

    clip: Clip
    shown: Clip
    tokens: VideoTokens
    reductions: tuple[Reduction, ...]


def usual(model: str) -> State:
    """Return the defaults; naming a model asks for its tokens."""
    return DEFAULTS | ({"encoder": MODEL} if model else {})


def complete_state(state: State) -> State:
    """Return the state with every default filled in, checked as `complete` does."""
    names = list(methods().index)
    choices = {"encoder": ENCODER_NAMES, "method": names, "compare": ["", *names], "budget": BUDGETS, "venue": VENUES}
    if "clip" in state:
        state = state | {"clip": str(state["clip"])}
    elif state.get("folder"):
        state = state | {"clip": str(find_clips(str(state["folder"]))[0])}
    return complete("explorer", state, usual(state.get("model", "")), choices)


def build_view(state: State, model: VideoModel | None = None) -> View:
    """Read, encode and reduce as a state says, a second method to exactly the first one's budget.

    The model is the encoder "video-qa model"; other encoders need none. Clips and tokens that were used lately are
    remembered, the last ones of a model by itself.
    """
    pairs = [(state["method"], state["options"]), (state["compare"], state["compare_options"])]
    ranking = [name for name, options in pairs if name and needs_saliency(name, options)]
    if ranking and model is None:
        raise VTCError(
            f"method {ranking[0]!r} ranks tokens by attention, which {state['encoder']!r} does not have; choose the "
            f"encoder {MODEL!r}"
        )
    path = resolve(state["clip"])
    key = (str(path), path.stat().st_mtime_ns, state["frames"])  # a new file under an old name is read again
    clip = _read(*key)
    tokens = _encode(*key, state["encoder"]) if model is None else model.encode(clip, saliency=bool(ranking))
    (method, options), (other, other_options) = pairs
    first = reduce(tokens, method, **_joined(_budget(state), options, "options"))
    reductions = [first]
    if other:
        size = {"ratio": tokens.total / len(first)}
        if state["budget"] == "stages" and "temporal_ratio" in get_method(other).options:
            size["temporal_ratio"] = state["temporal_ratio"]
        reductions.append(reduce(tokens, other, **_joined(size, other_options, "compare_options")))
    return View(clip, one_each(clip, tokens.grid[0]), tokens, tuple(reductions))


def ask_view(state: State, view: View, model: VideoModel | None) -> tuple[list[Answer], str | None]:
    """Ask a state's question with all tokens, then with those that each reduction kept.

    The right answer comes too if the clip and question are a sample of the bundled test set.
    """
    if model is None:
        raise VTCError(f"encoder {state['encoder']!r} gives features only and cannot answer; choose {MODEL!r}")
    if not state["question"].strip():
        raise VTCError("there is no question; choose a sample or type one")
    asked = (str(resolve(state["clip"])), state["question"])
    sample: Any = next((s for s in bundled_samples() if (s["clip"], s["question"]) == asked), {})
    ask = partial(model.ask_each, [state["question"]], view.clip)
    each = [ask([reduced], candidates=[sample.get("candidates")]) for reduced in (None, *view.reductions)]
    return [answers[0][0] for answers in each], sample.get("answer")


def _budget(state: State) -> dict[str, float]:
    """Return the arguments that give the first method its budget."""
    method, budget = state["method"], state["budget"]
    known = get_method(method).options
    if budget == "fidelity" and "min_fidelity" not in known:
        raise VTCError(f"method {method!r} cannot find a budget by fidelity; choose 'lftr', or a budget by ratio")
    if finds_budget(method, state["options"]):
        return {}
    if budget == "stages" and "temporal_ratio" not in known:
        return {"ratio": state["temporal_ratio"] * state["spatial_ratio"]}
    return {name: state[name] for name in BUDGETS[budget]}


def _joined(size: dict[str, float], options: State, where: str) -> State:
    twice = sorted(size.keys() & options.keys())
    if twice:
        raise VTCError(f"{twice[0]} is fixed by the settings of the budget already; take it out of {where}")
    return {**size, **options}


@lru_cache(maxsize=4)
def _read(path: str, changed: int, frames: int) -> Clip:
    return read_clip(path, frames=frames)


@lru_cache(maxsize=4)
def _encode(path: str, changed: int, frames: int, encoder: str) -> VideoTokens:
    return _encoder(encoder).encode(_read(path, changed, frames))


_encoder = lru_cache(maxsize=2)(load_encoder)
