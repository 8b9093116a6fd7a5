"""The ablation panel: choose samples, methods, options and ratios; run; watch the curves fill in; export them.

A run and the drawing have a thread each, so that what was run before can be looked at while a run goes on. Both see
plain states, never the controls. What is on show comes from the results file: to go back to what was run before costs
only the looking up.
"""

from __future__ import annotations

import html
import math
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import ipywidgets as widgets
import pandas as pd

from vtc_lab.clips.reading import ROOT
from vtc_lab.figures.curves import plot_curves
from vtc_lab.figures.export import save_figure
from vtc_lab.figures.tables import save_table
from vtc_lab.sweeps.run import Progress, summary, sweep
from vtc_lab.sweeps.stats import bootstrap_interval
from vtc_lab.tokens import VTCError
from vtc_lab.widgets.state import name_of
from vtc_lab.widgets.study import (
    better,
    comparable,
    complete_study,
    in_words,
    results_file,
    study_line,
    study_methods,
    study_samples,
    study_settings,
)
from vtc_lab.widgets.study_controls import AblatedMethod, row, study_controls
from vtc_lab.widgets.worker import Worker, explain

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

_PAUSE = 1.0  # seconds at least from one picture of a run to the next
_SHARE = 4  # and this many times as long as drawing kept the processor from the run
_ONE_AT_A_TIME = threading.Lock()  # runs of all panels: a model is no place for two threads
_LOADING = threading.Lock()
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

    Raises
    ------
    VTCError
        For an unknown setting or name, or a value of the wrong kind. What else is wrong is said in the widget.

    Examples
    --------
    >>> panel = ablate(clips=2, option="significance", values=["distinct", "neighbours"])
    >>> panel.state["methods"], panel.state["values"]
    ([], ['distinct', 'neighbours'])
    """
    given = None if isinstance(model, str) else model
    return Ablation(complete_study({**state, "model": name_of(model)}), given)


@dataclass
class _Run:
    """A run: the settings that it is for, how to stop it, how far it is, and its table once it is done or stopped."""

    settings: dict[str, object]
    halt: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    progress: Progress | None = None
    table: pd.DataFrame | None = None


class Ablation(widgets.VBox):
    """The widget; `state` is what it shows, as a dict that `ablate(**state)` takes."""

    def __init__(self, state: dict[str, object], model: VideoModel | None = None) -> None:
        self._latest: _Run | None = None  # the run that goes on, or was the last
        for other in list(_PANELS):
            other.stop()
        _PANELS.add(self)
        self._model, self._fixed = model, {"model": state["model"], "results": state["results"]}
        self._runner, self._drawer = Worker(), Worker()
        self._drawn, self._took = -math.inf, 0.0
        self._said = ""
        self._plain, self._several = study_controls(state, self._changed)
        self._ablated = AblatedMethod(state, self._changed)
        self._image = widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="900px"))
        self._bar = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="220px"))
        self._line, self._counts, self._result = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._message, self._code = widgets.HTML(), widgets.HTML()
        self._line.add_class("vtc-progress")
        self._start = widgets.Button(description="Run", icon="play", button_style="success")
        self._start.on_click(lambda _: self.run())
        self._stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self._stop.on_click(lambda _: self.stop())
        self._export = widgets.Button(description="Export", icon="download", button_style="primary")
        self._export.on_click(lambda _: self._drawer.queue(partial(self._attempt, self._write, self._now)))
        self._image.layout.display = "none"
        super().__init__(self._rows())
        self._now = self.state  # of the latest change; the threads get it and read no control
        self._request()

    @property
    def state(self) -> dict[str, object]:
        """Every setting, as plain JSON values."""
        state = {key: control.value for key, control in self._plain.items()}
        state |= {key: control.values for key, control in self._several.items()}
        return complete_study({**self._fixed, **state, **self._ablated.state})

    @property
    def message(self) -> str:
        """What the panel has to say at the moment: an error, or what was exported, or nothing."""
        return self._said

    @property
    def table(self) -> pd.DataFrame:
        """The results that are there for the settings on show, as `sweep` returns them."""
        return self._found(self.state)[0]

    def run(self) -> None:
        """Begin to compute what is not there yet for the settings on show; a run that goes on is stopped."""
        self.stop()
        self._latest = run = _Run(study_settings(self._now))
        self._say("")
        self._stop.disabled = False
        _put(self._line, "starting ...")
        self._runner.request(partial(self._attempt, partial(self._work, run), self._now))

    def stop(self) -> None:
        """Stop the run after the step that it is at; what is done is kept."""
        run = self._latest
        if run and not run.ended and not run.halt.is_set():
            run.halt.set()
            _put(self._line, "stopping after this step; what is done is kept")

    def close(self) -> None:
        """Stop the run and take the widget away."""
        self.stop()
        super().close()

    def wait(self, seconds: float = 60.0) -> None:
        """Return once the run has ended and the picture shows the latest state.

        Raises
        ------
        VTCError
            If that takes longer.
        """
        end = time.monotonic() + seconds
        for worker in (self._runner, self._drawer):
            if not worker.idle.wait(max(0, end - time.monotonic())):
                raise VTCError(f"the ablation is still at work after {seconds:g} s; wait longer, or stop it")

    def _changed(self) -> None:
        self._now = self.state
        self._say("")
        self._request()

    def _request(self) -> None:
        self._drawer.request(partial(self._attempt, self._draw, self._now, put=self._result))

    def _attempt(self, job: Callable[[dict], None], state: dict, put: widgets.HTML | None = None) -> None:
        """Do a job for a state, or say what was wrong."""
        try:
            job(state)
        except Exception as error:
            _put(put, *explain(error)) if put else self._say(*explain(error))

    def _loaded(self) -> VideoModel:
        if self._model is None:
            with _LOADING:
                self._model = _load(self._fixed["model"])
        return self._model

    def _sweep(self, state: dict, run: _Run, progress: Callable[[Progress], None]) -> pd.DataFrame:
        if not state["ratios"]:
            raise VTCError("no ratio is chosen; choose one or more")
        samples, chosen, seeds = study_samples(state), study_methods(state), range(state["seeds"])
        told = {"results": results_file(state["results"])[0], "progress": progress, "stop": run.halt}
        return sweep(self._loaded(), samples, chosen, state["ratios"], seeds=seeds, **told)

    def _work(self, run: _Run, state: dict) -> None:
        """Run, in the runner's thread."""
        try:
            with _ONE_AT_A_TIME:
                run.table = self._sweep(state, run, partial(self._heard, run))
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
        other = "" if run.settings == study_settings(self._now) else " (a run with other settings than those on show)"
        if not run.halt.is_set():
            _put(self._line, f"{progress}{other}")
        if not other and time.monotonic() - self._drawn > max(_PAUSE, _SHARE * self._took):
            self._request()

    def _found(self, state: dict) -> tuple[pd.DataFrame, Progress]:
        """What is there for a state: of the latest run, or of the results file."""
        run = self._latest
        if run and run.progress and run.settings == study_settings(state):
            return run.progress.table() if run.table is None else run.table, run.progress
        looked = _Run(study_settings(state))
        looked.halt.set()  # to look up and compute nothing
        table = self._sweep(state, looked, partial(setattr, looked, "progress"))
        return table, looked.progress

    def _draw(self, state: dict) -> None:
        """Show a state, in the drawer's thread; on an error the last good picture stays."""
        self._code.value = f"<code>{html.escape(study_line(state))}</code>"
        if self._model is None:
            _put(self._result, "loading the model ...")
            self._loaded()
        start = time.thread_time()
        idle = self._latest is None or self._latest.ended  # if not, bar and line belong to the run
        bar, line = 0.0, ""
        try:
            table, progress = self._found(state)
            bar, rest = progress.done / max(1, progress.total), "; Run does the rest"
            line = f"{progress.done} of {progress.total} settings of clips are done{rest * (bar < 1)}"
            whole = comparable(table, study_samples(state), progress.total)
            self._show(state, whole)
            said = (_sizes(study_samples(state), whole), summary(table)[1], results_file(state["results"])[1])
            _put(self._counts, "; ".join(filter(None, said)))
        finally:
            if idle:
                self._bar.value = bar
                _put(self._line, line)
            self._drawn, self._took = time.monotonic(), time.thread_time() - start

    def _show(self, state: dict, table: pd.DataFrame) -> None:
        words = "nothing of this has been run yet; press Run"
        if not table.empty:
            figure = plot_curves(table, state["value"], venue=state["venue"], span="text")
            self._image.value = figure._repr_png_()
            words = in_words(figure.vtc["data"], state["value"])
        self._image.layout.display = "none" if table.empty else ""
        _put(self._result, words)

    def _write(self, state: dict) -> None:
        table, progress = self._found(state)
        table = comparable(table, study_samples(state), progress.total)
        name, made = state["figure"], {"ablation": state}
        rows = bootstrap_interval(table, state["value"])
        figure = plot_curves(table, state["value"], venue=state["venue"], span="text")
        paths = save_figure(figure, name, provenance=made)
        more = save_table(rows, f"{name}_table", best=better(state["value"]), provenance=made)
        folder = paths[".pdf"].parent
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        self._say(f"wrote {shown}/{name} as {', '.join(sorted(paths))} and {name}_table as {', '.join(sorted(more))}")

    def _say(self, text: str, kind: str = "said") -> None:
        self._said = text
        _put(self._message, text, kind)

    def _rows(self) -> list[widgets.Widget]:
        plain, several = self._plain, self._several
        return [
            row(plain["samples"], plain["clips"]),
            several["kinds"].box,
            self._ablated.box,
            several["methods"].box,
            row(several["ratios"].box, plain["seeds"], plain["value"]),
            row(self._start, self._stop, self._bar, self._line),
            *(self._counts, self._result, self._image),
            row(plain["figure"], plain["venue"], self._export),
            *(self._message, self._code),
        ]


def _put(place: widgets.HTML, text: str, kind: str = "said") -> None:
    style = "color:#b00020;font-weight:600" if kind == "error" else "color:#444"
    place.value = f'<div class="vtc-{kind}" style="{style};white-space:pre-wrap">{html.escape(text)}</div>'


@lru_cache(maxsize=1)
def _load(name: str) -> VideoModel:
    from vtc_lab.models.loading import load_model

    return load_model(name or None)


def _sizes(asked: list[dict[str, object]], shown: pd.DataFrame) -> str:
    """How much is asked, and how much of it is on show."""
    words = f"{len(asked)} questions on {len({str(sample['clip']) for sample in asked})} clips"
    count = shown["sample"].nunique()
    return words if count in (0, len(asked)) else f"{words}, on show the {count} that every setting has answered"
