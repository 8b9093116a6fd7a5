"""The controls of an ablation: buttons of which several may be pressed, and the method whose options are varied."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from vtc_lab.figures.style import BASELINES, VENUES
from vtc_lab.reducers.registry import get_method, methods
from vtc_lab.tokens import VTCError
from vtc_lab.widgets.controls import OptionPanel, _parsed
from vtc_lab.widgets.study import ALWAYS, MEASURES, NEVER_VARIED, RATIOS, study_set

_NARROW = widgets.Layout(width="170px")
_AUTO = widgets.Layout(width="auto")
_AUTOMATIC = "none"


class Toggles:
    """A row of buttons of which any number may be pressed."""

    def __init__(
        self,
        label: str,
        choices: Sequence,
        chosen: Sequence,
        changed: Callable[[], None],
        always: Sequence[str] = (),
    ) -> None:
        self._inner = row()
        self.box = _labelled(label, self._inner)
        self._changed = changed
        self._always = [
            widgets.ToggleButton(value=True, description=text, disabled=True, button_style="info", layout=_AUTO)
            for text in always
        ]
        self.rebuild(choices, chosen)

    @property
    def values(self) -> list:
        """Those that are pressed."""
        return [value for value, button in self._buttons if button.value]

    def rebuild(self, choices: Sequence, chosen: Sequence) -> None:
        """Make new buttons; what is chosen but no choice gets one too. A choice may be a pair of text and value."""
        pairs = [choice if isinstance(choice, tuple) else (str(choice), choice) for choice in choices]
        known = [value for _, value in pairs]
        pairs += [(str(value), value) for value in chosen if value not in known]
        self._buttons = [(value, self._button(text, value in chosen)) for text, value in pairs]
        self._inner.children = [*self._always, *(button for _, button in self._buttons)]

    def _button(self, text: str, pressed: bool) -> widgets.ToggleButton:
        button = widgets.ToggleButton(value=pressed, description=text, layout=_AUTO)

        def look(_: object = None) -> None:
            button.button_style = "info" if button.value else ""

        def told(_: object) -> None:
            look()
            self._changed()

        look()
        button.observe(told, "value")
        return button


def study_controls(
    state: dict[str, object], changed: Callable[[], None]
) -> tuple[dict[str, widgets.Widget], dict[str, Toggles]]:
    """The controls that hold one value, and those that hold several, by the state's keys."""
    later = {"continuous_update": False}
    plain = {
        "samples": widgets.Text(state["samples"], description="samples", placeholder="the bundled test set", **later),
        "clips": widgets.BoundedIntText(state["clips"], min=1, max=10**6, description="clips", layout=_NARROW),
        "seeds": widgets.BoundedIntText(state["seeds"], min=1, max=100, description="seeds", layout=_NARROW),
        "value": _menu("show", list(MEASURES.items()), state["value"]),
        "figure": widgets.Text(state["figure"], description="figure", **later),
        "venue": _menu("venue", list(VENUES), state["venue"]),
    }
    baselines = [f"{name} (a baseline, always there)" for name in ALWAYS]
    named = [
        (f"{name} (a baseline)" if name in BASELINES else name, name) for name in methods().index if name not in ALWAYS
    ]
    several = {
        "kinds": Toggles("kinds", _kinds(state["samples"]), state["kinds"], changed),
        "methods": Toggles("methods", named, state["methods"], changed, baselines),
        "ratios": Toggles("ratios", [(f"{ratio}×", ratio) for ratio in RATIOS], state["ratios"], changed),
    }
    for key, control in plain.items():
        if key != "samples":
            control.observe(lambda _: changed(), "value")

    def another_set(change: dict) -> None:
        several["kinds"].rebuild(_kinds(change["new"]), [])
        changed()

    plain["samples"].observe(another_set, "value")
    return plain, several


