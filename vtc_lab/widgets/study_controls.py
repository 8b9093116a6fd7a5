"""The controls of an ablation, one for each of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from vtc_lab.figures.marks import unit
from vtc_lab.figures.style import BASELINES, VENUES
from vtc_lab.reducers.registry import get_method, methods
from vtc_lab.tokens import VTCError
from vtc_lab.widgets.controls import OptionPanel, Toggles, choices_of, field, menu, parsed, put, show_if
from vtc_lab.widgets.settings import State
from vtc_lab.widgets.study import ALWAYS, VALUES, study_set, varied_options

_RATIOS = (1, 2, 4, 8, 16, 32)
_AUTOMATIC = "none"
_NO_CONTROL = ("spatial_ratio", "min_fidelity")  # options that would fix the budget again


class Values(widgets.HBox):
    """The values over which an option is varied: buttons if they are few, else a field for text."""

    value: traitlets.List[Any] = traitlets.List()

    def __init__(self, method: str, option: str, value: Sequence) -> None:
        super().__init__()
        self.rebuild(method, option, value)

    def rebuild(self, method: str, option: str, value: Sequence) -> None:
        """Show these values of another option, none for ""."""
        self._hint = get_method(method).options[option][0] if option else None
        few = choices_of(self._hint)
        text = ", ".join(_AUTOMATIC if each is None else str(each) for each in value)
        self.part = Toggles(few, value) if few else field("over", text, "values, with commas between")
        self.part.observe(self._gather, "value")
        put(self, [self.part])
        show_if(option, self.part)
        self._gather()

    def _gather(self, _: object = None) -> None:
        given = self.part.value
        if isinstance(given, str):
            texts = [text.strip() for text in given.split(",") if text.strip()]
            given = [None if text == _AUTOMATIC else parsed(text, self._hint) for text in texts]
        self.value = given


def study_controls(state: State) -> dict[str, Any]:
    """Return a control for each setting but the model and the results file."""
    every = list(methods().index)
    named = [(f"{name} (a baseline)" if name in BASELINES else name, name) for name in every if name not in ALWAYS]
    narrow = {"layout": {"width": "170px"}, "min": 1}
    return {
        "samples": field("samples", state["samples"], "the bundled test set"),
        "clips": widgets.BoundedIntText(state["clips"], max=10**6, description="clips", **narrow),
        "kinds": Toggles(_kinds(state["samples"]), state["kinds"]),
        "methods": Toggles(named, state["methods"]),
        "ablated": menu("ablate", [("nothing", ""), *((name, name) for name in every)], state["ablated"]),
        "option": menu("vary", _option_menu(state["ablated"]), state["option"]),
        "values": Values(state["ablated"], state["option"], state["values"]),
        "options": OptionPanel(state["ablated"], state["options"], [*_NO_CONTROL, state["option"]]),
        "ratios": Toggles([(f"{ratio}×", ratio) for ratio in _RATIOS], state["ratios"]),
        "seeds": widgets.BoundedIntText(state["seeds"], max=100, description="seeds", **narrow),
        "value": menu("show", [(unit(value)[0], value) for value in VALUES], state["value"]),
        "figure": field("figure", state["figure"]),
        "venue": menu("venue", list(VENUES), state["venue"]),
    }


def take_samples(controls: dict[str, Any], samples: str) -> None:
    """Offer the kinds of question in another file."""
    controls["kinds"].rebuild(_kinds(samples), [])


def take_method(controls: dict[str, Any], method: str) -> None:
    """Make the controls of another ablated method, varied in its first option that has a few choices."""
    option = next((name for name in varied_options(method) if choices_of(get_method(method).options[name][0])), "")
    controls["option"].options = _option_menu(method)
    controls["option"].value = option
    _vary(controls, option, {})


def take_option(controls: dict[str, Any], option: str) -> None:
    """Vary another option over all of its choices, or its default if they are not few."""
    _vary(controls, option, controls["options"].value)


def _vary(controls: dict[str, Any], option: str, options: State) -> None:
    method = controls["ablated"].value
    hint, default = get_method(method).options[option] if option else (None, None)
    controls["values"].rebuild(method, option, (choices_of(hint) or [default]) if option else [])
    others = {key: value for key, value in options.items() if key != option}
    controls["options"].rebuild(method, others, [*_NO_CONTROL, option])


def _kinds(samples: str) -> list[str]:
    """Return the kinds of question in a file; none where it cannot be read, which is said where samples are needed."""
    try:
        return sorted({sample["kind"] for sample in study_set(samples) if sample.get("kind")})
    except VTCError:
        return []


def _option_menu(method: str) -> list[tuple[str, str]]:
    return [("nothing", ""), *((name, name) for name in varied_options(method))]
