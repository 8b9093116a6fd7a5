"""The explorer: choose a clip, move a slider, see what is dropped, export the figure.

The way of a change: widget -> state (a dict) -> scene (cached) -> bytes -> picture. Cheap enough to follow a
slider, it runs on one worker thread that always takes the latest state; no `Output` widget is on the way, because
those swallow exceptions.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as widgets

from vtc_lab.clips.reading import ROOT, read_clip
from vtc_lab.figures.export import save_figure
from vtc_lab.figures.filmstrip import describe, show, strip
from vtc_lab.measures import answer_fidelity, fidelity
from vtc_lab.sweeps.run import STAGES
from vtc_lab.tokens import Reduction, VTCError
from vtc_lab.widgets.controls import OWN_FILE, OptionPanel, clip_menu, make_controls, sample_menu
from vtc_lab.widgets.state import MODEL, Scene, ask_scene, build_scene, code_line, complete_state, name_of
from vtc_lab.widgets.worker import Worker, explain

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

_ROOM = 1120  # pixels in a row, shared by the methods on show
_LEGEND = "As it is: kept. Dark and hatched: dropped. Tinted: merged into the patch with a dot of that colour."
_FOR_BUDGET = {"ratio": ["ratio"], "stages": ["temporal_ratio", "spatial_ratio"], "fidelity": ["min_fidelity"]}


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
        For an unknown setting. What is wrong with a value is said in the widget.

    Examples
    --------
    >>> explore(frames=4, encoder="pixels", ratio=4).state["ratio"]
    4.0
    """
    name, given = name_of(model), None if isinstance(model, str) else model
    chosen = {"encoder": MODEL} if given else {}
    return Explorer(complete_state({**chosen, **state, "model": name}), given)