class AblatedMethod:
    """Which method is varied, in which option, over which values, and its other options."""

    def __init__(self, state: dict[str, object], changed: Callable[[], None]) -> None:
        self._changed = changed
        names = [("nothing", ""), *((name, name) for name in methods().index)]
        self._method = _menu("ablate", names, state["ablated"])
        self._option = _menu("vary", [""], "")
        self._toggles = Toggles("over", [], [], changed)
        self._typed = widgets.Text(
            description="over", placeholder="values, with commas between", continuous_update=False
        )
        split = {"description": "temporal_ratio", "placeholder": "automatic split", "continuous_update": False}
        self._split = widgets.Text(**split, style={"description_width": "105px"}, layout=widgets.Layout(width="240px"))
        self._rest = OptionPanel("", {}, lambda _: changed())
        self._rest.box.layout.flex = "1 1 0"
        self._fixed = _labelled("with", row(self._split, self._rest.box))
        self.box = widgets.VBox([row(self._method, self._option, self._toggles.box, self._typed), self._fixed])
        self._held = False
        self._show(state["ablated"], state["options"], state["option"], state["values"])
        self._method.observe(self._another_method, "value")
        self._option.observe(self._another_option, "value")
        for control in (self._typed, self._split):
            control.observe(lambda _: self._held or changed(), "value")

    @property
    def state(self) -> dict[str, object]:
        """Its part of the state of an ablation."""
        method, option = self._method.value, self._option.value
        if not method:
            return {"ablated": "", "options": {}, "option": "", "values": []}
        options = dict(self._rest.values)
        if self._split.value.strip() and "temporal_ratio" in get_method(method).options:
            options["temporal_ratio"] = _parsed(self._split.value, float)
        values = []
        if option and _choices(method, option):
            values = self._toggles.values
        elif option:
            hint = get_method(method).options[option][0]
            texts = [text.strip() for text in self._typed.value.split(",") if text.strip()]
            values = [None if text == _AUTOMATIC else _parsed(text, hint) for text in texts]
        options.pop(option, None)
        return {"ablated": method, "options": options, "option": option, "values": values}

    def _another_method(self, change: dict) -> None:
        self._show(change["new"], {}, *_first_option(change["new"]))
        self._changed()

    def _another_option(self, change: dict) -> None:
        if not self._held:
            options = self.state["options"]
            self._show(self._method.value, options, change["new"], _usual(self._method.value, change["new"]))
            self._changed()

    def _show(self, method: str, options: dict[str, object], option: str, values: list) -> None:
        """Set all controls, and show those that count."""
        self._held = True
        known = get_method(method).options if method else {}
        self._option.options = [("nothing", ""), *((name, name) for name in known if name not in NEVER_VARIED)]
        self._option.value = option
        choices = _choices(method, option) if option else []
        self._toggles.rebuild(choices, values if choices else [])
        self._typed.value = "" if choices else ", ".join(_AUTOMATIC if v is None else str(v) for v in values)
        self._split.value = str(options.get("temporal_ratio") or "")
        self._rest.rebuild(method, {key: value for key, value in options.items() if key != "temporal_ratio"})
        for control in self._rest.box.children:
            control.layout.display = "none" if control.description == option else ""
        shown = {self._option: method, self._toggles.box: choices, self._typed: option and not choices}
        shown |= {self._split: "temporal_ratio" in known and option != "temporal_ratio", self._fixed: known}
        for control, there in shown.items():
            control.layout.display = "" if there else "none"
        self._held = False


def _kinds(samples: str) -> list[str]:
    """The kinds of question in a file; none where it cannot be read, which is said where the samples are needed."""
    try:
        return sorted({sample["kind"] for sample in study_set({"samples": samples}) if sample.get("kind")})
    except VTCError:
        return []


def _first_option(method: str) -> tuple[str, list]:
    """The first option of a method that has a few choices, with all of them; or none."""
    names = get_method(method).options if method else {}
    return next(((name, _choices(method, name)) for name in names if _choices(method, name)), ("", []))


def _usual(method: str, option: str) -> list:
    """The values that an option is varied over before anything is chosen: all of a few, or its default."""
    return (_choices(method, option) or [get_method(method).options[option][1]]) if option else []


def _choices(method: str, option: str) -> list:
    """The values that an option can have, if they are few."""
    hint = get_method(method).options[option][0]
    return [False, True] if hint is bool else list(typing.get_args(hint) if _is_literal(hint) else [])


def _is_literal(hint: object) -> bool:
    return typing.get_origin(hint) is typing.Literal


def row(*controls: widgets.Widget) -> widgets.HBox:
    """Controls side by side, on as many lines as they need."""
    return widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def _labelled(label: str, box: widgets.Widget) -> widgets.HBox:
    """A box with a label where other controls have theirs."""
    box.layout.flex = "1 1 0"
    text = widgets.Label(label, layout=widgets.Layout(width="80px", margin="2px 4px", justify_content="flex-end"))
    return widgets.HBox([text, box])


def _menu(label: str, options: list, value: object) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description=label, layout=widgets.Layout(width="290px"))
