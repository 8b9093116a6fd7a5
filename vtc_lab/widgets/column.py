"""The explorer's column of controls: one for each setting, its tooltip, and where it stands."""

from pathlib import Path
from typing import Any

import ipywidgets as widgets

from vtc_lab.clips.reading import find_clips
from vtc_lab.figures.style import VENUES
from vtc_lab.qa.samples import Sample
from vtc_lab.reducers.registry import INSIDE
from vtc_lab.widgets.controls import OptionPanel, OptionPanels, Slider, field, menu
from vtc_lab.widgets.state import (
    ENCODER_NAMES,
    MOST,
    State,
    curve_measures,
    method_names,
    sample_set,
    shortened,
)
from vtc_lab.widgets.views import MethodPicker

_SAMPLES = 4  # of each kind in the menu
_TIPS = {
    "clip": "the clip on show",
    "frames": "frames read from the clip, evenly spaced",
    "encoder": "whose tokens are reduced; only the model answers questions",
    "model": "a folder or hub id for load_model; empty is the bundled toy",
    "ratio": "all tokens over those kept",
    "question": "type one, or choose a sample",
    "inside": "a method that drops more tokens inside the language model, at its default settings",
    "view": "tokens tinted by group, merged tokens averaged, the difference of two methods, or a heat map",
    "measure": "what the curve shows",
    "figure": "name of the exported files",
    "venue": "whose page the figure fits",
    "width": "one column, or all the text's width",
}


def controls_of(state: State) -> dict[str, Any]:
    """Return a control for each setting but the folder."""
    clips = clip_menu(state["folder"])
    if state["clip"] not in dict(clips).values():
        clips.append((Path(state["clip"]).name, state["clip"]))
    shows = [("tokens", "tokens"), ("merged, averaged", "averaged"), ("difference from the first", "difference")]
    shows += [("heat: significance", "significance"), ("heat: saliency", "saliency"), ("heat: what is lost", "lost")]
    names = [state["method"], *state["compare"]]
    controls: dict[str, Any] = {
        "clip": menu("clip", clips, state["clip"]),
        "frames": Slider("frames", state["frames"], widgets.IntSlider(min=1, max=64, continuous_update=False)),
        "ratio": Slider("ratio", state["ratio"], widgets.FloatLogSlider(base=2, min=0, max=7, step=0.05)),
        "encoder": menu("encoder", ENCODER_NAMES, state["encoder"]),
        "model": field("model", state["model"], "a folder or hub id"),
        "methods": MethodPicker(value=names, choices=[(name, "") for name in method_names()], most=MOST),
        "options": OptionPanel(state["method"], state["options"]),
        "compare_options": OptionPanels(state["compare"], state["compare_options"]),
        "question": field("question", state["question"], "type one, or choose a sample"),
        "inside": menu("inside", [("nothing more", ""), *((name, name) for name in INSIDE)], state["inside"]),
        "view": menu("show", shows, state["view"]),
        "measure": menu("curve", [(name.replace("_", " "), name) for name in curve_measures()], state["measure"]),
        "figure": field("figure", state["figure"]),
        "venue": menu("venue", list(VENUES), state["venue"]),
        "width": menu("width", ["column", "text"], state["width"]),
    }
    for key, tip in _TIPS.items():
        for part in getattr(controls[key], "children", (controls[key],)):
            part.tooltip = tip
    return controls


def clip_menu(folder: str) -> list[tuple[str, str]]:
    """Return the names and paths of the clips in a folder, "" for the bundled ones."""
    if folder:
        return [(path.name, str(path)) for path in find_clips(folder)]
    return [(Path(name).name, name) for name in map(shortened, find_clips())]


def sample_menu() -> list[tuple[str, Sample | None]]:
    """Return a few samples of every kind from the bundled test set, with their texts."""
    kinds: dict[str, list[tuple[str, Sample | None]]] = {}
    for sample in sample_set():
        text = f"{sample['kind']}: {sample['question']} ({Path(str(sample['clip'])).stem})"
        kinds.setdefault(sample["kind"], []).append((text, sample))
    few = [entry for entries in kinds.values() for entry in entries[:_SAMPLES]]
    return [("none", None), *sorted(few, key=lambda entry: entry[0])]


def narrow(
    above: list[widgets.Widget], folds: dict[str, list[widgets.Widget]]
) -> tuple[widgets.VBox, list[widgets.Box]]:
    """Return a narrow column of controls, the rest of them folded, and the boxes that hold them."""
    for control in [each for group in (above, *folds.values()) for each in group]:
        if isinstance(control, widgets.Dropdown | widgets.Text):
            control.layout.width, control.style.description_width = "auto", "60px"
    boxes = [widgets.VBox(controls) for controls in folds.values()]
    opened = 0 if any(getattr(control, "value", "") for control in next(iter(folds.values()))) else None
    fold = widgets.Accordion(boxes, titles=tuple(folds), selected_index=opened)
    column = widgets.VBox([*above, fold], layout={"flex": "1 1 200px", "max_width": "290px", "min_width": "0"})
    return column, [column, *boxes]
