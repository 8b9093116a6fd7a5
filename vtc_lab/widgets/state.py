"""What the explorer shows, as a function of its state: the same picture from a line of code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vtc_lab.clips.reading import find_clips, one_each, read_clip, resolve
from vtc_lab.encoders import ENCODERS, load_encoder
from vtc_lab.figures.style import VENUES
from vtc_lab.qa.samples import BUNDLED, read_samples
from vtc_lab.reducers.registry import finds_budget, get_method, methods, needs_saliency, reduce
from vtc_lab.tokens import Clip, Reduction, VideoTokens, VTCError, suggest

if TYPE_CHECKING:
    from vtc_lab.encoders import EfficientNetLite0, Pixels
    from vtc_lab.models.video_model import Answer, VideoModel

DEFAULTS = {
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
BUDGETS = ("ratio", "stages", "fidelity")
MODEL = "video-qa model"
ENCODER_NAMES = (*ENCODERS, MODEL)


@dataclass(frozen=True)
class Scene:
    """A clip, what is shown of it, its tokens, one reduction of them for each method in the state, and who encoded."""

    clip: Clip
    shown: Clip
    tokens: VideoTokens
    reductions: tuple[Reduction, ...]
    encoder: Pixels | EfficientNetLite0 | VideoModel


def complete_state(state: dict[str, object]) -> dict[str, object]:
    """The state with every default filled in.

    Parameters
    ----------
    state : any of the keys of `DEFAULTS`; it must survive JSON.

    Returns
    -------
    A new dict of plain JSON values.

    Raises
    ------
    VTCError
        For an unknown setting or name, or a value of the wrong kind.

    Examples
    --------
    >>> complete_state({"ratio": 4})["ratio"], complete_state({})["method"]
    (4, 'lftr')
    """
    for key in state:
        if key not in DEFAULTS:
            raise VTCError(f"the explorer has no setting {key!r}; {suggest(key, DEFAULTS)}")
    first = str(find_clips(str(state["folder"]))[0]) if state.get("folder") else DEFAULTS["clip"]
    state = {**_usual(state.get("model", "")), **state, "clip": str(state.get("clip", first))}
    for key, default in DEFAULTS.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(state[key], kinds) or isinstance(state[key], bool):
            raise VTCError(f"{key} is {state[key]!r}; it must be of the kind of {default!r}")
    names = {"encoder": ENCODER_NAMES, "method": methods().index, "compare": ["", *methods().index], "budget": BUDGETS}
    for key, known in {**names, "venue": VENUES}.items():
        if state[key] not in known:
            raise VTCError(f"{key} is {state[key]!r}; {suggest(state[key], known)}")
    try:
        return json.loads(json.dumps(state))
    except TypeError as error:
        raise VTCError(f"the state of the explorer must be plain JSON values: {error}") from error


def name_of(model: VideoModel | str | None) -> str:
    """What a state calls a model: its folder or hub id, "" for the bundled one.

    >>> name_of(None), name_of("a/folder")
    ('', 'a/folder')
    """
    if model is None or isinstance(model, str):
        return model or ""
    if not hasattr(model, "ask_each"):
        raise VTCError(f"model is a {type(model).__name__}; give what load_model returns, a folder or a hub id")
    from vtc_lab.models.loading import BUNDLED  # whoever has a model has imported it

    name = model.spec["name"] if model.spec else model.name
    return "" if Path(name) == BUNDLED else name


def build_scene(state: dict[str, object], model: VideoModel | None = None) -> Scene:
    """Read, encode and reduce as a state says; clips and tokens that were used lately are remembered.

    Parameters
    ----------
    state : as `complete_state` returns it.
    model : the encoder "video-qa model", from `load_model`; by default the state's, loaded for this.

    Returns
    -------
    Scene. A second method gets exactly the first one's budget.

    Raises
    ------
    VTCError
        From reading, encoding or reducing.
    """
    path = resolve(state["clip"])
    key = (str(path), path.stat().st_mtime_ns if path.is_file() else 0, state["frames"])
    ranking = [
        state[name]
        for name, options in (("method", "options"), ("compare", "compare_options"))
        if state[name] and needs_saliency(state[name], state[options])
    ]
    if ranking and state["encoder"] != MODEL:
        raise VTCError(
            f"method {ranking[0]!r} ranks tokens by attention, which {state['encoder']!r} does not have; choose the "
            f"encoder {MODEL!r}"
        )
    salient = bool(ranking)
    clip = _read(*key)
    if model is not None and state["encoder"] == MODEL:
        encoder, tokens = model, model.encode(clip, saliency=salient)  # it remembers the clip itself
    else:
        encoder = _encoder(state["encoder"], state["model"] if state["encoder"] == MODEL else "")
        tokens = _encode(*key, encoder, salient)
    shown = one_each(clip, tokens.grid[0])
    method, known = state["method"], get_method(state["method"]).options
    if state["budget"] == "fidelity" and "min_fidelity" not in known:
        raise VTCError(f"method {method!r} cannot find a budget by fidelity; choose 'lftr', or a budget by ratio")
    if finds_budget(method, state["options"]):
        size = {}  # the method finds its own budget; the sliders wait
    elif state["budget"] == "fidelity":
        size = {"min_fidelity": state["min_fidelity"]}
    elif state["budget"] == "stages" and "temporal_ratio" in known:
        size = {"temporal_ratio": state["temporal_ratio"], "spatial_ratio": state["spatial_ratio"]}
    elif state["budget"] == "stages":
        size = {"ratio": state["temporal_ratio"] * state["spatial_ratio"]}
    else:
        size = {"ratio": state["ratio"]}
    first = reduce(tokens, method, **_joined(size, state["options"], "options"))
    if not state["compare"]:
        return Scene(clip, shown, tokens, (first,), encoder)
    size = {"ratio": tokens.total / len(first)}
    if state["budget"] == "stages" and "temporal_ratio" in get_method(state["compare"]).options:
        size["temporal_ratio"] = state["temporal_ratio"]
    second = reduce(tokens, state["compare"], **_joined(size, state["compare_options"], "compare_options"))
    return Scene(clip, shown, tokens, (first, second), encoder)


def _joined(size: dict[str, float], options: dict[str, object], where: str) -> dict[str, object]:
    """What fixes the budget and the other options, none of which may fix it again."""
    twice = sorted(size.keys() & options.keys())
    if twice:
        raise VTCError(f"{twice[0]} is fixed by the settings of the budget already; take it out of {where}")
    return {**size, **options}


def ask_scene(state: dict[str, object], scene: Scene) -> tuple[list[Answer], str | None]:
    """Ask the question of a state with all tokens, then with those that each reduction kept.

    Returns
    -------
    The answers, and the right one if the clip and question are a sample of the bundled test set.

    Raises
    ------
    VTCError
        If there is no question, or the encoder is no language model.
    """
    if state["encoder"] != MODEL:
        raise VTCError(f"encoder {state['encoder']!r} gives features only and cannot answer; choose {MODEL!r}")
    if not state["question"].strip():
        raise VTCError("there is no question; choose a sample or type one")
    sample = next((s for s in samples_of(state["clip"]) if s["question"] == state["question"]), {})
    choices = {"candidates": sample.get("candidates")}
    asked = (state["question"], scene.clip)
    answers = [scene.encoder.ask(*asked, reduced, **choices) for reduced in (None, *scene.reductions)]
    return answers, sample.get("answer")


def samples_of(clip: str) -> list[dict[str, object]]:
    """The bundled samples about a clip."""
    path = str(resolve(clip))
    return [sample for sample in bundled_samples() if sample["clip"] == path]


@lru_cache(maxsize=1)
def bundled_samples() -> list[dict[str, object]]:
    """The bundled test set, read once; empty where the package was installed without its repository."""
    return read_samples() if BUNDLED.exists() else []


def code_line(state: dict[str, object]) -> str:
    """The call that opens the explorer in this state.

    >>> code_line(complete_state({"ratio": 4}))
    'vtc.explore(ratio=4)'
    """
    usual = _usual(state["model"])
    changed = [f"{key}={value!r}" for key, value in state.items() if value != usual[key]]
    return f"vtc.explore({', '.join(changed)})"


def _usual(model: object) -> dict[str, object]:
    """The defaults; who names a model wants to see its tokens."""
    return DEFAULTS | ({"encoder": MODEL} if model else {})


@lru_cache(maxsize=4)
def _read(path: str, changed: int, frames: int) -> Clip:
    return read_clip(path, frames=frames)  # `changed` is the file's time: a new file under an old name is read again


@lru_cache(maxsize=4)
def _encode(path: str, changed: int, frames: int, encoder: object, salient: bool) -> VideoTokens:
    return encoder.encode(_read(path, changed, frames), **({"saliency": True} if salient else {}))


@lru_cache(maxsize=2)
def _encoder(name: str, model: str) -> Pixels | EfficientNetLite0 | VideoModel:
    if name != MODEL:
        return load_encoder(name)
    from vtc_lab.models.loading import load_model  # transformers takes seconds to import

    return load_model(model or None)
