"""The explorer: choose a clip, move a slider, see what is dropped, ask a question, export the figure."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import pandas as pd

from vtc_lab.clips.reading import find_clips, read_clip
from vtc_lab.figures.export import save_figure
from vtc_lab.figures.filmstrip import describe, show, strip
from vtc_lab.figures.style import PATCHES, VENUES
from vtc_lab.measures import answer_fidelity, fidelity
from vtc_lab.qa.samples import Sample
from vtc_lab.reducers.registry import methods
from vtc_lab.sweeps.run import STAGES
from vtc_lab.tokens import Reduction
from vtc_lab.widgets.controls import OptionPanel, Slider, button, field, menu, row, show_if
from vtc_lab.widgets.panel import Panel, name_of
from vtc_lab.widgets.state import (
    BUDGETS,
    ENCODER_NAMES,
    MODEL,
    State,
    View,
    ask_view,
    build_view,
    call_line,
    complete_state,
    sample_set,
    shortened,
    usual,
)

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import Answer, VideoModel

_ROOM = 1120  # pixels in a row, shared by the methods on show
_SAMPLES = 4  # of each kind in the menu
_HAVE_SLIDERS = [name for names in BUDGETS.values() for name in names]


def explore(model: VideoModel | str | None = None, **state: object) -> Explorer:
    """Open the explorer.

    Parameters
    ----------
    model : from `load_model`, or a folder or hub id, whose tokens are shown and which answers; None or "" for the
        bundled one, as soon as `encoder` says "video-qa model".
    state : any setting, as `Explorer.state` returns them: clip (a path), folder (of clips for the menu, or "" for the
        bundled ones), frames, encoder, question, method, options (dict), compare (a second method, or ""),
        compare_options, budget ("ratio", "stages" or "fidelity"), ratio, temporal_ratio, spatial_ratio, min_fidelity,
        figure (name of the exported files), venue.

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
    chosen = {"encoder": MODEL} if given else {}
    return Explorer(complete_state({**chosen, **state, "model": name}), given)