class Explorer(widgets.VBox):
    """The widget; `state` is what it shows, as a dict that `explore(**state)` takes."""

    def __init__(self, state: dict[str, object], model: VideoModel | None = None) -> None:
        self._model, self._folder = model, state["folder"]
        self._controls, self._rows = make_controls(state)
        self._worker = Worker()
        self._images = [widgets.Image(format="jpeg", layout=widgets.Layout(width="100%")) for _ in range(2)]
        self._ledgers = [widgets.HTML(layout=widgets.Layout(min_height="80px")) for _ in range(2)]
        self._message, self._code, self._answers = widgets.HTML(), widgets.HTML(), widgets.HTML()
        apart = {"border_left": "2px solid #bbb", "padding": "0 0 0 12px", "margin": "0 0 0 12px"}
        self._panels = [
            widgets.VBox([ledger, image], layout=widgets.Layout(flex="1 1 0", min_width="0", **look))
            for ledger, image, look in zip(self._ledgers, self._images, ({}, apart), strict=True)
        ]
        self._pictures = widgets.HBox(self._panels)
        self._export = widgets.Button(description="Export", icon="download", button_style="primary")
        self._export.on_click(lambda _: self._worker.queue(partial(self._attempt, self._write_figure, self._now)))
        self._ask = widgets.Button(description="Ask", icon="question", button_style="success")
        self._ask.on_click(lambda _: self._worker.queue(partial(self._attempt, self._put_question, self._now)))
        self._sample = sample_menu()
        self._sample.observe(self._take_sample, "value")
        self._options = {"options": OptionPanel(state["method"], state["options"], self._changed)}
        self._options["compare_options"] = OptionPanel(state["compare"], state["compare_options"], self._changed)
        for control in self._controls.values():
            control.observe(self._changed, "value")
        self._last, self._said, self._held = None, "", False
        self._now = self.state  # of the latest change; whoever works in another thread gets it and reads no control
        self._arrange()
        super().__init__([self._panel(), self._message, self._answers, self._pictures, self._code])
        self._attempt(self._draw, self._now)

    @property
    def state(self) -> dict[str, object]:
        """Every setting, as plain JSON values."""
        state = {key: control.value for key, control in self._controls.items() if key != "own_file"}
        if state["clip"] == OWN_FILE:
            state["clip"] = self._controls["own_file"].value
        state.update({key: panel.values for key, panel in self._options.items()})
        return complete_state({**state, "folder": self._folder, "model": state["model"].strip()})

    @property
    def message(self) -> str:
        """What the explorer has to say at the moment: an error, or what was exported, or nothing."""
        return self._said

    def wait(self, seconds: float = 30.0) -> None:
        """Return once the picture shows the latest state.

        Raises
        ------
        VTCError
            If that takes longer.
        """
        if not self._worker.idle.wait(seconds):
            raise VTCError(f"the explorer is still at work after {seconds:g} s; wait longer")

    def _changed(self, change: dict) -> None:
        if change["owner"] in (self._controls["method"], self._controls["compare"]):
            name = "options" if change["owner"] is self._controls["method"] else "compare_options"
            self._options[name].rebuild(change["new"], {})
        if self._held or (change["owner"] is self._controls["folder"] and not self._take_folder(change["new"])):
            return
        if change["owner"] in [self._controls[name] for name in ("clip", "own_file", "question")]:
            self._sample.value = None  # it is no longer the sample that is on show
        self._refresh()

    def _refresh(self) -> None:
        self._now = self.state
        self._arrange()
        self._answers.value = ""  # they were about another state
        self._worker.request(partial(self._attempt, self._draw, self._now))

    def _attempt(self, job: Callable[[dict[str, object]], None], state: dict[str, object]) -> None:
        """Do a job for a state, or say what was wrong."""
        try:
            job(state)
        except Exception as error:
            self._say(*explain(error))

    def _draw(self, state: dict[str, object]) -> None:
        """Show a state; on an error the last good picture stays."""
        if not state["clip"]:
            self._say("type the path of a video into the field beside the menu, and press Enter")
            return
        source = (state["encoder"], state["model"], state["clip"], state["frames"])
        if source != self._last:
            loaded = state["encoder"] != MODEL or (self._last or ())[:2] == source[:2]
            first = "" if loaded else f"loading {state['model'] or 'the bundled model'}, "
            self._say(f"{first}reading and encoding the clip ...")
        scene = self._scene(state)
        room = _ROOM // len(scene.reductions)
        pictures = [strip(scene.shown, reduction, room) for reduction in scene.reductions]
        ledgers = [_ledger(scene, reduction) for reduction in scene.reductions]
        self._last = source
        for panel, (image, ledger) in enumerate(zip(pictures, ledgers, strict=True)):
            self._images[panel].value, self._ledgers[panel].value = image, ledger
        self._pictures.children = self._panels[: len(pictures)]
        source_line = f"{_LEGEND} Tokens: {scene.tokens.encoder}; frames read by {scene.clip.reader}."
        if (each := math.ceil(len(scene.clip) / len(scene.shown))) > 1:
            source_line += f" A token is of {each} frames, of which the first is shown."
        self._code.value = f"<small>{html.escape(source_line)}</small><br><code>{html.escape(code_line(state))}</code>"
        self._say("")

    def _take_sample(self, change: dict) -> None:
        """Set clip, frames, encoder and question to those of a sample; one drawing follows, for the last of them."""
        sample = change["new"]
        if sample is None:
            return
        path = Path(sample["clip"])
        try:
            frames = len(read_clip(path))
        except VTCError as error:
            self._say(*explain(error))
            return
        self._held = True
        self._controls["own_file"].value = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
        self._controls["clip"].value = OWN_FILE
        self._controls["frames"].value = frames
        self._controls["encoder"].value = MODEL
        self._controls["question"].value = sample["question"]
        self._held = False
        self._refresh()

    def _take_folder(self, folder: str) -> bool:
        """Put the clips of another folder into the menu and choose the first; say so if there is none."""
        folder = folder.strip()
        try:
            listed = clip_menu(folder)
        except VTCError as error:
            self._say(*explain(error))
            return False
        self._folder, self._held = folder, True
        self._controls["clip"].options = listed
        self._controls["clip"].value = listed[0][1]
        self._held, self._sample.value = False, None
        return True

    def _scene(self, state: dict[str, object]) -> Scene:
        given = self._model is not None and state["model"] == name_of(self._model)
        return build_scene(state, self._model if given else None)

    def _put_question(self, state: dict[str, object]) -> None:
        self._say("asking ...")
        scene = self._scene(state)
        answers, right = ask_scene(state, scene)
        if state is self._now:  # else they are about what is no longer on show
            self._answers.value = _answer_table(scene, answers, right)
        self._say("")

    def _write_figure(self, state: dict[str, object]) -> None:
        self._say("drawing the figure ...")
        scene = self._scene(state)
        figure = show(scene.shown, *scene.reductions, venue=state["venue"])
        provenance = {"explorer": state, "encoder": scene.tokens.encoder}
        paths = save_figure(figure, state["figure"], provenance=provenance)
        folder = next(iter(paths.values())).parent
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        self._say(f"wrote {shown}/{state['figure']} as {', '.join(sorted(paths))}")

    def _say(self, text: str, kind: str = "said") -> None:
        self._said = text
        style = "color:#b00020;font-weight:600" if kind == "error" else "color:#444"
        self._message.value = f'<div class="vtc-{kind}" style="{style};white-space:pre-wrap">{html.escape(text)}</div>'

    def _arrange(self) -> None:
        """Show the controls that count in the present state."""
        self._rows["model"].layout.display = "" if self._controls["encoder"].value == MODEL else "none"
        self._rows["own_file"].layout.display = "" if self._controls["clip"].value == OWN_FILE else "none"
        for kind, names in _FOR_BUDGET.items():
            for name in names:
                self._rows[name].layout.display = "" if self._controls["budget"].value == kind else "none"

    def _panel(self) -> widgets.Widget:
        r = self._rows
        rows = [
            [r["folder"], r["clip"], r["own_file"], r["frames"]],
            [r["encoder"], r["model"]],
            [r["budget"], r["ratio"], r["temporal_ratio"], r["spatial_ratio"], r["min_fidelity"]],
            [r["method"], self._options["options"].box],
            [r["compare"], self._options["compare_options"].box],
            [self._sample, r["question"], self._ask],
            [r["figure"], r["venue"], self._export],
        ]
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        return widgets.VBox([widgets.HBox(row, layout=wrap) for row in rows])


