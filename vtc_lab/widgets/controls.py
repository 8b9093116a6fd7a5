"""Controls that panels are made of; each has a `value`."""

import json
import math
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from vtc_lab.reducers.registry import get_method

_LATER = {"continuous_update": False}
_WRAP = {"flex_flow": "row wrap", "align_items": "center"}


def menu(label: str, options: Sequence, value: object) -> widgets.Dropdown:
    """Return a menu of values, or of pairs of a text and a value."""
    look = {"layout": widgets.Layout(width="290px"), "tooltip": label}
    return widgets.Dropdown(options=options, value=value, description=label, **look)


def field(label: str, value: str, hint: str = "") -> widgets.Text:
    """Return a field for text, which counts once Enter is pressed."""
    look = {"layout": widgets.Layout(width="290px"), "tooltip": hint or label, **_LATER}
    return widgets.Text(value=value, description=label, placeholder=hint, **look)


def button(label: str, icon: str, style: str, press: Callable[[], None]) -> widgets.Button:
    """Return a button that calls a function."""
    made = widgets.Button(description=label, icon=icon, button_style=style, tooltip=label)
    made.on_click(lambda _: press())
    return made


def row(*controls: widgets.Widget) -> widgets.HBox:
    """Return controls side by side, on as many lines as they need."""
    return widgets.HBox(controls, layout=widgets.Layout(**_WRAP))


def labelled(label: str, box: widgets.Widget) -> widgets.HBox:
    """Return a box with a label where other controls have theirs."""
    box.layout.flex = "1 1 0"
    text = widgets.Label(label, layout=widgets.Layout(width="80px", margin="2px 4px", justify_content="flex-end"))
    return widgets.HBox([text, box])


def give_tip(control: widgets.Widget, tip: str) -> None:
    """Give a tooltip to a control and to the parts that have none of their own."""
    if not isinstance(control, widgets.Box):  # the page of ipywidgets 8.1 cannot show a box that has one
        control.tooltip = tip
    for part in getattr(control, "children", ()):
        if not part.tooltip:
            give_tip(part, tip)


def show_if(shown: object, *controls: widgets.Widget) -> None:
    """Show controls, or hide them."""
    for control in controls:
        control.layout.display = "" if shown else "none"


def put(box: widgets.Box, controls: Sequence[widgets.Widget]) -> None:
    """Show other controls in a box and close those that it had, which the kernel and the page would keep for ever."""
    old, box.children = box.children, controls
    answer_beside_cells(box)
    close_all(old)


def close_all(controls: Sequence[widgets.Widget]) -> None:
    """Close controls with all that belongs to them."""
    for control in controls:
        close_all(getattr(control, "children", ()))
        for part in (control.layout, getattr(control, "style", None), control):
            if part is not None:
                part.close()


