"""The class under every panel: controls make a state, a worker's thread draws it, and errors are one sentence.

No `Output` widget is on the way from a control to the picture, because those swallow exceptions.
"""

from __future__ import annotations

import html
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from vtc_lab.clips.reading import ROOT
from vtc_lab.tokens import VTCError
from vtc_lab.widgets.controls import button, close_all
from vtc_lab.widgets.settings import State, loaded_model, name_of
from vtc_lab.widgets.worker import Worker

if TYPE_CHECKING:
    from vtc_lab.models.video_model import VideoModel


class Panel(widgets.VBox):
    """A widget whose state, a dict of plain JSON values, says all that it shows.

    A panel puts a control for each setting, anything with a `value`, into `_controls`, calls `_observe`, and defines
    the methods that are not implemented here. What runs in a worker's thread gets a state and reads no control.
    """

    def __init__(self, fixed: State, model: VideoModel | None) -> None:
        super().__init__()
        self._fixed, self._model = fixed, model
        self._controls: dict[str, Any] = {}
        self._workers = [Worker()]  # the first one draws
        self._now: State = {}  # of the latest change
        self._said, self._held = "", False
        self._failed: Callable[[Any], None] | None = None  # the job whose error is on show
        self._message, self._code = widgets.HTML(), widgets.HTML()
        self._export = button("Export", "download", "primary", lambda: self._queue(self._write))

    @property
    def state(self) -> State:
        """Every setting, as plain JSON values."""
        return self._complete({**{key: control.value for key, control in self._controls.items()}, **self._fixed})

    @property
    def message(self) -> str:
        """The message on show: an error, the files of an export, or nothing."""
        return self._said

    def wait(self, seconds: float = 60.0) -> None:
        """Return once nothing is left to do and the picture shows the latest state.

        Raises
        ------
        VTCError
            If that takes longer.
        """
        end = time.monotonic() + seconds
        for worker in reversed(self._workers):  # the others end with a request to the first
            if not worker.idle.wait(max(0, end - time.monotonic())):
                raise VTCError(f"the panel is still at work after {seconds:g} s; wait longer")

    def close(self) -> None:
        """Take the widget away, and all that belongs to it."""
        close_all(self.children)
        self.layout.close()
        super().close()

    def _complete(self, state: State) -> State:
        raise NotImplementedError

    def _code_line(self, state: State) -> str:
        """Return the line of code that opens the panel in a state."""
        raise NotImplementedError

    def _arrange(self) -> None:
        """Show the controls that count in the present state."""
        raise NotImplementedError

    def _draw(self, state: State) -> None:
        """Show a state; on an error the last good picture stays."""
        raise NotImplementedError

    def _write(self, state: State) -> None:
        """Export the figure of a state."""
        raise NotImplementedError

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
        self._workers[0].request(partial(self._attempt, self._draw, self._now))

    def _queue(self, job: Callable[[State], None]) -> None:
        self._workers[0].queue(partial(self._attempt, job, self._now))

    def _attempt(self, job: Callable[[Any], None], given: object) -> None:
        """Do a job, or say what was wrong; an error that nobody foresaw comes with its traceback."""
        try:
            job(given)
            if job == self._failed:
                self._say("")
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            unforeseen = f"This should not have happened; please report it:\n{trace}"
            self._say(str(error) if isinstance(error, VTCError) else unforeseen, "error")
            self._failed = job

    def _say(self, text: str, kind: str = "said") -> None:
        self._said, self._failed, self._message.value = text, None, words(text, kind)

    def _say_written(self, *files: dict[str, Path]) -> None:
        parts = []
        for paths in files:
            suffix, path = min(paths.items())
            place = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path).as_posix()
            parts.append(f"{place.removesuffix(suffix)} as {', '.join(sorted(paths))}")
        self._say(f"wrote {' and '.join(parts)}")

    def _model_of(self, state: State) -> VideoModel:
        """Return the model that was given, if the state names it, or else the one of that name."""
        given, name = self._model, state["model"]
        return given if given is not None and name_of(given) == name else loaded_model(name, type(self).__name__)


def words(text: str, kind: str = "said") -> str:
    """Return a text as HTML, red if it is an "error"."""
    style = "color:#b00020;font-weight:600" if kind == "error" else "color:#444"
    return f'<div class="vtc-{kind}" style="{style};white-space:pre-wrap">{html.escape(text)}</div>'
