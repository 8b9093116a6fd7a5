"""The explorer without a browser: every change ends in a new picture or in one sentence."""

import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from typing import Annotated

import numpy as np
import pytest
import torch
from ipywidgets import Widget
from PIL import Image

import vtc_lab as vtc
from vtc_lab.widgets.state import DEFAULTS, ask_view, build_view, call_line, complete_state, usual

SMALL = {"frames": 6, "encoder": "pixels", "clip": "data/clips/dog.mp4"}


@pytest.fixture
def explorer():
    explorer = vtc.explore(**SMALL)
    explorer.wait()
    return explorer


def change(explorer, **values) -> None:
    controls = {**explorer._controls, "file": explorer._file, "folder": explorer._folder}
    if chosen := {key: values.pop(key) for key in ("method", "compare") if key in values}:
        now = {key: explorer.state[key] for key in ("method", "compare")} | chosen
        explorer._picker.value = [now["method"], *now["compare"]]
    for name, value in values.items():
        controls[name].value = value
    explorer.wait()


def alive() -> int:
    return len(Widget.get_manager_state()["state"])


def code_line(state) -> str:
    return call_line("explore", state, usual(state["model"]))


def shown(explorer) -> tuple[bytes, ...]:
    explorer.wait()
    strips = explorer._strips
    return strips.sprite, strips.home, strips.alike


def ledgers(explorer) -> list[str]:
    return [f"{layer['label']}: {layer['ledger']}; {'; '.join(layer['notes'])}" for layer in explorer._strips.layers]


def answers(explorer) -> list[str]:
    return [row["text"] for row in explorer._charts.answer.get("rows", [])]


def test_it_opens_with_two_pictures_at_the_same_budget(explorer):
    sprite, home, alike = shown(explorer)
    frames = np.asarray(Image.open(io.BytesIO(sprite)))
    assert frames.std() > 20 and len(frames) % 6 == 0 and explorer.message == ""
    assert len(ledgers(explorer)) == 2 and all("kept 147 of 1176 tokens, 8.0x" in line for line in ledgers(explorer))
    homes = np.frombuffer(home, np.int32).reshape(2, 1176)
    for row, reduced in zip(homes, build_view(explorer.state).reductions, strict=True):
        for source in range(0, 1176, 17):
            told = reduced.explain(*map(int, np.unravel_index(source, reduced.grid)))
            anchor = -1 if told["anchor"] is None else np.ravel_multi_index(told["anchor"], reduced.grid)
            assert row[source] == anchor and (told["fate"] == "kept") == (anchor == source)
    kept = [layer["per_frame"] for layer in explorer._charts.layers]
    assert [sum(row) for row in kept] == [147, 147], "the bars add up to the budget"
    cosines = np.frombuffer(alike, np.float32).reshape(2, -1).mean(1)
    assert cosines.tolist() == pytest.approx([line["now"][1] for line in explorer._charts.curve["lines"]], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratio": 16.0}, "kept 74 of 1176"),
        ({"frames": 4}, "of 784 tokens"),
        ({"encoder": "efficientnet-lite0"}, "kept 147 of 1176"),
        ({"method": "pool"}, "pool: kept 147"),
        ({"options": {"temporal_ratio": 3}}, "kept 147 of 1176 tokens, 8.0x, 2 of 6 frames"),
        ({"options": {"min_fidelity": 0.8}}, "min_fidelity=0.8"),
        ({"options": {"temporal_ratio": 2, "spatial_ratio": 2}}, "kept 294 of 1176 tokens, 4.0x, 3 of 6 frames"),
        ({"clip": "data/clips/sintel.mp4"}, "kept 147 of 1176"),
    ],
)
def test_every_setting_changes_the_picture(explorer, values, words):
    before = shown(explorer)
    change(explorer, **values)
    assert not explorer._strips.stale and (explorer.message == "" or "finds its own budget" in explorer.message)
    assert shown(explorer) != before
    assert words in ledgers(explorer)[0]


def test_options_come_from_the_methods_signature(explorer):
    before = shown(explorer)
    explorer._controls["options"]._controls["dropped"].value = "merge"
    explorer.wait()
    assert explorer.state["options"] == {"dropped": "merge"}
    assert shown(explorer) != before and "dropped=merge" in ledgers(explorer)[0]
    change(explorer, method="random")
    assert explorer.state["options"] == {}
    assert list(explorer._controls["options"]._controls) == ["seed"]


