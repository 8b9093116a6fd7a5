"""The explorer without a browser: every change ends in a new picture or in one sentence."""

import io
import json
import math
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
    return vtc.explore(**SMALL)


def change(explorer, **values) -> None:
    controls = {**explorer._controls, "file": explorer._file, "folder": explorer._folder}
    for name, value in values.items():
        controls[name].value = value
    explorer.wait()


def alive() -> int:
    return len(Widget.get_manager_state()["state"])


def code_line(state) -> str:
    return call_line("explore", state, usual(state["model"]))


def on_show(explorer) -> list:
    return [column for column in explorer._columns if column.layout.display != "none"]


def shown(explorer) -> list[bytes]:
    return [column.children[1].value for column in on_show(explorer)]


def ledgers(explorer) -> list[str]:
    return [column.children[0].value for column in on_show(explorer)]


def test_it_opens_with_two_pictures_at_the_same_budget(explorer):
    assert len(shown(explorer)) == 2 and explorer.message == ""
    for data in shown(explorer):
        assert np.asarray(Image.open(io.BytesIO(data))).std() > 20
    assert all("kept 147 of 1176 tokens, 8.0x" in line for line in ledgers(explorer))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratio": 16.0}, "kept 74 of 1176"),
        ({"frames": 4}, "of 784 tokens"),
        ({"encoder": "efficientnet-lite0"}, "kept 147 of 1176"),
        ({"method": "pool"}, "pool</b>: kept 147"),
        ({"budget": "stages"}, "kept 147 of 1176 tokens, 8.0x, 2 of 6 frames"),
        ({"budget": "fidelity"}, "min_fidelity=0.8"),
        ({"clip": "data/clips/sintel.mp4"}, "kept 147 of 1176"),
    ],
)
def test_every_setting_changes_the_picture(explorer, values, words):
    before = shown(explorer)[0]
    change(explorer, **values)
    assert explorer.message == ""
    assert shown(explorer)[0] != before
    assert words in ledgers(explorer)[0]


def test_options_come_from_the_methods_signature(explorer):
    before = shown(explorer)[0]
    change(explorer, budget="stages")
    explorer._controls["options"]._controls["dropped"].value = "merge"
    explorer.wait()
    assert explorer.state["options"] == {"dropped": "merge"}
    assert shown(explorer)[0] != before and "dropped=merge" in ledgers(explorer)[0]
    change(explorer, method="random")
    assert explorer.state["options"] == {}
    assert list(explorer._controls["options"]._controls) == ["seed"]


def test_controls_that_are_replaced_are_closed():
    before, there = alive(), []
    explorer = vtc.explore(**SMALL)
    for method in ("dtd", "lftr", "dtd", "lftr"):
        change(explorer, method=method, compare=method)
        there.append(alive())
    assert there[:2] == there[2:] and there[0] != there[1]
    change(explorer, compare="")  # what is not on show is closed, too
    explorer.close()
    assert alive() == before


@pytest.mark.slow
def test_two_methods_always_share_one_budget(explorer):
    for budget in ("ratio", "stages", "fidelity"):
        for method, other in (("lftr", "pool"), ("random", "lftr"), ("lftr", "lftr")):
            change(
                explorer,
                method=method,
                compare=other,
                **({"budget": budget} if method == "lftr" else {"budget": "ratio"}),
            )
            assert explorer.message == ""
            kept = [line.split("kept ")[1].split(" of")[0] for line in ledgers(explorer)]
            assert kept[0] == kept[1], (budget, method, other)


def test_state_goes_out_and_in_as_json(explorer):
    change(explorer, ratio=5.0, method="random", compare="")
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
        "folder": "data/shapes_qa/clips",
        **{"method": "random", "options": {"seed": 3}, "compare": "lftr", "compare_options": {"dropped": "merge"}},
        **{"budget": "stages", "ratio": 3.14159, "temporal_ratio": 2.718, "spatial_ratio": 1.618},
        **{"min_fidelity": 0.995, "figure": "other", "venue": "cvpr"},
    }
    assert state.keys() == DEFAULTS.keys() and all(state[key] != DEFAULTS[key] for key in DEFAULTS)
    explorer = vtc.explore(**state)
    assert explorer.message == "" and explorer.state == state
    assert state["clip"] in dict(explorer._controls["clip"].options).values(), "the menu has a clip of another folder"


def test_a_number_box_keeps_what_was_typed_and_the_slider_follows(explorer):
    change(explorer, ratio=7.125, min_fidelity=0.995)
    assert (explorer.state["ratio"], explorer.state["min_fidelity"]) == (7.125, 0.995)
    slider = explorer._controls["ratio"].children[0]
    assert slider.value == 7.125
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
        # the bad value first: the budget alone would already draw another picture
        ({"min_fidelity": 1.5, "budget": "fidelity"}, "min_fidelity is 1.5"),
        ({"temporal_ratio": 100.0, "budget": "stages"}, "temporal_ratio is 100.0"),
        ({"figure": "../outside"}, None),
    ],
)
def test_bad_input_is_one_sentence_and_the_last_good_picture_stays(explorer, values, words):
    before = shown(explorer), ledgers(explorer)
    start = time.monotonic()
    change(explorer, **values)
    if words is None:  # only the export minds
        explorer._export.click()
        explorer.wait()
        words = "'../outside' cannot name a figure"
    assert time.monotonic() - start < 5
    assert words in explorer.message and "\n" not in explorer.message
    assert (shown(explorer), ledgers(explorer)) == before
    change(explorer, **{key: (DEFAULTS | SMALL)[key] for key in values if key != "file"}, clip=SMALL["clip"])
    assert explorer.message == ""


