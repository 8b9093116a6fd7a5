"""The ablation panel: choose samples, methods, options and ratios; run; watch the curves fill in; export them.

A run and the drawing have a worker each, so that what was run before can be looked at while a run goes on: what is on
show comes from the results file.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd

from vtc_lab.figures.curves import plot_curves
from vtc_lab.figures.marks import unit
from vtc_lab.figures.style import BASELINES, VENUES
from vtc_lab.figures.tables import save_table
from vtc_lab.qa.samples import Sample
from vtc_lab.reducers.registry import get_method, methods
from vtc_lab.sweeps.run import Progress, look_up, summary, sweep
from vtc_lab.sweeps.stats import bootstrap_interval
from vtc_lab.tokens import VTCError
from vtc_lab.widgets import study
from vtc_lab.widgets.controls import (
    OptionPanel,
    Toggles,
    Values,
    button,
    choices_of,
    field,
    give_tip,
    labelled,
    menu,
    row,
    show_if,
)
from vtc_lab.widgets.panel import Panel, Worker, name_of, words
from vtc_lab.widgets.state import State, call_line, sample_set

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

_RATIOS = (1, 2, 4, 8, 16, 32)
_TIPS = {
    "samples": "A file of questions, as vtc.read_samples takes it",
    "clips": "How many clips: the first ones that have a question of these kinds",
    "kinds": "Only questions of these kinds; none pressed is all",
    "methods": "Other methods to compare, with their defaults",
    "ablated": "The method of which one option is varied",
    "option": "The option to vary",
    "values": "The values to compare",
    "options": "The other options, the same in all variants",
    "ratios": "Tokens before over tokens after",
    "seeds": "How many seeds for methods that draw at random",
    "value": "What the curves show; nothing is computed anew",
    "figure": "Name of the exported files",
    "venue": "Whose widths and letters the figure has",
}
_PAUSE = 1.0  # seconds at least from one picture of a run to the next
_ONE_AT_A_TIME = threading.Lock()  # runs of all panels: a model is no place for two threads
_PANELS: weakref.WeakSet[Ablation] = weakref.WeakSet()


def ablate(model: VideoModel | str | None = None, **state: object) -> Ablation:
    """Open the ablation panel.

    Parameters
    ----------
    model : from `load_model`, or a folder or hub id, or None for the bundled one, which is loaded for the panel alone.
        While a run goes on, ask nothing else of a model that you gave.
    state : any setting, as `Ablation.state` returns them: samples (a file, see `read_samples`, or "" for the bundled
        test set), clips (how many), kinds (of questions; [] is all), methods (names; uniform and random are always
        there), ablated (a method or ""), options (its own, the same in all variants), option (the one to vary) and
        values (over which), ratios, seeds (how many), value (what is drawn: "right", "likelihood", "kl", "tv" or
        "flipped"), results (SQLite file), figure (name of the exported files), venue.

    Returns
    -------
    Ablation, a widget that JupyterLab shows when it ends a cell. It stops the run of any that was opened before it, so
    a cell that is run again leaves none behind.

    Examples
    --------
    >>> panel = ablate(clips=2, option="significance", values=["distinct", "neighbours"])
    >>> panel.state["methods"], panel.state["values"]
    ([], ['distinct', 'neighbours'])
    """
    given = None if isinstance(model, str) else model
    return Ablation(study.complete_study({**state, "model": name_of(model)}), given)


@dataclasses.dataclass
class _Run:
    """A run that goes on or has ended: its settings, how to stop it, and how far it is."""

    settings: State
    halt: threading.Event = dataclasses.field(default_factory=threading.Event)
    ended: bool = False
    progress: Progress | None = None


class Ablation(Panel):
    """The widget; `state` is what it shows, as a dict that `ablate(**state)` takes."""

    def __init__(self, state: State, model: VideoModel | None = None) -> None:
        super().__init__({"model": state["model"], "results": state["results"]}, model)
        for other in list(_PANELS):
            other.stop()
        _PANELS.add(self)
        self._runner = Worker()
        self._workers.append(self._runner)
        self._latest: _Run | None = None  # the run that goes on, or was the last
        self._drawn = -math.inf
        self._controls = controls = _controls(state)
        self._image = widgets.Image(format="png", layout={"width": "100%", "max_width": "900px"})
        self._bar = widgets.FloatProgress(min=0, max=1, layout={"width": "220px"})
        self._line, self._counts, self._result = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._line.add_class("vtc-progress")
        self._start = button("Run", "play", "success", self.run)
        self._stop = button("Stop", "stop", "", self.stop)
        self._start.tooltip = "Compute what is not there yet for the settings on show"
        self._stop.tooltip = "Stop after the step that the run is at, and keep what is done"
        self._export.tooltip = "Write the figure, its numbers and a table of them"
        self._stop.disabled = True
        show_if(False, self._image)
        rebuilt = {"samples": self._take_samples, "ablated": self._take_method, "option": self._take_option}
        for key, take in rebuilt.items():
            self._on(controls[key], partial(self._rebuild, take))
        self._observe()
        self.children = self._rows()
        self._request()

    @property
    def table(self) -> pd.DataFrame:
        """The results that are there for the settings on show, as `sweep` returns them."""
        return self._found(self.state).table()

    def run(self) -> None:
        """Begin to compute what is not there yet for the settings on show; a run that goes on is stopped."""
        self.stop()
        self._latest = run = _Run(study.study_settings(self._now))
        self._say("")
        self._stop.disabled = False
        self._line.value = words("starting ...")
        self._runner.queue(partial(self._attempt, partial(self._work, run), self._now))

    def stop(self) -> None:
        """Stop the run after the step that it is at; what is done is kept."""
        run = self._latest
        if run and not run.ended and not run.halt.is_set():
            run.halt.set()
            begun = run.progress is not None  # else the model is still being loaded
            self._stop.disabled = not begun
            rest = "stopping after this step; what is done is kept" if begun else "stopped; Run does the rest"
            self._line.value = words(rest)

    def _end(self) -> None:
        self.stop()
        super()._end()

    def _face(self) -> bytes | None:
        return bytes(self._image.value) or None

    def _complete(self, state: State) -> State:
        return study.complete_study(state)

    def _code_line(self, state: State) -> str:
        return call_line("ablate", state, study.DEFAULTS)

    def _rebuild(self, take: Callable[[str], None], value: str) -> None:
        """Rebuild the controls that depend on the one that was changed, then draw once."""
        if not self._held:
            with self._together():
                take(value)

    def _take_samples(self, samples: str) -> None:
        self._controls["kinds"].rebuild(_kinds(samples), [])

    def _take_method(self, method: str) -> None:
        """Vary another method in its first option that has a few choices."""
        known = study.varied_options(method)
        self._controls["option"].options = _or_nothing(known)
        option = next((name for name in known if choices_of(get_method(method).options[name][0])), "")
        self._controls["option"].value = option
        self._vary(option, {})

    def _take_option(self, option: str) -> None:
        self._vary(option, self._controls["options"].value)

    def _vary(self, option: str, options: State) -> None:
        """Vary an option over all of its choices, or its default if they are not few."""
        method = self._controls["ablated"].value
        hint, default = get_method(method).options[option] if option else (None, None)
        self._controls["values"].rebuild(method, option, (choices_of(hint) or [default]) if option else [])
        others = {key: value for key, value in options.items() if key != option}
        self._controls["options"].rebuild(method, others, ["spatial_ratio", *study.budget_options(method), option])

    def _arrange(self) -> None:
        for key, tip in _TIPS.items():
            give_tip(self._controls[key], tip)
        show_if(self._controls["ablated"].value, self._controls["option"], self._controls["options"])

    def _asked(self, state: State) -> dict[str, Any]:
        """Return a state's sweep, as arguments."""
        if not state["ratios"]:
            raise VTCError("no ratio is chosen; choose one or more")
        return {
            "model": self._model_of(state),
            "samples": study.study_samples(state),
            "methods": study.study_methods(state),
            "ratios": state["ratios"],
            "seeds": range(state["seeds"]),
            "results": study.results_file(state["results"]),
        }

    def _work(self, run: _Run, state: State) -> None:
        """Run, in the runner's thread."""
        try:
            with _ONE_AT_A_TIME:
                sweep(**self._asked(state), progress=partial(self._heard, run), stop=run.halt)
        finally:
            run.ended = True
            if run is self._latest:
                self._stop.disabled = True
                self._request()

    def _heard(self, run: _Run, progress: Progress) -> None:
        run.progress = progress
        if run is not self._latest:
            return
        self._bar.value = progress.done / max(1, progress.total)
        shown = run.settings == study.study_settings(self._now)
        if not run.halt.is_set():
            other = "" if shown else " (a run with other settings than those on show)"
            self._line.value = words(f"{progress}{other}")
        if shown and time.monotonic() - self._drawn > _PAUSE:
            self._request()

    def _found(self, state: State) -> Progress:
        """Return what is there for a state: of the latest run, or of the results file."""
        run = self._latest
        if run and run.progress and run.settings == study.study_settings(state):
            return run.progress
        return look_up(**self._asked(state))

    def _draw(self, state: State) -> None:
        if self._result.value == "":
            self._result.value = words("loading the model ...")
        idle = self._latest is None or self._latest.ended  # else bar and line belong to the run
        progress, samples = self._found(state), study.study_samples(state)
        table = progress.table()
        whole = study.comparable(table, samples, progress.total)
        result = "nothing of this has been run yet; press Run"
        shown = whole.method.isin(study.ALWAYS).any()
        if shown:
            figure = plot_curves(whole, state["value"], venue=state["venue"], width="text")
            self._image.value = figure._repr_png_()
            result = study.in_words(vars(figure)["vtc"]["data"], state["value"])
        show_if(shown, self._image)
        self._result.value = words(result)
        self._counts.value = words(f"{_sizes(samples, whole)}; {summary(table)[1]}")
        if idle:
            self._bar.value = progress.done / max(1, progress.total)
            rest = "; Run does the rest" if progress.done < progress.total else ""
            self._line.value = words(f"{progress.done} of {progress.total} settings of clips are done{rest}")
        self._drawn = time.monotonic()

    def _write(self, state: State) -> None:
        progress = self._found(state)
        table = study.comparable(progress.table(), study.study_samples(state), progress.total)
        name, value = state["figure"], state["value"]
        made: State = {"ablation": state}
        figure = plot_curves(table, value, venue=state["venue"], width="text")
        files, rows = self._saved(figure, state, made), bootstrap_interval(table, value)
        self._say_written(files, save_table(rows, f"{name}_table", best=study.better(value), provenance=made))

    def _rows(self) -> list[widgets.Widget]:
        c = self._controls
        always = widgets.Label(f"and always {' and '.join(study.ALWAYS)}, baselines")
        return [
            row(c["samples"], c["clips"]),
            labelled("kinds", c["kinds"]),
            row(c["ablated"], c["option"], c["values"]),
            labelled("with", c["options"]),
            labelled("methods", row(c["methods"], always)),
            row(labelled("ratios", c["ratios"]), c["seeds"], c["value"]),
            row(self._start, self._stop, self._bar, self._line),
            *(self._counts, self._result, self._image),
            row(c["figure"], c["venue"], self._export),
            *(self._message, self._code),
        ]