def test_controls_that_are_replaced_are_closed():
    before, there = alive(), []
    explorer = vtc.explore(**SMALL)
    for method in ("dtd", "lftr", "dtd", "lftr"):
        change(explorer, method=method, compare=[method])
        there.append(alive())
    assert there[:2] == there[2:] and there[0] != there[1]
    change(explorer, compare=[])  # what is not on show is closed, too
    explorer.close()
    assert alive() == before


@pytest.mark.slow
def test_two_methods_always_share_one_budget(explorer):
    for options in ({}, {"temporal_ratio": 3}, {"min_fidelity": 0.8}):
        for method, other in (("lftr", "pool"), ("random", "lftr"), ("lftr", "lftr")):
            change(explorer, method=method, compare=[other], options=options if method == "lftr" else {})
            kept = [line.split("kept ")[1].split(" of")[0] for line in ledgers(explorer)]
            assert kept[0] == kept[1], (options, method, other)


def test_state_goes_out_and_in_as_json(explorer):
    change(explorer, ratio=5.0, method="random", compare=[])
    explorer._controls["options"]._controls["seed"].value = 7
    explorer.wait()
    state = json.loads(json.dumps(explorer.state))
    again = vtc.explore(**state)
    assert again.state == state and shown(again) == shown(explorer)
    line = eval(code_line(state), {"vtc": vtc})
    assert line.state == state


@pytest.mark.slow
def test_who_names_a_model_sees_its_tokens():
    assert complete_state({"model": "a/folder"})["encoder"] == "video-qa model"
    assert code_line(complete_state({"model": "a/folder"})) == "vtc.explore(model='a/folder')"
    pixels = complete_state({"model": "a/folder", "encoder": "efficientnet-lite0"})
    assert eval(code_line(pixels), {"vtc": vtc}).state == pixels
    with pytest.raises(vtc.VTCError, match="model is a int; give what load_model returns"):
        vtc.explore(3)


def test_every_setting_survives():
    state = {
        **{"clip": "data/clips/dog.mp4", "frames": 5, "encoder": "pixels", "model": "a/folder", "question": "what ?"},
        "inside": "fastv",
        "folder": "data/shapes_qa/clips",
        **{"method": "random", "options": {"seed": 3}, "compare": ["lftr", "pool"]},
        "compare_options": {"lftr": {"dropped": "merge"}},
        **{"ratio": 3.14159, "figure": "other", "venue": "cvpr", "width": "column"},
        **{"view": "lost", "measure": "retained_variance"},
    }
    assert state.keys() == DEFAULTS.keys() and all(state[key] != DEFAULTS[key] for key in DEFAULTS)
    explorer = vtc.explore(**state)
    assert explorer.message == "" and explorer.state == state
    assert state["clip"] in dict(explorer._controls["clip"].options).values(), "the menu has a clip of another folder"


def test_a_number_box_keeps_what_was_typed_and_the_slider_follows(explorer):
    change(explorer, ratio=7.125)
    assert explorer.state["ratio"] == 7.125
    slider = explorer._controls["ratio"].children[0]
    assert slider.value == 7.125
    slider.value = 2**2.85  # the page puts it at the nearest of its steps
    assert explorer.state["ratio"] == 7.125
    slider.value = 4.0
    explorer.wait()
    assert explorer.state["ratio"] == 4.0 and "kept 294 of 1176" in ledgers(explorer)[0]


def test_a_line_of_code_gives_what_the_mouse_gives(explorer):
    view = build_view(complete_state(SMALL))
    assert view.reductions[0].ledger in ledgers(explorer)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratio": 0.5}, "ratio is 0.5; it must be a number from 1 (keep all) to 1176"),
        ({"ratio": 5000.0}, "ratio is 5000.0; it must be a number from 1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"frames": 0}, "0"),
        ({"frames": 100}, "41 frames"),
        ({"file": "no/such.mp4"}, "such.mp4"),
        ({"folder": "no/such"}, "there is no folder no/such"),
        ({"options": {"min_fidelity": 1.5}}, "min_fidelity is 1.5"),
        ({"options": {"temporal_ratio": 100.0}}, "temporal_ratio is 100.0"),
        ({"figure": "../outside"}, None),
    ],
)
def test_bad_input_is_one_sentence_and_the_last_good_picture_stays(explorer, values, words):
    before = shown(explorer), ledgers(explorer)
    start = time.monotonic()
    change(explorer, **values)
    assert words is None or "folder" in values or explorer._strips.stale, "a picture of another state is dimmed"
    if words is None:  # only the export minds
        explorer._export.click()
        explorer.wait()
        words = "'../outside' cannot name a figure"
    assert time.monotonic() - start < 5
    assert words in explorer.message and "\n" not in explorer.message
    assert (shown(explorer), ledgers(explorer)) == before
    assert sum(explorer._message in box.children for box in explorer._homes) == 1
    change(explorer, **{key: (DEFAULTS | SMALL)[key] for key in values if key != "file"}, clip=SMALL["clip"])
    assert explorer.message == ""