def _ledger(scene: Scene, reduction: Reduction) -> str:
    """The result in words, as HTML."""
    kept = fidelity(scene.tokens, reduction, ["coverage", "coverage_p5"])
    return (
        f"<div style='line-height:1.4'><b>{html.escape(describe(reduction))}</b>: {reduction.ledger}; "
        f"coverage {kept['coverage']:.3f} (5th percentile {kept['coverage_p5']:.3f})<br>"
        f"<small>{html.escape('; '.join(reduction.notes))}</small></div>"
    )


def _answer_table(scene: Scene, answers: list, right: str | None) -> str:
    """The answers with everything and with what each method kept, as an HTML table, and whether one flipped."""
    full = answers[0]
    names = ["everything", *(describe(reduction) for reduction in scene.reductions)]
    rows = []
    for name, answer in zip(names, answers, strict=True):
        best = sorted(answer.scores.items(), key=lambda item: -item[1])[:3]
        likely = ", ".join(f"{text or '(space)'} {probability:.2f}" for text, probability in best)
        flip = "" if answer.text == full.text else f" (flipped from {full.text!r})"
        cells = [name, f"{answer.entered} of {answer.total}", answer.text + flip, likely]
        cells.append(f"{answer_fidelity(full, answer)['kl']:.4f}")
        cells += [f"{1000 * answer.seconds[stage]:.1f}" for stage in STAGES]
        weight = "600" if flip else "400"
        row = "".join(f"<td style='padding-right:14px'>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr style='font-weight:{weight}'>{row}</tr>")
    heads = ("", "tokens", "answer", "probability", "KL, nats", *(f"{stage} ms" for stage in STAGES))
    head = "".join(f"<th style='text-align:left;padding-right:14px'>{text}</th>" for text in heads)
    truth = f"<p>The right answer is <b>{html.escape(right)}</b>.</p>" if right else ""
    return f"<table class='vtc-answers'><tr>{head}</tr>{''.join(rows)}</table>{truth}"