def test_a_typo_in_code_is_an_error_with_the_nearest_name():
    for state, words in (
        ({"methd": "lftr"}, "did you mean 'method'?"),
        ({"method": "lfrt"}, "did you mean 'lftr'?"),
        ({"ratio": "8"}, "ratio is '8'"),
        ({"frames": 2.5}, "frames is 2.5"),
        ({"options": {"seed": {1}}}, "plain JSON"),
        ({"method": ["lftr"]}, "method is ['lftr']"),
    ):
        with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
            vtc.explore(**state)
        assert words in str(error.value)
    by_fidelity = vtc.explore(**SMALL, budget="fidelity", method="uniform")
    assert "'uniform' cannot find a budget by fidelity" in by_fidelity.message
    for budget, options in (("ratio", {"ratio": 2}), ("stages", {"temporal_ratio": 2})):
        assert "take it out of options" in vtc.explore(**SMALL, budget=budget, options=options).message
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
        draw(state)
        drawn.append(explorer.state["ratio"])

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
        own = vtc.explore(**SMALL, method="newest-first", compare="")
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

    explorer = vtc.explore(**SMALL, method="ranged", compare="")
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


def test_a_method_that_needs_saliency_says_so_or_gets_it(explorer):
    before = shown(explorer), ledgers(explorer)
    change(explorer, method="visionzip")
    assert "method 'visionzip' ranks tokens by attention" in explorer.message and "\n" not in explorer.message
    assert "efficientnet" not in explorer.message and "pixels" in explorer.message
    assert (shown(explorer), ledgers(explorer)) == before
    sample = next(value for _, value in explorer._sample.options if value)
    explorer._sample.value = sample
    explorer.wait()
    assert explorer.message == "" and "visionzip" in ledgers(explorer)[0]
    assert "saliency: attention received" in ledgers(explorer)[0]
    explorer._ask.click()
    explorer.wait()
    assert explorer.message == "" and "visionzip" in explorer._answers.value


def test_a_sample_is_asked_with_everything_and_with_what_was_kept():
    explorer = vtc.explore(**SMALL)
    sample = next(value for _, value in explorer._sample.options if value)
    explorer._sample.value = sample
    explorer.wait()
    assert explorer.message == ""
    assert explorer.state["question"] == sample["question"] and explorer.state["encoder"] == "video-qa model"
    explorer._ask.click()
    explorer.wait()
    table = explorer._answers.value
    assert explorer.message == "" and "everything" in table and "lftr" in table and "uniform" in table
    assert f"The right answer is <b>{sample['answer']}</b>" in table
    change(explorer, ratio=4.0)
    assert explorer._answers.value == "" and explorer._sample.value == sample
    change(explorer, question="how many objects appear ?")
    assert explorer._sample.value is None


def test_a_sample_is_drawn_once_and_an_answer_about_another_state_is_not_shown(monkeypatch):
    explorer = vtc.explore(**SMALL)
    drawn, draw = [], explorer._draw
    explorer._draw = lambda state: (drawn.append(state), draw(state))
    explorer._sample.value = explorer._sample.options[1][1]
    explorer.wait()
    assert len(drawn) == 1 and explorer.message == ""
    gate = threading.Event()
    monkeypatch.setattr("vtc_lab.widgets.explorer.ask_view", lambda *given: gate.wait(10) and ask_view(*given))
    explorer._ask.click()
    explorer._controls["ratio"].value = 3.0
    gate.set()
    explorer.wait()
    assert explorer._answers.value == "" and explorer.message == "" and "kept 1045" in ledgers(explorer)[0]


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
    before = ledgers(vtc.explore(model, frames=4))
    with torch.no_grad():
        for weights in model.network.parameters():
            weights.mul_(1.5)
    assert ledgers(vtc.explore(model, frames=4)) != before


def test_what_cannot_be_asked_is_said(explorer):
    explorer._ask.click()
    explorer.wait()
    assert "cannot answer; choose 'video-qa model'" in explorer.message
    change(explorer, encoder="video-qa model")
    explorer._ask.click()
    explorer.wait()
    assert explorer.message == "there is no question; choose a sample or type one"


def test_a_papers_own_mode_finds_its_budget():
    """An option that takes the place of a budget is obeyed, and the second method gets the budget it led to."""
    explorer = vtc.explore(frames=4, encoder="pixels", method="dtd", options={"tau": 0.9}, compare="uniform", ratio=8)
    explorer.wait()
    assert explorer.message == ""
    view = build_view(explorer.state)
    alone = vtc.reduce(view.tokens, "dtd", tau=0.9)
    assert [len(reduced) for reduced in view.reductions] == [len(alone)] * 2
    assert len(alone) != view.tokens.total // 8