def test_a_typo_in_code_is_an_error_with_the_nearest_name():
    for state, words in (
        ({"methd": "lftr"}, "did you mean 'method'?"),
        ({"method": "lfrt"}, "did you mean 'lftr'?"),
        ({"ratio": "8"}, "ratio is '8'"),
        ({"frames": 2.5}, "frames is 2.5"),
        ({"folder": np.array([1, 2])}, "there is no folder [1 2]"),
        ({"ratio": 10**400}, "it must be at most 1e+15"),
        ({"frames": -(10**400)}, "it must be at most 1e+15"),
        ({"options": {"seed": {1}}}, "plain JSON"),
        ({"method": ["lftr"]}, "method is ['lftr']"),
    ):
        with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
            vtc.explore(**state)
        assert words in str(error.value)
    assert "take it out of them" in vtc.explore(**SMALL, options={"ratio": 2}).message
    assert "did you mean 'greedy'?" in vtc.explore(**SMALL, options={"segments": "greedyy"}).message


@pytest.mark.slow
def test_export_writes_what_is_shown(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vtc_lab.figures.export.FOLDER", "figures")  # as outside a repository
    explorer._export.click()
    explorer.wait()
    assert "wrote" in explorer.message
    facts = json.loads((tmp_path / "figures" / "my_figure.json").read_text())
    assert facts["config"]["explorer"]["clip"] == "data/clips/dog.mp4"
    assert (tmp_path / "figures" / "my_figure.pdf").read_bytes().startswith(b"%PDF")


def test_the_latest_of_many_requests_wins_and_none_piles_up(explorer):
    drawn, draw = [], explorer._draw
    gate = threading.Event()

    def slow(state):
        gate.wait(5)
        drawn.append(state["ratio"])
        yield from draw(state)

    explorer._draw = slow
    for ratio in np.linspace(2, 20, 40):
        explorer._controls["ratio"].value = float(ratio)
    gate.set()
    explorer.wait()
    assert len(drawn) <= 2 and drawn[-1] == 20.0
    assert "kept 59 of 1176" in ledgers(explorer)[0]


def test_a_method_of_ones_own_appears(explorer):
    from vtc_lab.reducers.registry import METHODS

    @vtc.method
    def newest_first(tokens, budget, *, flip: bool = False, share: float = 0.5, tag: str = "x"):
        import torch

        return vtc.prune(tokens, torch.arange(tokens.total - budget, tokens.total))

    try:
        own = vtc.explore(**SMALL, method="newest-first", compare=[])
        assert list(own._controls["options"]._controls) == ["flip", "share", "tag"]
        assert own.message == "" and "newest-first" in ledgers(own)[0]
    finally:
        del METHODS["newest-first"]


def test_options_take_their_range_from_the_signature():
    @vtc.method
    def ranged(
        tokens,
        budget,
        *,
        share: Annotated[float, 0, 1] = 0.5,
        steps: Annotated[int, 1, 9] = 3,
        cut: Annotated[float | None, -1, 1] = None,
        above: Annotated[float, 0, math.inf] = 1.0,
        free: float = 0.5,
    ):
        return vtc.prune(tokens, torch.arange(budget))

    explorer = vtc.explore(**SMALL, method="ranged", compare=[])
    controls = explorer._controls["options"]._controls
    kinds = {key: type(control).__name__ for key, control in controls.items()}
    assert kinds == {
        **{"share": "BoundedFloatText", "steps": "BoundedIntText", "cut": "Text"},
        **{"above": "FloatText", "free": "FloatText"},
    }
    assert (controls["share"].min, controls["share"].max, controls["share"].step) == (0, 1, 0.05)
    assert (controls["steps"].min, controls["steps"].max) == (1, 9)
    controls["share"].value = 0.75
    controls["cut"].value = "-0.5"
    explorer.wait()
    assert explorer.message == "" and explorer.state["options"] == {"share": 0.75, "cut": -0.5}
    again = vtc.explore(**explorer.state)
    assert again.state == explorer.state and type(again._controls["options"]._controls["cut"]).__name__ == "Text"
    whole = vtc.explore(**SMALL, method="ranged", options={"share": 1})._controls["options"]._controls["share"]
    assert type(whole).__name__ == "BoundedFloatText", "a whole number must not turn a share into a choice of 0 or 1"
    for options, words in (
        ({"share": 3.0}, "share is 3.0; it must be a number from 0 to 1"),
        ({"share": "much"}, "share is 'much'; it must be float"),
        ({"cut": 2.0}, "cut is 2.0; it must be a number from -1 to 1"),
    ):
        assert words in vtc.explore(**SMALL, method="ranged", options=options).message


@pytest.mark.slow
def test_a_method_that_needs_saliency_says_so_or_gets_it(explorer):
    before = shown(explorer), ledgers(explorer)
    assert dict(explorer._picker.choices)["visionzip"] == "ranks tokens by attention"
    change(explorer, method="visionzip")
    assert "method 'visionzip' ranks tokens by attention" in explorer.message and "\n" not in explorer.message
    assert "efficientnet" not in explorer.message and "pixels" in explorer.message
    assert (shown(explorer), ledgers(explorer)) == before
    sample = next(value for _, value in explorer._sample.options if value)
    explorer._sample.value = sample
    explorer.wait()
    assert explorer.message == "" and "visionzip" in ledgers(explorer)[0]
    assert "saliency: attention received" in ledgers(explorer)[0]
    assert explorer._charts.answer["rows"][1]["label"] == "visionzip"
    assert dict(explorer._picker.choices)["holitom"] == "", "attention is there now"
    change(explorer, view="saliency")
    assert len(explorer._strips.saliency) == 4 * len(explorer._strips.home) // 4 // 2


@pytest.mark.slow
def test_a_sample_is_asked_with_everything_and_with_what_was_kept():
    explorer = vtc.explore(**SMALL)
    sample = next(value for _, value in explorer._sample.options if value)
    explorer._sample.value = sample
    explorer.wait()
    assert explorer.message == ""
    assert explorer.state["question"] == sample["question"] and explorer.state["encoder"] == "video-qa model"
    shown = explorer._charts.answer
    assert [row["label"] for row in shown["rows"]] == ["everything", "lftr", "uniform"]
    assert shown["right"] == sample["answer"] and shown["notes"] == []
    model, clip = vtc.load_model(), vtc.read_clip(sample["clip"])
    for ratio in (8.0, 32.0):  # the answer follows the slider
        change(explorer, ratio=ratio)
        reduced = vtc.reduce(model.encode(clip), "lftr", ratio=ratio)
        answer = model.ask(sample["question"], clip, reduced, candidates=sample["candidates"])
        row = explorer._charts.answer["rows"][1]
        assert (row["text"], row["entered"]) == (answer.text, len(reduced))
        assert row["scores"][0][1] == pytest.approx(max(answer.scores.values()), abs=1e-5)
    assert explorer._sample.value == sample
    change(explorer, measure="probability")
    (ratio, chance), line = explorer._charts.curve["lines"][0]["now"], explorer._charts.curve["lines"][0]
    assert ratio == pytest.approx(32, rel=0.01) and chance == pytest.approx(answer.scores[sample["answer"]], abs=1e-5)
    assert dict(line["points"])[32] == pytest.approx(chance, abs=1e-5)
    change(explorer, inside="fastv")
    row = explorer._charts.answer["rows"][1]
    with vtc.inside(model, "fastv"):
        cut = model.ask(sample["question"], clip, reduced, candidates=sample["candidates"])
    assert row["label"] == "lftr + fastv" and row["mean"] == cut.per_layer < row["entered"]
    assert row["scores"][0][1] == pytest.approx(max(cut.scores.values()), abs=1e-5)
    assert explorer._charts.answer["rows"][0]["mean"] is None, "everything is everything"
    change(explorer, question="how many zebras appear ?", inside="")
    assert explorer._sample.value is None
    assert explorer._charts.answer["notes"] == ["the model does not know 'zebras'"]


@pytest.mark.slow
def test_a_model_of_ones_own_is_asked_at_a_press():
    explorer = vtc.explore(vtc.load_model(), **SMALL | {"encoder": "video-qa model"}, question="what moves ?")
    explorer.wait()
    assert explorer._charts.answer["notes"] == ["press Ask for the answer"]
    explorer._ask.click()
    explorer.wait()
    assert len(answers(explorer)) == 3 and "Ask" not in str(explorer._charts.answer["notes"])


@pytest.mark.slow
def test_the_ratio_at_which_the_answer_flips_is_found():
    sample = next(s for s in vtc.read_samples() if s["kind"] == "colour")
    explorer = vtc.explore(
        clip=str(sample["clip"]), frames=len(vtc.read_clip(sample["clip"])), encoder="video-qa model"
    )
    change(explorer, question=sample["question"], compare=["uniform", "random"])
    explorer._flips.click()
    explorer.wait()
    assert explorer.message == "" and explorer._charts.answer["notes"][0].startswith("flips: lftr")
    model, full = vtc.load_model(), explorer._charts.answer["rows"][0]["text"]
    clip, found = vtc.read_clip(sample["clip"]), 0
    for line in explorer._charts.curve["lines"]:
        if line["flip"]:
            found += 1
            reduced = vtc.reduce(model.encode(clip), line["label"], ratio=line["flip"])
            assert model.ask(sample["question"], clip, reduced, candidates=sample["candidates"]).text != full
    assert found, "one of three methods flips up to 64x"


@pytest.mark.slow
def test_a_drawing_that_was_overtaken_asks_nothing(monkeypatch):
    explorer = vtc.explore(**SMALL)
    drawn, draw = [], explorer._draw
    explorer._draw = lambda state: (drawn.append(state), draw(state))[1]
    explorer._sample.value = explorer._sample.options[1][1]
    explorer.wait()
    assert len(drawn) == 1 and explorer.message == ""
    gate, asked = threading.Event(), []

    def slow(state, *given):
        asked.append(state["ratio"])
        gate.wait(10)
        return ask_view(state, *given)

    monkeypatch.setattr("vtc_lab.widgets.explorer.ask_view", slow)
    explorer._controls["ratio"].value = 4.0
    end = time.monotonic() + 20
    while not asked and time.monotonic() < end:
        time.sleep(0.01)
    explorer._controls["ratio"].value = 5.0
    explorer._controls["ratio"].value = 3.0
    gate.set()
    explorer.wait()
    assert asked == [4.0, 3.0], "the answer at 5x was overtaken"
    assert explorer._charts.answer["rows"][1]["entered"] == 1045


def test_the_curve_sets_the_ratio_and_has_the_points_of_a_plain_loop(explorer):
    explorer._clicked({"ratio": 5.5})
    explorer.wait()
    assert explorer.state["ratio"] == 5.5
    curve, tokens = explorer._charts.curve, build_view(explorer.state).tokens
    assert curve["ratio"] == pytest.approx(1176 / 214) and curve["label"] == "coverage"
    for line in curve["lines"]:
        assert len(line["points"]) == 13
        for ratio, value in line["points"][::4]:
            reduced = vtc.reduce(tokens, line["label"], ratio=ratio)
            assert value == pytest.approx(vtc.fidelity(tokens, reduced)["coverage"])


def test_a_method_that_cannot_run_is_left_out_with_the_reason(explorer):
    assert "keeps the whole first frame" in dict(explorer._picker.choices)["dtd"]
    change(explorer, compare=["uniform", "dtd", "visionzip"])
    assert "dtd: method 'dtd' keeps the whole first frame" in explorer.message
    assert "visionzip: ranks tokens by attention" in explorer.message
    assert [layer["label"] for layer in explorer._strips.layers] == ["lftr", "uniform"]
    change(explorer, ratio=4.0, compare=["uniform", "dtd"])
    assert explorer.message == "" and len(ledgers(explorer)) == 3
    assert dict(explorer._picker.choices)["dtd"] == ""
    line = next(line for line in explorer._charts.curve["lines"] if line["label"] == "dtd")
    assert max(ratio for ratio, _ in line["points"]) < 6, "no point below the minimum budget"
    with pytest.raises(vtc.VTCError, match="give up to 3 methods, each once"):
        vtc.explore(**SMALL, compare=["uniform", "uniform"])


def test_a_session_is_saved_and_loaded(explorer, tmp_path):
    change(explorer, method="random", compare=["pool"], ratio=5.0, view="difference")
    explorer._controls["options"]._controls["seed"].value = 7
    state, picture = explorer.state, shown(explorer)
    explorer._session.value = str(tmp_path / "sessions" / "one.json")
    explorer._save.click()
    assert "wrote" in explorer.message
    other = vtc.explore(frames=4, encoder="pixels")
    other._session.value = explorer._session.value
    other._load.click()
    other.wait()
    explorer.wait()
    assert other.message == "" and other.state == state and other._strips.home == explorer._strips.home
    assert picture[0] == other._strips.sprite
    (tmp_path / "sessions" / "one.json").write_text("[1]")
    other._load.click()
    assert "is no session" in other.message


def test_it_has_a_static_face(explorer):
    bundle = explorer._repr_mimebundle_()
    face = Image.open(io.BytesIO(bundle["image/png"]))
    assert face.width == 900 and np.asarray(face.convert("L")).std() > 20
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.slow
def test_export_asks_before_it_replaces_a_figure_of_another_state(explorer, tmp_path, monkeypatch):
    monkeypatch.setattr("vtc_lab.figures.export.FOLDER", tmp_path)

    def export() -> str:
        explorer._export.click()
        explorer.wait()
        return explorer.message

    assert "wrote" in export() and "wrote" in export(), "the same state again"
    first = (tmp_path / "my_figure.json").read_bytes()
    change(explorer, ratio=4.0)
    assert "shows another state (" in export() and "press Export again" in explorer.message
    assert (tmp_path / "my_figure.json").read_bytes() == first
    change(explorer, ratio=3.0)
    assert "press Export again" in export(), "a change withdraws the consent"
    assert "wrote" in export()
    assert explorer._charts.exported["latex"].startswith("\\includegraphics[width=\\textwidth]")
    assert explorer._charts.exported["thumbnail"].startswith("data:image/jpeg;base64,")


@pytest.mark.slow
def test_export_shows_the_state_in_which_it_was_asked_for(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vtc_lab.figures.export.FOLDER", "figures")
    explorer._export.click()
    explorer._controls["ratio"].value = 4.0
    explorer.wait()
    facts = json.loads((tmp_path / "figures" / "my_figure.json").read_text())
    assert facts["config"]["explorer"]["ratio"] == 8.0 and "kept 294" in ledgers(explorer)[0]


def test_a_given_model_that_was_changed_is_shown_as_it_is_now():
    model = vtc.load_model()
    before = shown(vtc.explore(model, frames=4))[2]
    with torch.no_grad():
        for weights in model.network.parameters():
            weights.mul_(1.5)
    assert shown(vtc.explore(model, frames=4))[2] != before


def test_what_cannot_be_asked_is_said(explorer):
    change(explorer, question="what moves ?")
    explorer._ask.click()
    explorer.wait()
    assert "cannot answer; choose 'video-qa model'" in explorer.message
    change(explorer, encoder="video-qa model", question="")
    explorer._ask.click()
    explorer.wait()
    assert explorer.message == "there is no question; choose a sample or type one"
    change(explorer, measure="kl")
    assert explorer.message == "the curve of kl needs a question and the encoder 'video-qa model'"


def test_a_papers_own_mode_finds_its_budget():
    """An option that takes the place of a budget is obeyed, and the second method gets the budget it led to."""
    explorer = vtc.explore(frames=4, encoder="pixels", method="dtd", options={"tau": 0.9}, compare="uniform", ratio=8)
    explorer.wait()
    assert explorer.message == "dtd (tau=0.9) finds its own budget, so the ratio has no effect"
    view = build_view(explorer.state)
    alone = vtc.reduce(view.tokens, "dtd", tau=0.9)
    assert [len(reduced) for reduced in view.reductions] == [len(alone)] * 2
    assert len(alone) != view.tokens.total // 8


def test_sessions_are_files_that_save_wrote(tmp_path):
    explorer = vtc.explore(encoder="pixels", frames=2, question="<b>?</b>")
    good = explorer.save(tmp_path / "good.json")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b" " * 2_000_000)
    (tmp_path / "deep").write_bytes(b"[" * 200_000)
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("fifo", "null", "large", "deep", "list", "mine.txt", "."):
        for door in (explorer.load, explorer.save):
            with pytest.raises(vtc.VTCError, match="is no session"):
                door(tmp_path / name)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    good.write_text(good.read_text().replace('"venue"', '"paper"'))
    with pytest.raises(vtc.VTCError, match="no setting 'paper'"):
        explorer.load(good)
    explorer.save(good)
    explorer.load(good)
    explorer.close()


@pytest.mark.slow
def test_python_ends_while_the_curve_is_computed():
    """A thread that is inside torch when Python ends would abort the process."""
    code = """
import time
import vtc_lab as vtc
explorer = vtc.explore(frames=32, encoder="video-qa model", compare=["divprune", "tome"])
while not explorer._charts.curve:
    time.sleep(0.01)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
