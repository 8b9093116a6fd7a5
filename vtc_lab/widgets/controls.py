"""The explorer's controls: menus, sliders with a number box, and the options of a method from its signature."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets

from vtc_lab.clips.reading import ROOT, find_clips
from vtc_lab.figures.style import VENUES
from vtc_lab.reducers.registry import get_method, methods
from vtc_lab.widgets.state import ENCODER_NAMES, bundled_samples

OWN_FILE = "a file of your own"
_BUDGET_OPTIONS = ("temporal_ratio", "spatial_ratio", "min_fidelity")  # these have sliders


class OptionPanel:
    """Controls for the options of one method, made from its registered signature."""

    def __init__(self, method: str, values: dict[str, object], changed: Callable[[dict], None]) -> None:
        self.box = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap"))
        self._changed = changed
        self.rebuild(method, values)

    @property
    def values(self) -> dict[str, object]:
        """The options that are not at their default, and those that have no control (an error will name them)."""
        chosen = {key: _parsed(control.value, self._hints[key]) for key, control in self._controls.items()}
        return {**self._rest, **{key: value for key, value in chosen.items() if value != self._defaults[key]}}

    def rebuild(self, method: str, values: dict[str, object]) -> None:
        """Make new controls for a method, or none for ""."""
        options = get_method(method).options if method else {}
        options = {key: option for key, option in options.items() if key not in _BUDGET_OPTIONS}
        self._hints = {key: hint for key, (hint, _) in options.items()}
        self._defaults = {key: default for key, (_, default) in options.items()}
        ranges = get_method(method).ranges if method else {}
        self._rest, self._controls = dict(values), {}
        for key, hint in self._hints.items():
            value = values.get(key, self._defaults[key])
            choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else None
            if choices is None or value in choices:
                self._rest.pop(key, None)
                self._controls[key] = _option(key, value, hint, choices, ranges.get(key))
                self._controls[key].observe(self._changed, "value")
        self.box.children = list(self._controls.values())


def make_controls(state: dict[str, object]) -> tuple[dict[str, widgets.Widget], dict[str, widgets.Widget]]:
    """A control for every setting but the options, and the row that shows each; `own_file` is a path off the menu."""
    listed = clip_menu(state["folder"])
    own = state["clip"] not in dict(listed).values()
    names = list(methods().index)
    kinds = [("total ratio", "ratio"), ("time x space", "stages"), ("fidelity", "fidelity")]
    controls = {
        "folder": _field("folder", state["folder"], "data/clips", 290),
        "clip": _menu("clip", listed, OWN_FILE if own else state["clip"]),
        "own_file": widgets.Text(
            value=state["clip"] if own else "", placeholder="path of a video", continuous_update=False
        ),
        "encoder": _menu("encoder", list(ENCODER_NAMES), state["encoder"]),
        "model": _field("model", state["model"], "a folder or hub id; empty is the bundled toy"),
        "method": _menu("method", names, state["method"]),
        "compare": _menu("against", [("nothing", ""), *((name, name) for name in names)], state["compare"]),
        "budget": _menu("budget by", kinds, state["budget"]),
        "question": _field("question", state["question"], "type one, or choose a sample"),
        "figure": widgets.Text(value=state["figure"], description="figure", continuous_update=False),
        "venue": _menu("venue", list(VENUES), state["venue"]),
    }
    rows = dict(controls)
    sliders = {
        "frames": ("frames", widgets.IntSlider(min=1, max=64, continuous_update=False)),
        "ratio": ("ratio", widgets.FloatLogSlider(base=2, min=0, max=7, step=0.05)),
        "temporal_ratio": ("temporal ratio", widgets.FloatLogSlider(base=2, min=0, max=5, step=0.05)),
        "spatial_ratio": ("spatial ratio", widgets.FloatLogSlider(base=2, min=0, max=6, step=0.05)),
        "min_fidelity": ("coverage at least", widgets.FloatSlider(min=0, max=1, step=0.01)),
    }
    for key, (label, slider) in sliders.items():
        controls[key], rows[key] = _slider_with_box(label, state[key], slider)
    return controls, rows


def clip_menu(folder: str) -> list[tuple[str, str]]:
    """What a menu of the clips in a folder has, "" for the bundled ones: their names and paths, and a file off it.

    Raises
    ------
    VTCError
        If there is no such folder, or no video in it.
    """
    if folder:
        listed = [(path.name, str(path)) for path in find_clips(folder)]
    else:
        listed = [(name, name) for name in (path.relative_to(ROOT).as_posix() for path in find_clips())]
    return [*listed, (OWN_FILE, OWN_FILE)]


def sample_menu(each: int = 4) -> widgets.Dropdown:
    """A few samples of every kind from the bundled test set; its value is a sample, or None."""
    seen: dict[str, int] = {}
    options = []
    for sample in bundled_samples():
        kind = sample["kind"]
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= each:
            options.append((f"{kind}: {sample['question']} ({Path(sample['clip']).stem})", sample))
    options.sort(key=lambda option: option[0])
    return widgets.Dropdown(
        options=[("none", None), *options], value=None, description="sample", layout=widgets.Layout(width="400px")
    )


def _menu(label: str, options: list, value: object) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description=label, layout=widgets.Layout(width="290px"))


def _field(label: str, value: str, hint: str, width: int = 400) -> widgets.Text:
    look = {"layout": widgets.Layout(width=f"{width}px"), "continuous_update": False}
    return widgets.Text(value=value, description=label, placeholder=hint, **look)


def _slider_with_box(label: str, value: float, slider: widgets.Widget) -> tuple[widgets.Widget, widgets.Widget]:
    """The number box that holds the value, and a row of slider and box.

    The box is the truth and is not bounded: a value out of range reaches the method, which says what would be right.
    """
    whole = isinstance(slider, widgets.IntSlider)
    box = (widgets.IntText if whole else widgets.FloatText)(value=value, layout=widgets.Layout(width="80px"))
    slider.description, slider.readout, slider.layout.width = label, False, "320px"
    slider.style.description_width = "110px"
    low, high = (
        (slider.base**slider.min, slider.base**slider.max) if hasattr(slider, "base") else (slider.min, slider.max)
    )

    def to_slider(_: object = None) -> None:
        if low <= box.value <= high and shown() != box.value:
            slider.value = box.value

    def to_box(_: object) -> None:
        if shown() != round(box.value, 2):  # the slider is coarser: what was typed stays as it is
            box.value = shown()

    def shown() -> float:
        return slider.value if whole else round(slider.value, 2)

    to_slider()
    slider.observe(to_box, "value")
    box.observe(to_slider, "value")
    return box, widgets.HBox([slider, box])


def _option(
    name: str, value: object, hint: object, choices: tuple | None, limits: tuple[float, float] | None
) -> widgets.Widget:
    look = {"description": name, "layout": widgets.Layout(width="230px"), "style": {"description_width": "95px"}}
    if choices:
        return widgets.Dropdown(options=choices, value=value, **look)
    if isinstance(value, bool):
        return widgets.Checkbox(value=value, indent=False, **look)
    if isinstance(value, int | float) and hint in (int, float, object):  # what may be None needs a field for text
        whole = isinstance(value, int) and hint is not float
        bounded = limits is not None and math.isfinite(limits[1] - limits[0]) and limits[0] <= value <= limits[1]
        if not bounded:  # the method says what would be right
            return (widgets.IntText if whole else widgets.FloatText)(value=value, **look)
        look |= {"min": limits[0], "max": limits[1]}
        if whole:
            return widgets.BoundedIntText(value=value, **look)
        return widgets.BoundedFloatText(value=value, step=(limits[1] - limits[0]) / 20, **look)
    return widgets.Text(value="" if value is None else str(value), continuous_update=False, **look)


def _parsed(value: object, hint: object) -> object:
    """What was typed into a text field, as the number or None that the option's type hint admits."""
    if not isinstance(value, str) or hint is str or typing.get_origin(hint) is typing.Literal:
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