def _controls(state: State) -> dict[str, Any]:
    """Return a control for each setting but the model and the results file."""
    every = list(methods().index)
    named = [(f"{n} (a baseline)" if n in BASELINES else n, n) for n in every if n not in study.ALWAYS]
    narrow = {"layout": {"width": "170px"}, "min": 1}
    varied = _or_nothing(study.varied_options(state["ablated"]))
    return {
        "samples": field("samples", state["samples"], "the bundled test set"),
        "clips": widgets.BoundedIntText(state["clips"], max=10**6, description="clips", **narrow),
        "kinds": Toggles(_kinds(state["samples"]), state["kinds"]),
        "methods": Toggles(named, state["methods"]),
        "ablated": menu("ablate", _or_nothing(every), state["ablated"]),
        "option": menu("vary", varied, state["option"]),
        "values": Values(state["ablated"], state["option"], state["values"]),
        "options": OptionPanel(
            state["ablated"],
            state["options"],
            ["spatial_ratio", *study.budget_options(state["ablated"]), state["option"]],
        ),
        "ratios": Toggles([(f"{ratio}×", ratio) for ratio in _RATIOS], state["ratios"]),
        "seeds": widgets.BoundedIntText(state["seeds"], max=100, description="seeds", **narrow),
        "value": menu("show", [(unit(value)[0], value) for value in study.VALUES], state["value"]),
        "figure": field("figure", state["figure"]),
        "venue": menu("venue", list(VENUES), state["venue"]),
    }


def _or_nothing(names: list[str]) -> list[tuple[str, str]]:
    return [("nothing", ""), *((name, name) for name in names)]


def _kinds(samples: str) -> list[str]:
    """Return the kinds of question in a file; none where it cannot be read, which is said where samples are needed."""
    try:
        return sorted({sample["kind"] for sample in sample_set(samples) if sample.get("kind")})
    except VTCError:
        return []


def _sizes(asked: list[Sample], shown: pd.DataFrame) -> str:
    """Return how much is asked, and how much of it is on show."""
    sizes = f"{len(asked)} questions on {len({str(sample['clip']) for sample in asked})} clips"
    count = shown["sample"].nunique()
    return sizes if count in (0, len(asked)) else f"{sizes}, on show the {count} that every setting has answered"