class Explorer(Panel):
    """The widget; `state` is what it shows, as a dict that `explore(**state)` takes."""

    def __init__(self, state: State, model: VideoModel | None = None) -> None:
        super().__init__({"folder": state["folder"]}, model)
        self._controls = _controls(state)
        self._folder = field("folder", state["folder"], "data/clips")
        self._file = field("or a file", "", "path of a video")
        self._sample = menu("sample", _sample_menu(), None)
        self._ask = button("Ask", "question", "success", lambda: self._queue(self._put_question))
        self._answers, self._note = widgets.HTML(), widgets.HTML()
        self._columns = [_column(), _column(border_left="2px solid #bbb", padding="0 0 0 12px", margin="0 0 0 12px")]
        show_if(False, *self._columns)
        self._source: tuple | None = None
        self._on(self._folder, self._take_folder)
        self._on(self._file, self._take_file)
        self._on(self._sample, self._take_sample)
        self._observe()
        pictures = widgets.HBox(self._columns)
        self.children = [*self._rows(), self._message, self._answers, pictures, self._note, self._code]
        self._attempt(self._draw, self._now)

    def _complete(self, state: State) -> State:
        return complete_state({**state, "model": state["model"].strip()})

    def _code_line(self, state: State) -> str:
        return call_line("explore", state, usual(state["model"]))

    def _changed(self, change: dict[str, Any] | None = None) -> None:
        if not self._held:
            if change and change["owner"] in (self._controls["clip"], self._controls["question"]):
                self._sample.value = None  # it is no longer the sample that is on show
            self._answers.value = ""  # they were about another state
        super()._changed(change)

    def _take(self, **settings: object) -> None:
        """Set several controls, a clip that is not in the menu too, and draw once."""
        with self._together():
            clips, clip = self._controls["clip"], settings.get("clip")
            if clip and clip not in dict(clips.options).values():
                clips.options = [*clips.options, (clip, clip)]
            for name, value in settings.items():
                self._controls[name].value = value

    def _take_folder(self, folder: str) -> None:
        listed = _clip_menu(folder.strip())
        self._fixed = {"folder": folder.strip()}
        self._sample.value = None
        with self._together():
            self._controls["clip"].options = listed

    def _take_file(self, clip: str) -> None:
        if clip.strip():
            self._take(clip=clip.strip())

    def _take_sample(self, sample: Sample | None) -> None:
        if sample is not None:
            path = str(sample["clip"])
            self._take(clip=shortened(path), frames=len(read_clip(path)), encoder=MODEL, question=sample["question"])

    def _encoder(self, state: State) -> VideoModel | None:
        return self._model_of(state) if state["encoder"] == MODEL else None

    def _draw(self, state: State) -> None:
        source = (state["encoder"], state["model"], state["clip"], state["frames"])
        if source != self._source:
            self._say("reading and encoding the clip ...")
        view = build_view(state, self._encoder(state))
        room = _ROOM // len(view.reductions)
        made = [(_ledger(view, reduction), strip(view.shown, reduction, room)) for reduction in view.reductions]
        self._source = source
        show_if(False, *self._columns[len(made) :])
        for column, values in zip(self._columns, made, strict=False):
            show_if(True, column)
            for part, value in zip(column.children, values, strict=True):
                part.value = value
        line = f"{PATCHES} Tokens: {view.tokens.encoder}; frames read by {view.clip.reader}."
        if (each := math.ceil(len(view.clip) / len(view.shown))) > 1:
            line += f" A token is of {each} frames, of which the first is shown."
        self._note.value = f"<small>{html.escape(line)}</small>"
        self._say("")

    def _put_question(self, state: State) -> None:
        self._say("asking ...")
        model = self._encoder(state)
        view = build_view(state, model)
        answers, right = ask_view(state, view, model)
        if state is self._now:  # else they are about what is no longer on show
            self._answers.value = _answer_table(view, answers, right)
        self._say("")

    def _write(self, state: State) -> None:
        self._say("drawing the figure ...")
        view = build_view(state, self._encoder(state))
        figure = show(view.shown, *view.reductions, venue=state["venue"])
        made: State = {"explorer": state, "encoder": view.tokens.encoder}
        self._say_written(save_figure(figure, state["figure"], provenance=made, replace=True))

    def _arrange(self) -> None:
        show_if(self._controls["encoder"].value == MODEL, self._controls["model"])
        for budget, names in BUDGETS.items():
            show_if(self._controls["budget"].value == budget, *(self._controls[name] for name in names))

    def _rows(self) -> list[widgets.Widget]:
        c = self._controls
        return [
            row(self._folder, c["clip"], self._file, c["frames"]),
            row(c["encoder"], c["model"]),
            row(c["budget"], *(c[name] for name in _HAVE_SLIDERS)),
            row(c["method"], c["options"]),
            row(c["compare"], c["compare_options"]),
            row(self._sample, c["question"], self._ask),
            row(c["figure"], c["venue"], self._export),
        ]


def _column(**look: str) -> widgets.VBox:
    """Return a place for a reduction in words and its picture."""
    parts = widgets.HTML(layout={"min_height": "80px"}), widgets.Image(format="jpeg", layout={"width": "100%"})
    return widgets.VBox(parts, layout={"flex": "1 1 0", "min_width": "0", **look})


