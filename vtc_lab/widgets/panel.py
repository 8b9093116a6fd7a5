"""The class under every panel: controls make a state, a worker's thread draws it, and errors are one sentence.

No `Output` widget is on the way from a control to the picture, because those swallow exceptions.
"""

from __future__ import annotations

import atexit
import ctypes
import html
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from vtc_lab.figures.export import other_state, save_figure
from vtc_lab.tokens import VTCError
from vtc_lab.widgets.controls import answer_beside_cells, button, close_all
from vtc_lab.widgets.state import State, shortened

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from matplotlib.figure import Figure

    from vtc_lab.models.video_model import VideoModel

_LOADING = threading.Lock()
_LINGER = 2.0  # seconds that a thread waits for more, since glibc may give each new one a heap of its own
_MMAP_THRESHOLD = -3  # of glibc's mallopt
_DONE = object()
_LAST = 60.0  # seconds that the end of Python waits for a worker
_OPEN: weakref.WeakSet[Panel] = weakref.WeakSet()
_PAUSE = 0.06  # seconds without a new request before the steps that follow the first


@atexit.register
def _settle() -> None:
    """Wait for the workers: a thread that is inside torch when Python ends aborts the process."""
    for panel in list(_OPEN):
        panel._end()
    for worker in (worker for panel in list(_OPEN) for worker in panel._workers):
        worker.idle.wait(_LAST)


class Worker:
    """One thread that takes the steps of the latest request, and runs every queued job, one at a time."""

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._change = threading.Condition()
        self._alive = False
        self._steps: Iterator[object] | None = None
        self._begun = False
        self._jobs: list[Callable[[], None]] = []

    def request(self, steps: Iterator[object]) -> None:
        """Run these steps soon, the first before any queued job, in the place of those requested before."""
        with self._change:
            self._steps, self._begun = steps, False
            self._start()

    def queue(self, job: Callable[[], None]) -> None:
        """Run a job soon, whatever else is asked for."""
        with self._change:
            self._jobs.append(job)
            self._start()

    def drop(self) -> None:
        """Forget the steps that were requested; the one at hand and what is queued are finished."""
        with self._change:
            self._steps = None
            self._change.notify()

    def _start(self) -> None:
        self.idle.clear()
        self._change.notify()
        if not self._alive:  # a thread lives while there is work, so an unused widget holds none
            self._alive = True
            threading.Thread(target=self._run, daemon=True, name="vtc-worker").start()

    def _run(self) -> None:
        while True:
            with self._change:
                if not (self._steps or self._jobs):
                    self.idle.set()
                    self._change.wait(_LINGER)
                if not (self._steps or self._jobs):
                    self._alive = False
                    return
                steps = None if self._jobs and (self._begun or not self._steps) else self._steps
                job = None if steps else self._jobs.pop(0)
                first, self._begun = not self._begun, self._begun or bool(steps)
            if job:
                job()
            elif steps:
                done = next(steps, _DONE) is _DONE
                with self._change:
                    if self._steps is steps and done:
                        self._steps = None
                    elif self._steps is steps and first:
                        self._change.wait(_PAUSE)  # while a slider moves, only first steps are taken