def answer_beside_cells(widget: widgets.Widget) -> None:
    """Have a widget, and all that it holds, answer while a cell runs.

    JupyterLab sends what is done to a widget to a thread of the kernel beside that of the cells. ipykernel 7.4 passes
    it on to the thread that last changed the widget, and for a fresh one that is the thread of the cells: a button that
    is pressed while a cell runs would be heard after it. Without the attribute below the first thread does it.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        answer_beside_cells(child)


class Slider(widgets.HBox):
    """A slider and a number box, which holds the value and is not bounded: the method says what would be right."""

    value = traitlets.Any()

    def __init__(self, label: str, value: float, slider: widgets.Widget) -> None:
        whole = isinstance(slider, widgets.IntSlider)  # else it is logarithmic
        slider.description, slider.readout, slider.layout.flex, slider.layout.min_width = label, False, "1 1 0", "0"
        slider.style.description_width = "60px"
        low, high = (limit if whole else slider.base**limit for limit in (slider.min, slider.max))
        box = (widgets.IntText if whole else widgets.FloatText)(value=value, layout=widgets.Layout(width="62px"))
        super().__init__([slider, box], value=box.value)

        def shown() -> float:
            return slider.value if whole else round(slider.value, 2)

        def follow(_: object = None) -> None:
            if str(box.value) != str(self.value):  # NaN is never equal to itself
                box.value = self.value
            if low <= self.value <= high and shown() != self.value:
                slider.value = self.value

        def at_its_step() -> bool:  # the page rounds the slider to steps: what was typed stays as it is
            values = (slider.value, self.value)
            here, there = (each if whole else math.log(each, slider.base) for each in values)
            return abs(here - there) < 0.51 * slider.step

        def slid(_: object) -> None:
            if not (low <= self.value <= high and at_its_step()):
                self.value = shown()

        follow()
        self.observe(follow, "value")
        slider.observe(slid, "value")
        box.observe(lambda change: setattr(self, "value", change["new"]), "value")


class Made(widgets.HBox):
    """Controls that are made from what is given, and made anew by `rebuild`."""

    def __init__(self, *given: Any) -> None:
        super().__init__(layout=widgets.Layout(**_WRAP))
        self.rebuild(*given)


class Toggles(Made):
    """Buttons of which any number may be pressed; the value lists those that are."""

    value: traitlets.List[Any] = traitlets.List()

    def rebuild(self, choices: Sequence, value: Sequence) -> None:
        """Make buttons for values, or (text, value) pairs; a selected value that is not among them gets one too."""
        pairs = [choice if isinstance(choice, tuple) else (str(choice), choice) for choice in choices]
        known = [each for _, each in pairs]
        pairs += [(str(each), each) for each in value if each not in known]
        self.buttons = {
            each: widgets.ToggleButton(value=each in value, description=text, layout=widgets.Layout(width="auto"))
            for text, each in pairs
        }
        for made in self.buttons.values():
            made.observe(self._pressed, "value")
        put(self, list(self.buttons.values()))
        self._pressed()

    def _pressed(self, _: object = None) -> None:
        for made in self.buttons.values():
            made.button_style = "info" if made.value else ""
        self.value = [each for each, made in self.buttons.items() if made.value]


class OptionPanel(Made):
    """A control for each option of a method, made from its signature; the value has those not at their default."""

    value = traitlets.Dict()

    def rebuild(self, method: str, value: Mapping[str, Any], without: Collection[str] = ()) -> None:
        """Make new controls for the options of a method, none for "", but for those `without` one."""
        chosen = get_method(method) if method else None
        self._options = chosen.options if chosen else {}
        self._rest, self._controls = dict(value), {}
        for key, (hint, default) in self._options.items():
            shown, few = value.get(key, default), choices_of(hint)
            if key not in without and (not few or shown in few):
                self._rest.pop(key, None)
                self._controls[key] = _option(key, shown, hint, chosen.ranges.get(key) if chosen else None)
                self._controls[key].observe(self._gather, "value")
        put(self, list(self._controls.values()))
        self._gather()

    def _gather(self, _: object = None) -> None:
        """Collect the values that are not defaults, including those of options without a control."""
        chosen = {key: parsed(control.value, self._options[key][0]) for key, control in self._controls.items()}
        changed = {key: value for key, value in chosen.items() if value != self._options[key][1]}
        self.value = {**self._rest, **changed}


class OptionPanels(widgets.VBox):
    """An `OptionPanel` for each of several methods; the value has a dict for each name whose options were changed."""

    value = traitlets.Dict()

    def __init__(self, methods: Sequence[str], value: Mapping[str, Any]) -> None:
        super().__init__()
        self.rebuild(methods, value)

    def rebuild(self, methods: Sequence[str], value: Mapping[str, Any]) -> None:
        """Make a panel for each method, with these options."""
        self.panels = {name: OptionPanel(name, value.get(name, {})) for name in methods}
        for panel in self.panels.values():
            panel.observe(self._gather, "value")
        put(self, [part for name, panel in self.panels.items() for part in (widgets.Label(name), panel)])
        self._gather()

    def _gather(self, _: object = None) -> None:
        self.value = {name: panel.value for name, panel in self.panels.items() if panel.value}


class Values(Made):
    """The values over which an option is varied: buttons if they are few, else a field for text."""

    value: traitlets.List[Any] = traitlets.List()

    def rebuild(self, method: str, option: str, value: Sequence) -> None:
        """Show these values of another option, none for ""."""
        self._hint = get_method(method).options[option][0] if option else None
        few = choices_of(self._hint)
        text = ", ".join("none" if each is None else str(each) for each in value)
        self.part = Toggles(few, value) if few else field("over", text, "values, with commas between")
        self.part.observe(self._gather, "value")
        put(self, [self.part])
        show_if(option, self.part)
        self._gather()

    def _gather(self, _: object = None) -> None:
        given = self.part.value
        if isinstance(given, str):
            texts = [text.strip() for text in given.split(",") if text.strip()]
            given = [None if text == "none" else parsed(text, self._hint) for text in texts]
        self.value = given


def choices_of(hint: object) -> list:
    """Return the values that an option can have, if they are few."""
    literal = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return [False, True] if hint is bool else list(literal)


def parsed(value: object, hint: object) -> object:
    """Return what was typed into a field as the number or None that an option's type hint admits.

    >>> parsed("0.5", float | None), parsed(" ", float | None), parsed("a", float), parsed("1", str)
    (0.5, None, 'a', '1')
    """
    if not isinstance(value, str) or hint is str or choices_of(hint):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except json.JSONDecodeError:
        return value


def _option(name: str, value: object, hint: object, limits: tuple[float, float] | None) -> widgets.Widget:
    label = max(95, 8 * len(name))  # pixels, so that no name is cut
    look: dict[str, Any] = {"description": name, "tooltip": name, "style": {"description_width": f"{label}px"}}
    look["layout"] = widgets.Layout(width=f"{label + 135}px")
    if isinstance(value, bool):
        return widgets.Checkbox(value=value, indent=False, **look)
    if few := choices_of(hint):
        return widgets.Dropdown(options=few, value=value, **look)
    if not isinstance(value, int | float) or hint not in (int, float, object):  # what may be None needs a field
        return widgets.Text(value="" if value is None else str(value), **_LATER, **look)
    whole = isinstance(value, int) and hint is not float
    if limits is None or not math.isfinite(limits[1] - limits[0]) or not limits[0] <= value <= limits[1]:
        return (widgets.IntText if whole else widgets.FloatText)(value=value, **look)  # the method says what is right
    look |= {"min": limits[0], "max": limits[1], "step": 1 if whole else (limits[1] - limits[0]) / 20}
    return (widgets.BoundedIntText if whole else widgets.BoundedFloatText)(value=value, **look)