def _controls(state: State) -> dict[str, Any]:
    """Return a control for each setting but the folder."""
    clips, names = _clip_menu(state["folder"]), list(methods().index)
    if state["clip"] not in dict(clips).values():
        clips.append((state["clip"], state["clip"]))
    kinds = [("total ratio", "ratio"), ("time x space", "stages"), ("fidelity", "fidelity")]
    controls: dict[str, Any] = {
        "clip": menu("clip", clips, state["clip"]),
        "encoder": menu("encoder", ENCODER_NAMES, state["encoder"]),
        "model": field("model", state["model"], "a folder or hub id; empty is the bundled toy"),
        "method": menu("method", names, state["method"]),
        "compare": menu("against", [("nothing", ""), *((name, name) for name in names)], state["compare"]),
        "budget": menu("budget by", kinds, state["budget"]),
        "question": field("question", state["question"], "type one, or choose a sample"),
        "figure": field("figure", state["figure"]),
        "venue": menu("venue", list(VENUES), state["venue"]),
    }
    for name, options in (("method", "options"), ("compare", "compare_options")):
        panel = controls[options] = OptionPanel(state[name], state[options], _HAVE_SLIDERS)
        controls[name].observe(lambda change, panel=panel: panel.rebuild(change["new"], {}, _HAVE_SLIDERS), "value")
    sliders = {
        "frames": widgets.IntSlider(min=1, max=64, continuous_update=False),
        "ratio": widgets.FloatLogSlider(base=2, min=0, max=7, step=0.05),
        "temporal_ratio": widgets.FloatLogSlider(base=2, min=0, max=5, step=0.05),
        "spatial_ratio": widgets.FloatLogSlider(base=2, min=0, max=6, step=0.05),
        "min_fidelity": widgets.FloatSlider(min=0, max=1, step=0.01),
    }
    for key, slider in sliders.items():
        label = "coverage at least" if key == "min_fidelity" else key.replace("_", " ")
        controls[key] = Slider(label, state[key], slider)
    return controls


def _clip_menu(folder: str) -> list[tuple[str, str]]:
    """Return the names and paths of the clips in a folder, "" for the bundled ones."""
    if folder:
        return [(path.name, str(path)) for path in find_clips(folder)]
    return [(name, name) for name in map(shortened, find_clips())]


def _sample_menu() -> list[tuple[str, Sample | None]]:
    """Return a few samples of every kind from the bundled test set, with their texts."""
    kinds: dict[str, list[tuple[str, Sample | None]]] = {}
    for sample in sample_set():
        text = f"{sample['kind']}: {sample['question']} ({Path(str(sample['clip'])).stem})"
        kinds.setdefault(sample["kind"], []).append((text, sample))
    few = [entry for entries in kinds.values() for entry in entries[:_SAMPLES]]
    return [("none", None), *sorted(few, key=lambda entry: entry[0])]


def _ledger(view: View, reduction: Reduction) -> str:
    """Return the result in words, as HTML."""
    kept = fidelity(view.tokens, reduction, ["coverage", "coverage_p5"])
    return (
        f"<div style='line-height:1.4'><b>{html.escape(describe(reduction))}</b>: {reduction.ledger}; "
        f"coverage {kept['coverage']:.3f} (5th percentile {kept['coverage_p5']:.3f})<br>"
        f"<small>{html.escape('; '.join(reduction.notes))}</small></div>"
    )


def _answer_table(view: View, answers: list[Answer], right: str | None) -> str:
    """Return the answers with everything and with what each method kept, as an HTML table."""
    full, rows = answers[0], []
    for name, answer in zip(["everything", *map(describe, view.reductions)], answers, strict=True):
        best = sorted(answer.scores.items(), key=lambda item: -item[1])[:3]
        likely = ", ".join(f"{text or '(space)'} {probability:.2f}" for text, probability in best)
        flip = "" if answer.text == full.text else f" (flipped from {full.text!r})"
        cells = [name, f"{answer.entered} of {answer.total}", answer.text + flip, likely]
        cells.append(f"{answer_fidelity(full, answer)['kl']:.4f}")
        rows.append([*cells, *(f"{1000 * answer.seconds[stage]:.1f}" for stage in STAGES)])
    heads = ["", "tokens", "answer", "probability", "KL, nats", *(f"{stage} ms" for stage in STAGES)]
    table = pd.DataFrame(rows, columns=heads).style.hide(axis="index").format(escape="html")
    shown = table.to_html(table_attributes="class='vtc-answers'")
    return shown + (f"<p>The right answer is <b>{html.escape(right)}</b>.</p>" if right else "")