class Panel(widgets.VBox):
    """A widget whose state, a dict of plain JSON values, says all that it shows.

    A panel puts a control for each setting, anything with a `value`, into `_controls`, calls `_observe`, and defines
    the methods that are not implemented here. What runs in a worker's thread gets a state and reads no control.
    """

    def __init__(self, fixed: State, model: VideoModel | None) -> None:
        super().__init__()
        _OPEN.add(self)
        self.observe(lambda _: answer_beside_cells(self), "children")
        _return_memory()
        self._fixed, self._model = fixed, model
        self._controls: dict[str, Any] = {}
        self._workers = [Worker()]  # the first one draws
        self._now: State = {}  # of the latest change
        self._said, self._held = "", False
        self._confirmed: State | None = None  # whose figure may replace another
        self._failed: Callable[[Any], None] | None = None  # the job whose error is on show
        self._message, self._code = widgets.HTML(), widgets.HTML()
        self._export = button("Export", "download", "primary", lambda: self._queue(self._write))

    @property
    def state(self) -> State:
        """Every setting, as plain JSON values."""
        return self._complete({**self._values(), **self._fixed})

    @property
    def message(self) -> str:
        """The message on show: an error, the files of an export, or nothing."""
        return self._said

    def wait(self, seconds: float = 60.0) -> None:
        """Return once nothing is left to do and the picture shows the latest state; a VTCError if that takes longer."""
        end = time.monotonic() + seconds
        for worker in reversed(self._workers):  # the others end with a request to the first
            if not worker.idle.wait(max(0, end - time.monotonic())):
                raise VTCError(f"the panel is still at work after {seconds:g} s; wait longer")

    def _end(self) -> None:
        """Stop what is computed in the background after the step at hand."""
        for worker in self._workers:
            worker.drop()

    def close(self) -> None:
        """Take the widget away, and all that belongs to it."""
        self._end()
        close_all(self.children)
        self.layout.close()
        super().close()

    def _repr_mimebundle_(self, **given: Any) -> dict[str, Any]:
        """Return the widget, and a picture for wherever widgets do not live."""
        face = self._face()
        return super()._repr_mimebundle_(**given) | ({"image/png": face} if face else {})

    def _face(self) -> bytes | None:
        raise NotImplementedError

    def _values(self) -> State:
        return {key: control.value for key, control in self._controls.items()}

    def _complete(self, state: State) -> State:
        raise NotImplementedError

    def _code_line(self, state: State) -> str:
        raise NotImplementedError

    def _arrange(self) -> None: ...  # shows the controls that count in the present state

    def _draw(self, state: State) -> Iterator[object] | None: ...  # in steps; on an error the last good picture stays

    def _write(self, state: State) -> None: ...  # exports the figure of a state

    def _observe(self) -> None:
        """Take the present state, and from now on every change of a control."""
        self._take_state()
        for control in self._controls.values():
            control.observe(self._changed, "value")

    def _take_state(self) -> None:
        self._now = self.state
        self._code.value = f"<code>{html.escape(self._code_line(self._now))}</code>"
        self._arrange()

    def _on(self, control: widgets.Widget, take: Callable[[Any], None]) -> None:
        """Give every new value of a control to a function, and say what was wrong with it."""
        control.observe(lambda change: self._attempt(take, change["new"]), "value")

    def _changed(self, change: dict[str, Any] | None = None) -> None:
        if not self._held:
            self._confirmed = None
            self._take_state()
            self._say("")
            self._request()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Change several controls, then draw once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._changed()

    def _request(self) -> None:
        self._workers[0].request(self._drawing(self._now))

    def _drawing(self, state: State) -> Iterator[object]:
        """Take the steps of a drawing, or say what was wrong."""
        try:
            yield from self._draw(state) or ()
        except Exception as error:
            self._fail(error, self._draw)

    def _queue(self, job: Callable[[State], None]) -> None:
        self._workers[0].queue(partial(self._attempt, job, self._now))

    def _attempt(self, job: Callable[[Any], None], given: object) -> None:
        """Do a job, or say what was wrong; an error that nobody foresaw comes with its traceback."""
        try:
            job(given)
            if job == self._failed:
                self._say("")
        except Exception as error:
            self._fail(error, job)

    def _fail(self, error: Exception, job: Callable[[Any], Any]) -> None:
        trace = "".join(traceback.format_exception(error))
        unforeseen = f"This should not have happened; please report it:\n{trace}"
        self._say(str(error) if isinstance(error, VTCError) else unforeseen, "error")
        self._failed = job

    def _say(self, text: str, kind: str = "said") -> None:
        self._said, self._failed, self._message.value = text, None, words(text, kind)

    def _saved(self, figure: Figure, state: State, made: State) -> dict[str, Path]:
        """Save the figure; one that is there of another state is replaced when this is asked for twice."""
        differs = other_state(figure, state["figure"], provenance=made)
        if differs and self._confirmed != state:
            self._confirmed = state
            raise VTCError(
                f"figure {state['figure']!r} shows another state ({differs}); press Export again to replace it"
            )
        self._confirmed = None
        return save_figure(figure, state["figure"], provenance=made, replace=True)

    def _say_written(self, *files: dict[str, Path]) -> None:
        parts = []
        for paths in files:
            suffix, path = min(paths.items())
            parts.append(f"{shortened(path).removesuffix(suffix)} as {', '.join(sorted(paths))}")
        self._say(f"wrote {' and '.join(parts)}")

    def _model_of(self, state: State) -> VideoModel:
        """Return the model that was given, if the state names it, or else the one of that name."""
        given, name = self._model, state["model"]
        if given is not None and name_of(given) == name:
            return given
        with _LOADING:
            return _load(name, type(self).__name__)


@cache
def _return_memory() -> None:
    """Have glibc map every array of a megabyte by itself; in heaps the holes that clips leave reach a gigabyte."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20)


@lru_cache(maxsize=2)
def _load(name: str, panel: str) -> VideoModel:
    """Load a model once for each kind of panel, since two must not use one at the same time."""
    from vtc_lab.models.loading import load_model

    return load_model(name or None)


def name_of(model: VideoModel | str | None) -> str:
    """Return what a state calls a model: its folder or hub id, "" for the bundled one."""
    if model is None or isinstance(model, str):
        return model or ""
    if not hasattr(model, "ask_each"):
        raise VTCError(f"model is a {type(model).__name__}; give what load_model returns, a folder or a hub id")
    from vtc_lab.models import loading

    name = model.spec["name"] if model.spec else model.name
    return "" if Path(name) == loading.BUNDLED else name


def words(text: str, kind: str = "said") -> str:
    """Return a text as HTML, with a red bar if it is an "error"."""
    style = "border-left:4px solid #d32f2f;padding-left:6px;font-weight:600;" if kind == "error" else ""
    style += "color:var(--jp-ui-font-color1, inherit);line-height:1.3;"
    return f'<div class="vtc-{kind}" style="{style};white-space:pre-wrap">{html.escape(text)}</div>'
