"""The explorer: choose a clip, move a slider, see what is dropped and what the answer becomes, export the figure."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from vtc_lab.clips.reading import given_path, read_clip
from vtc_lab.figures.export import latex_line
from vtc_lab.figures.filmstrip import describe, face, show
from vtc_lab.measures import answer_fidelity
from vtc_lab.qa.samples import Sample
from vtc_lab.reducers.ops import coverage
from vtc_lab.reducers.registry import get_method, reduce
from vtc_lab.tokens import VTCError
from vtc_lab.widgets.column import clip_menu, controls_of, narrow, sample_menu
from vtc_lab.widgets.controls import button, field, menu, row, show_if
from vtc_lab.widgets.curve import MOST as MOST_RATIO
from vtc_lab.widgets.curve import Curve, able, flip_of
from vtc_lab.widgets.panel import Panel, name_of
from vtc_lab.widgets.state import (
    ANSWERS,
    MODEL,
    State,
    View,
    ask_view,
    build_view,
    call_line,
    complete_state,
    method_names,
    own_budget,
    read_session,
    shortened,
    unable,
    unknown_words,
    usual,
)
from vtc_lab.widgets.views import Charts, Strips, as_bytes, colour_of, thumbnail

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.answers import Answer
    from vtc_lab.models.video_model import VideoModel

_QUICK = 0.5  # seconds that an answer of a model of one's own may take to follow the slider


def explore(model: VideoModel | str | None = None, **state: object) -> Explorer:
    """Open the explorer.

    Parameters
    ----------
    model : from `load_model`, or a folder or hub id, whose tokens are shown and which answers; None or "" for the
        bundled one, as soon as `encoder` says "video-qa model".
    state : any setting, as `Explorer.state` returns them: clip (a path), folder (of clips for the menu, or "" for the
        bundled ones), frames, encoder, question, inside (of `methods(stage="inside")`, which cuts further when the
        model is asked), method, options (dict), compare (the name of another method or a list of up to three),
        compare_options (a dict of options for each of their names), ratio, view ("tokens", "averaged", "difference",
        "significance", "saliency" or "lost"), measure (of the curve: of `list_measures`, "probability" or "kl"), figure
        (name of the exported files), venue, width ("column" or "text").

    Returns
    -------
    Explorer, a widget that JupyterLab shows when it ends a cell.

    Raises
    ------
    VTCError
        For an unknown setting or name, or a value of the wrong kind. What else is wrong is said in the widget.

    Examples
    --------
    >>> explore(frames=4, encoder="pixels", ratio=4).state["ratio"]
    4.0
    """
    name, given = name_of(model), None if model is None or isinstance(model, str) else model.fresh()
    preset = {"encoder": MODEL} if given else {}
    return Explorer(complete_state({**preset, **state, "model": name}), given)


class Explorer(Panel):
    """The widget; `state` is what it shows, as a dict that `explore(**state)` takes."""

    def __init__(self, state: State, model: VideoModel | None = None) -> None:
        super().__init__({"folder": state["folder"]}, model)
        self._controls = controls_of(state)
        self._picker, self._curve = self._controls["methods"], Curve()
        self._strips, self._charts = Strips(view=state["view"]), Charts()
        self._folder = field("folder", state["folder"], "data/clips")
        self._file = field("or a file", "", "path of a video")
        self._sample = menu("sample", sample_menu(), None)
        self._session = field("session", "session.json", "a JSON file")
        self._ask = button("Ask", "question", "success", lambda: self._queue(self._put_question))
        self._flips = button("Find the flip", "search", "", lambda: self._queue(self._find_flips))
        self._save = button("Save", "save", "", lambda: self._attempt(self._save_session, self._session.value))
        self._load = button("Load", "folder-open", "", lambda: self._attempt(self.load, self._session.value))
        self._seconds = math.inf  # that the latest answer took
        self._view: View | None = None
        self._drawn: State = {}  # the state of that view
        self._homes: list[widgets.Box] = []
        self._beside: Any = self._controls["view"]  # the control that was changed last
        self._on(self._folder, self._take_folder)
        self._on(self._file, self._take_file)
        self._on(self._sample, self._take_sample)
        self._on(self._picker, self._take_methods)
        self._charts.on_msg(lambda _, content, __: self._attempt(self._clicked, content))
        self._observe()
        self.children = [self._laid_out(), self._code]
        steps = self._drawing(self._now)
        next(steps, None)
        self._workers[0].request(steps)

    def save(self, path: str | Path) -> Path:
        """Write the state into a JSON file, which `explore(**json.loads(...))` and the button Load take."""
        try:
            place = given_path(path)
            if place.exists():
                read_session(place)  # nothing else is written over
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(self.state, indent=2) + "\n")
        except OSError as error:
            raise VTCError(f"{path} cannot be written: {error.strerror}; give a file in a writable folder") from error
        return place

    def load(self, path: str | Path) -> None:
        """Show the state that a JSON file holds."""
        state = complete_state(read_session(path))
        with self._together():
            self._folder.value = state["folder"]
            self._picker.value = [state["method"], *state["compare"]]
        self._take(**{key: value for key, value in state.items() if key not in ("folder", "method", "compare")})

    def _face(self) -> bytes | None:
        return face(self._view.shown, *self._view.reductions) if self._view else None

    def _values(self) -> State:
        values = super()._values()
        method, *compare = values.pop("methods")
        return {**values, "method": method, "compare": compare}

    def _complete(self, state: State) -> State:
        return complete_state({**state, "model": state["model"].strip()})

    def _code_line(self, state: State) -> str:
        return call_line("explore", state, usual(state["model"]))

    def _changed(self, change: dict[str, Any] | None = None) -> None:
        if not self._held:
            if change and change["owner"] in (self._controls["clip"], self._controls["question"]):
                self._sample.value = None  # it is no longer the sample that is on show
            if change:
                self._beside = change["owner"]
            self._strips.view = self._controls["view"].value
            self._strips.stale = self._charts.stale = True
        super()._changed(change)

    def _clicked(self, content: dict[str, Any]) -> None:
        """Take a ratio from the curve."""
        if "ratio" in content:
            self._take(ratio=float(content["ratio"]))

    def _take(self, **settings: object) -> None:
        """Set several controls, a clip that is not in the menu too, and draw once."""
        with self._together():
            clips, clip = self._controls["clip"], settings.get("clip")
            if clip is not None and clip not in dict(clips.options).values():
                clips.options = [*clips.options, (Path(str(clip)).name, clip)]
            for name, value in settings.items():
                self._controls[name].value = value

    def _take_methods(self, names: list[str]) -> None:
        method, *others = names
        held, self._held = self._held, True  # the state is whole only with the options of these methods
        c = self._controls
        try:
            c["options"].rebuild(method, c["options"].value if method == self._now["method"] else {})
            c["compare_options"].rebuild(others, c["compare_options"].value)
        finally:
            self._held = held

    def _take_folder(self, folder: str) -> None:
        folder = folder.strip().strip("\"'")
        listed = clip_menu(folder)
        self._fixed = {"folder": folder}
        self._sample.value = None
        with self._together():
            self._controls["clip"].options = listed

    def _take_file(self, clip: str) -> None:
        if clip.strip():
            self._take(clip=clip.strip().strip("\"'"))

    def _take_sample(self, sample: Sample | None) -> None:
        if sample is not None:
            path = str(sample["clip"])
            self._take(clip=shortened(path), frames=len(read_clip(path)), encoder=MODEL, question=sample["question"])

    def _save_session(self, path: str) -> None:
        self._say(f"wrote {self.save(path)}")

    def _encoder(self, state: State) -> VideoModel | None:
        return self._model_of(state) if state["encoder"] == MODEL else None

    def _draw(self, state: State) -> Iterator[object]:
        """Show the strips, then the answer, then the curve, and at last which methods cannot run."""
        model = self._encoder(state)
        if any(state[key] != self._drawn.get(key) for key in ("clip", "frames", "encoder", "model")):
            self._say("reading and encoding the clip ...")
        view = build_view(state, model)
        self._strips.take(view.shown, view.tokens, view.reductions)
        self._charts.layers = self._strips.layers
        self._strips.stale = self._charts.stale = state is not self._now
        self._view, self._drawn = view, state
        self._say("; ".join([*_remarks(state, view), *(f"{name}: {why}" for name, why in view.failed.items())]))
        yield None
        self._strips.alike = b"".join(map(as_bytes, (coverage(view.tokens.values, each) for each in view.reductions)))
        asks = model is not None and bool(state["question"].strip())
        bundled = state["model"] == "" and self._model is None
        follows = asks and (bundled or self._seconds <= _QUICK)
        notes = [] if follows else ["press Ask for the answer"]
        self._charts.answer = {"question": state["question"], "right": None, "notes": notes} if asks else {}
        if follows:
            self._put_question(state)
            yield None
        if state["measure"] not in ANSWERS or follows:
            for shown in self._curve.rounds(state, view, model):
                if shown:
                    self._charts.curve = shown
                yield None
        else:
            self._charts.curve = {}
        self._grey(state, view)

    def _grey(self, state: State, view: View) -> None:
        """Tell the menu which methods cannot run on this encoder, or with so few tokens."""
        frames, height, width = view.tokens.grid
        reasons = []
        for name in method_names():
            method, reason = get_method(name), unable(state, name, {}).split(", which")[0]
            least = method.least(frames, height * width, method.defaults)
            short = f"keeps {method.minimum}, here {least} tokens" if len(view.reductions[0]) < least else ""
            reasons.append((name, reason or short))
        self._picker.choices = reasons

    def _put_question(self, state: State) -> None:
        view, model = self._view, self._encoder(state)
        if view is None or state != self._drawn:
            return  # it would be about what is no longer on show
        full, right = self._curve.full(state, view, model)
        start = time.perf_counter()
        answers, _ = ask_view(state, view, model, view.reductions)
        self._seconds = (time.perf_counter() - start) / len(answers)
        rows = [_answer_row("everything", "#777777", full, None)]
        for reduction, answer in zip(view.reductions, answers, strict=True):
            label = f"{describe(reduction)} + {state['inside']}" if state["inside"] else describe(reduction)
            rows.append(_answer_row(label, colour_of(reduction.method), answer, full))
        strange = unknown_words(state["question"], model) if model else []
        notes = [f"the model does not know {', '.join(map(repr, strange))}"] if strange else []
        self._charts.answer = {"question": state["question"], "right": right, "rows": rows, "notes": notes}

    def _find_flips(self, state: State) -> None:
        self._say("looking for the ratios at which the answer flips ...")
        self._put_question(state)
        view, model = self._view, self._encoder(state)
        assert view
        full, _ = self._curve.full(state, view, model)
        flips = []
        for name, options in able(state, view):

            def answer_at(ratio: float, name: str = name, options: State = options) -> str:
                return ask_view(state, view, model, [reduce(view.tokens, name, ratio=ratio, **options)])[0][0].text

            flips.append(flip_of(answer_at, full.text))
        labels = [describe(reduction) for reduction in view.reductions]
        told = [f"at {flip:.2g}x" if flip else f"not up to {MOST_RATIO}x" for flip in flips]
        note = f"flips: {', '.join(f'{label} {when}' for label, when in zip(labels, told, strict=True))}"
        shown = self._charts.answer
        self._charts.answer = {**shown, "notes": [*shown.get("notes", []), note]}
        if lines := self._charts.curve.get("lines"):
            marked = [{**line, "flip": flip} for line, flip in zip(lines, flips, strict=True)]
            self._charts.curve = {**self._charts.curve, "lines": marked}
        self._say("")

    def _write(self, state: State) -> None:
        self._say("drawing the figure ...")
        view = self._view
        if view is None or state != self._drawn:
            view = build_view(state, self._encoder(state))
        made: State = {"explorer": state, "encoder": view.tokens.encoder}
        figure = show(view.shown, *view.reductions, venue=state["venue"], width=state["width"])
        files = self._saved(figure, state, made)
        self._say_written(files)
        labels = ", ".join(map(describe, view.reductions))
        self._charts.exported = {
            "name": shortened(files[".pdf"].with_suffix("")),
            "state": f"{Path(state['clip']).name}, {labels}: {view.reductions[0].ledger}",
            "files": [(suffix, shortened(path)) for suffix, path in sorted(files.items())],
            "latex": latex_line(files, state["width"]),
            "thumbnail": thumbnail(files[".png"]),
        }

    def _arrange(self) -> None:
        c = self._controls
        show_if(c["encoder"].value == MODEL, c["model"])
        show_if(c["question"].value.strip(), self._ask, self._flips)

    def _laid_out(self) -> widgets.Widget:
        """Return a narrow column of controls beside the pictures."""
        c = self._controls
        names = ("clip", "frames", "methods", "ratio", "view", "measure")
        folds = {
            "Question": [self._sample, c["question"], c["inside"], row(self._ask, self._flips)],
            "Method's options": [c["options"], c["compare_options"]],
            "Encoder, model, files": [c["encoder"], c["model"], self._folder, self._file],
            "Export": [c["figure"], c["venue"], c["width"], self._export],
            "Session": [self._session, row(self._save, self._load)],
        }
        column, self._homes = narrow([*(c[name] for name in names), self._message], folds)
        look = {"flex": "2 1 360px", "min_width": "0", "margin": "0 0 0 10px"}
        return widgets.HBox([column, widgets.VBox([self._strips, self._charts], layout=look)])

    def _say(self, text: str, kind: str = "said") -> None:
        """Say it below the control that was changed last."""
        super()._say(text, kind)
        for box in self._homes if text else ():
            rest = [child for child in box.children if child is not self._message]
            here = self._beside in rest
            if here:
                rest.insert(rest.index(self._beside) + 1, self._message)
            if here or len(rest) < len(box.children):
                box.children = rest


def _remarks(state: State, view: View) -> list[str]:
    """Return what a user should know about the picture that the picture does not show."""
    remarks = []
    if own_budget(state["method"], state["options"]):
        remarks.append(f"{describe(view.reductions[0])} finds its own budget, so the ratio has no effect")
    if state["view"] == "saliency" and view.tokens.saliency is None:
        remarks.append(f"{state['encoder']} has no saliency; choose the encoder {MODEL!r}")
    if state["view"] == "difference" and len(view.reductions) < 2:
        remarks.append("a difference is of two methods; choose another below 'against'")
    if state["measure"] in ANSWERS and not (state["question"].strip() and state["encoder"] == MODEL):
        remarks.append(f"the curve of {state['measure']} needs a question and the encoder {MODEL!r}")
    if (each := math.ceil(len(view.clip) / len(view.shown))) > 1:
        remarks.append(f"a token is of {each} frames, of which the first is shown")
    return remarks


def _answer_row(label: str, colour: str, answer: Answer, full: Answer | None) -> dict[str, Any]:
    best = sorted(answer.scores.items(), key=lambda item: -item[1])[:3]
    kl = None if full is None else answer_fidelity(full, answer)["kl"]
    return {
        **{"label": label, "colour": colour, "text": answer.text, "entered": answer.entered},
        **{"scores": [(text or "(space)", share) for text, share in best]},
        "kl": kl if kl is not None and math.isfinite(kl) else None,
        "mean": answer.per_layer if answer.per_layer < answer.entered else None,
    }
