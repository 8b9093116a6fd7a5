"""Handle the state of a panel, a dict of plain JSON values, and the model that it names."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtc_lab.qa.samples import BUNDLED, Sample, read_samples
from vtc_lab.tokens import VTCError, suggest

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

State = dict[str, Any]
_LOADING = threading.Lock()


def complete(
    panel: str, state: Mapping[str, Any], defaults: Mapping[str, Any], choices: Mapping[str, Collection[str]]
) -> State:
    """Return a state with every default filled in, as plain JSON values; an error names the setting that is wrong.

    `choices` holds the names that a setting can have, or each element of a setting that is a list.
    """
    for key in state:
        if key not in defaults:
            raise VTCError(f"the {panel} has no setting {key!r}; {suggest(key, defaults)}")
    try:
        whole = json.loads(json.dumps({**defaults, **state}))
    except TypeError as error:
        raise VTCError(f"the state of the {panel} must be plain JSON values: {error}") from error
    for key, default in defaults.items():
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(whole[key], kinds) or isinstance(whole[key], bool):
            raise VTCError(f"{key} is {whole[key]!r}; it must be of the kind of {default!r}")
    for key, known in choices.items():
        for name in whole[key] if isinstance(whole[key], list) else [whole[key]]:
            if name not in list(known):
                raise VTCError(f"{key} is {whole[key]!r}; {suggest(name, known)}")
    return whole


def call_line(call: str, state: State, defaults: Mapping[str, Any]) -> str:
    """Return the line of code that opens a panel in a state: `vtc.explore(ratio=4)`."""
    changed = [f"{key}={value!r}" for key, value in state.items() if value != defaults[key]]
    return f"vtc.{call}({', '.join(changed)})"


def name_of(model: VideoModel | str | None) -> str:
    """Return what a state calls a model: its folder or hub id, "" for the bundled one."""
    if model is None or isinstance(model, str):
        return model or ""
    if not hasattr(model, "ask_each"):
        raise VTCError(f"model is a {type(model).__name__}; give what load_model returns, a folder or a hub id")
    from vtc_lab.models import loading

    name = model.spec["name"] if model.spec else model.name
    return "" if Path(name) == loading.BUNDLED else name


def loaded_model(name: str, panel: str) -> VideoModel:
    """Return the model of a state, loaded once for each kind of panel: two must not use one at the same time."""
    with _LOADING:
        return _load(name, panel)


@lru_cache(maxsize=2)
def _load(name: str, panel: str) -> VideoModel:
    from vtc_lab.models.loading import load_model

    return load_model(name or None)


@lru_cache(maxsize=1)
def bundled_samples() -> list[Sample]:
    """Return the bundled test set, empty where the package was installed without its repository."""
    return read_samples() if BUNDLED.exists() else []
