"""The ablation panel without a browser: it runs, stops, remembers and says in words what is wrong."""

import io
import json
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ipywidgets import Box, Widget
from PIL import Image

import vtc_lab as vtc
from vtc_lab.qa.samples import BUNDLED
from vtc_lab.sweeps.store import TABLE
from vtc_lab.widgets.ablation import ablate
from vtc_lab.widgets.state import call_line
from vtc_lab.widgets.study import (
    DEFAULTS,
    comparable,
    complete_study,
    in_words,
    study_methods,
    study_samples,
)


@pytest.fixture(scope="module")
def model():
    return vtc.load_model()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A file of two questions a clip, on the test set's clips of eight frames."""
    path = tmp_path_factory.mktemp("short") / "own.jsonl"
    chosen = [s for s in vtc.read_samples() if s["frames"] == 8 and s["kind"] in ("shape", "count")]
    path.write_text("\n".join(map(json.dumps, chosen)))
    return str(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory, model, short):
    """A results file that has all of the small setting."""
    results = str(tmp_path_factory.mktemp("done") / "a.sqlite")
    state = complete_study({"clips": 2, "ratios": [1, 4], "samples": short, "results": results})
    vtc.sweep(model, study_samples(state), study_methods(state), state["ratios"], results=state["results"])
    return state["results"]


@pytest.fixture
def finished(open_panel, done, tmp_path):
    """Opens a panel on which the small setting was run before, and runs it again, which computes nothing."""
    return lambda **state: ran(open_panel(results=str(shutil.copy(done, tmp_path / "done.sqlite")), **state))


@pytest.fixture
def open_panel(tmp_path, model, short):
    """Opens panels on a results file of their own, and stops what they run."""
    panels = []

    def opened(**state):
        small = {"clips": 2, "ratios": [1, 4], "samples": short, "results": str(tmp_path / "results" / "a.sqlite")}
        panels.append(ablate(**{"model": model, **small, **state}))
        panels[-1].wait()
        return panels[-1]

    yield opened
    for panel in panels:
        panel.close()
        panel.wait()


def ran(panel):
    panel.run()
    panel.wait()
    return panel


def press(toggles, value) -> None:
    button = toggles.buttons[value]
    button.value = not button.value


def alive() -> int:
    return len(Widget.get_manager_state()["state"])


def computed(panel) -> list[int]:
    """How often each result was computed."""
    with closing(sqlite3.connect(panel.state["results"])) as connection:
        return [row[0] for row in connection.execute(f"SELECT computed FROM {TABLE}")]


def until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def errors(panel) -> str:
    return "".join(place.value for place in (panel._message, panel._line) if "vtc-error" in place.value)


@pytest.mark.slow
def test_a_run_gives_what_sweep_gives(open_panel, model):
    panel = open_panel()
    assert "nothing of this has been run yet" in panel._result.value and panel._image.layout.display == "none"
    assert "0 of 16 settings of clips are done; Run does the rest" in panel._line.value
    ran(panel)
    assert panel.message == "" and errors(panel) == ""
    assert np.asarray(Image.open(io.BytesIO(panel._image.value))).std() > 20 and panel._image.layout.display == ""
    assert "16 of 16 settings of clips are done" in panel._line.value and panel._bar.value == 1
    assert panel._stop.disabled
    state = panel.state
    expected = vtc.sweep(model, study_samples(state), study_methods(state), state["ratios"])
    facts = ["sample", "label", "ratio", "kept", "right", "said"]
    pd.testing.assert_frame_equal(panel.table[facts], expected[facts])
    assert list(dict.fromkeys(expected.label)) == ["lftr", "lftr (temporal=select)", "uniform", "random"]
    best = expected[expected.ratio == 4].groupby("label").right.mean().max()
    assert f"{100 * best:.1f}" in panel._result.value
    assert (
        f"{len(expected)} results: {len(expected)} ok, 0 at budgets that a method cannot keep, 0 failed"
        in panel._counts.value
    )


@pytest.mark.slow
def test_curves_fill_in_while_it_runs_and_stop_keeps_what_is_done(open_panel):
    panel = open_panel(clips=30, ratios=[1, 2, 4, 8])
    pictures, lines = [], []
    panel._image.observe(lambda change: pictures.append(change["new"]), "value")
    panel._bar.observe(lambda change: lines.append(change["new"]), "value")
    start = time.monotonic()
    panel.run()
    until(lambda: len(pictures) >= 3)
    assert len(set(pictures)) == len(pictures) <= 1 + time.monotonic() - start, "no more than about one in a second"
    panel.stop()
    assert "stopping" in panel._line.value or panel._latest.ended
    panel.wait()
    done, total = panel._latest.progress.done, panel._latest.progress.total
    assert 0 < done < total == 480 and lines == sorted(lines)
    assert f"{done} of {total} settings of clips are done; Run does the rest" in panel._line.value
    assert "that every setting has answered" in panel._counts.value
    rows = len(panel.table)
    assert rows == len(computed(panel))
    panel.run()
    until(lambda: panel._latest.progress and panel._latest.progress.done > done)
    panel.stop()
    panel.wait()
    assert len(panel.table) > rows and set(computed(panel)) == {1}


@pytest.mark.slow
def test_what_was_run_before_comes_back_at_once(finished, open_panel):
    panel = finished()
    first, before = panel._image.value, len(computed(panel))
    panel._controls["value"].value = "kl"
    panel.wait()
    assert panel._image.value != first and "best KL divergence (nats)" in panel._result.value
    panel._controls["value"].value = "right"
    panel._controls["clips"].value = 3
    panel.wait()
    assert "16 of 24 settings of clips are done; Run does the rest" in panel._line.value
    start = time.monotonic()
    panel._controls["clips"].value = 2
    panel.wait()
    assert time.monotonic() - start < 3 and panel._image.value == first and len(computed(panel)) == before
    again = open_panel(results=panel.state["results"])
    assert again._image.value == first and "16 of 16" in again._line.value


@pytest.mark.slow
def test_another_setting_can_be_looked_at_while_a_run_goes_on(finished):
    panel = finished()
    first = panel._image.value
    panel._controls["clips"].value = 40
    panel.run()
    panel._controls["clips"].value = 2
    panel._workers[0].idle.wait(20)
    assert panel._image.value == first and not panel._latest.ended
    until(lambda: "other settings than those on show" in panel._line.value)
    ran(panel)  # stops the other one
    assert "16 of 16 settings of clips are done" in panel._line.value and panel._image.value == first


@pytest.mark.slow
def test_no_run_outlives_its_panel(open_panel):
    panel = open_panel(clips=400)
    panel.run()
    until(lambda: panel._latest.progress)
    open_panel()  # as a cell that is run again
    panel.wait(20)
    assert panel._latest.ended and panel._stop.disabled and panel._latest.progress.done < 100
    panel.run()
    until(lambda: panel._latest.progress)
    panel.close()
    panel.wait(20)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "vtc-worker"], 5)


def test_methods_options_ratios_and_kinds_make_the_setting(open_panel):
    panel = open_panel()
    for toggles, value in (("methods", "tome"), ("methods", "pool"), ("ratios", 4), ("ratios", 32), ("kinds", "count")):
        press(panel._controls[toggles], value)
    chosen = panel._controls
    chosen["option"].value = "significance"
    press(chosen["values"].part, "attention")
    options = {c.description: c for c in chosen["options"].children}
    options["temporal_ratio"].value, options["dropped"].value = "1", "merge"
    panel.wait()
    state = panel.state
    assert state["methods"] == ["pool", "tome"] and state["ratios"] == [1, 32] and state["kinds"] == ["count"]
    fixed = {"temporal_ratio": 1, "dropped": "merge"}
    expected = [("lftr", {**fixed, "significance": value}) for value in ("distinct", "neighbours")]
    assert study_methods(state) == ["pool", "tome", *expected, "uniform", "random"]
    assert {sample["kind"] for sample in study_samples(state)} == {"count"}
    assert "significance" not in options and errors(panel) == ""
    again = eval(call_line("ablate", state, DEFAULTS).replace("vtc.", ""), {"ablate": ablate})
    assert again.state == state
    chosen["option"].value = "temporal_ratio"
    chosen["values"].part.value = "1, 2, none"
    assert panel.state["values"] == [1, 2, None] and panel.state["options"] == {"dropped": "merge"}
    chosen["ablated"].value = "tome"
    assert (panel.state["option"], panel.state["values"], panel.state["options"]) == ("scope", ["clip", "frame"], {})
    chosen["ablated"].value = ""
    assert study_methods(panel.state) == ["pool", "tome", "uniform", "random"]
    assert complete_study({"methods": ["random", "tome"]})["methods"] == ["tome"]


def test_every_control_has_a_tooltip_and_no_option_fixes_the_budget(open_panel):
    panel = open_panel(ablated="dtd", option="", values=[])
    parts = [panel._start, panel._stop, panel._export, *panel._controls.values()]
    while parts:
        assert bool(parts[0].tooltip) != isinstance(parts[0], Box), "each but boxes, which no page could show then"
        parts = [*parts[1:], *getattr(parts[0], "children", ())]
    assert "tau" not in panel._controls["options"]._controls and "tau" not in panel._controls["option"].options


def test_without_javascript_it_is_its_latest_figure(finished):
    panel = finished()
    face = panel._repr_mimebundle_()["image/png"]
    assert isinstance(face, bytes) and face == panel._image.value
    panel._image.value = b""
    assert "image/png" not in panel._repr_mimebundle_()


@pytest.mark.slow
def test_controls_that_are_replaced_are_closed(open_panel):
    before, there = alive(), []
    panel = open_panel()
    for method in ("dtd", "lftr", "dtd", "lftr"):
        panel._controls["ablated"].value = method
        panel._controls["samples"].value = str(BUNDLED) if method == "dtd" else ""
        panel.wait()
        there.append(alive())
    assert there[:2] == there[2:] and there[0] != there[1]
    panel.close()
    assert alive() == before


def test_every_setting_survives(open_panel, tmp_path):
    state = {
        **{"model": "", "samples": str(BUNDLED), "clips": 3, "kinds": ["order"], "methods": ["evs"]},
        **{"ablated": "tome", "options": {}, "option": "scope", "values": ["frame"], "ratios": [2, 3], "seeds": 2},
        **{"value": "tv", "results": str(tmp_path / "b.sqlite"), "figure": "other", "venue": "cvpr"},
    }
    assert state.keys() == DEFAULTS.keys()
    panel = open_panel(**state)
    assert panel.state == json.loads(json.dumps(state)) and errors(panel) == ""
    assert [choice[1] for choice in study_methods(panel.state)[1:2]] == [{"scope": "frame"}]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"clps": 3}, "did you mean 'clips'?"),
        ({"methods": ["tom"]}, "did you mean 'tome'"),
        ({"ablated": "lfrt"}, "did you mean 'lftr'?"),
        ({"option": "temporl"}, "did you mean 'temporal'"),
        ({"value": "rigth"}, "did you mean 'right'?"),
        ({"clips": 0}, "clips is 0; it must be at least 1"),
        ({"ratios": list(range(1, 102))}, "ratios has 101 entries; give at most 100"),
        ({"clips": "many"}, "clips is 'many'"),
        ({"ratios": 4}, "ratios is 4"),
        ({"options": {"tau": {1}}}, "plain JSON"),
    ],
)
def test_a_typo_in_code_is_an_error_with_the_nearest_name(state, words):
    with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
        ablate(**state)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"samples": "no/such.jsonl"}, "there is no file no/such.jsonl"),
        ({"kinds": ["taste"]}, "no sample is of the kinds ['taste']"),
        ({"values": []}, "no value of temporal is chosen"),
        ({"values": ["merge", "mix"]}, "temporal is 'mix'"),
        (
            {"ablated": "dtd", "option": "scope", "values": ["clip"], "options": {"tau": 0.5}},
            "tau of 'dtd' fixes the budget, which the ratios do here",
        ),
        ({"options": {"segmnts": "greedy"}}, "did you mean 'segments'"),
        ({"ratios": [0.5]}, "ratio is 0.5"),
        ({"ratios": []}, "no ratio is chosen"),
        ({"results": str(BUNDLED)}, "cannot hold the results of a sweep"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(open_panel, state, words):
    panel = open_panel(**state)
    assert words in panel.message and "\n" not in panel.message and "vtc-error" in errors(panel)
    panel.run()
    panel.wait()
    assert words in panel.message and "\n" not in panel.message and panel._stop.disabled


def test_a_wrong_setting_is_put_right(finished, short):
    panel = finished()
    picture = panel._image.value
    panel._controls["samples"].value = "no/such.jsonl"
    panel.wait()
    assert "vtc-error" in errors(panel) and panel._image.value == picture
    panel._controls["samples"].value = short
    panel.wait()
    assert errors(panel) == "" and "16 of 16" in panel._line.value


@pytest.mark.slow
def test_a_broken_clip_among_good_ones_is_counted(open_panel, tmp_path, short):
    samples = study_samples(complete_study({"clips": 3, "samples": short}))
    samples = [s | {"clip": shutil.copy(s["clip"], tmp_path)} for s in samples]
    broken_clip = Path(samples[2]["clip"])
    broken_clip.write_bytes(b"no video")
    lines = [json.dumps(sample | {"clip": sample["clip"].rpartition("/")[2]}) for sample in samples]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    panel = ran(open_panel(samples=str(tmp_path / "own.jsonl"), clips=3, value="kl"))
    table = panel.table
    broken = table["clip"].str.endswith(broken_clip.name)
    assert set(table.status[broken]) == {"error"} and set(table.status[~broken]) == {"ok"}
    assert f"{(~broken).sum()} ok, 0 at budgets that a method cannot keep, {broken.sum()} failed" in panel._counts.value
    assert broken_clip.name in panel._counts.value and panel._image.layout.display == "" and errors(panel) == ""


@pytest.mark.slow
def test_export_writes_figure_and_table(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vtc_lab.figures.export.FOLDER", "figures")  # as outside a repository
    panel = finished(figure="mine", value="kl")
    panel._export.click()
    panel.wait()
    assert panel.message.startswith(
        "wrote figures/mine as .csv, .json, .pdf, .png, .svg and figures/mine_table as .csv, .tex"
    )
    facts = json.loads((tmp_path / "figures" / "mine.json").read_text())
    assert facts["config"]["ablation"]["clips"] == 2 and facts["config"]["value"] == "kl"
    cells = pd.read_csv(tmp_path / "figures" / "mine_table.csv")
    assert set(cells.label) == {"lftr", "lftr (temporal=select)", "uniform", "random"} and set(cells.ratio) == {1, 4}
    panel._controls["figure"].value = "../outside"
    panel._export.click()
    panel.wait()
    assert "'../outside_table' cannot name" in panel.message or "'../outside' cannot name" in panel.message
    panel._controls["figure"].value = "one"
    panel._controls["clips"].value = 1
    panel._export.click()
    panel.wait()
    assert panel.message.startswith("wrote figures/one as")
    assert pd.read_csv(tmp_path / "figures" / "one_table.csv").low.isna().all(), "one clip gives no interval"
    panel._controls["figure"].value = "mine"
    for said in ("figure 'mine' shows another state (", "wrote figures/mine as"):
        panel._export.click()
        panel.wait()
        assert panel.message.startswith(said)


def test_only_samples_that_every_setting_has_answered_are_compared():
    samples = [{"clip": "a"}, {"clip": "a"}, {"clip": "b"}]
    rows = [("s1", "x"), ("s1", "y"), ("s2", "x"), ("s2", "y"), ("s3", "x")]
    table = pd.DataFrame(rows, columns=["sample", "label"])
    assert comparable(table, samples, 4)["sample"].tolist() == ["s1", "s1", "s2", "s2"]
    assert comparable(table.iloc[4:], samples, 4)["sample"].tolist() == ["s3"], "until there is one, all"
    assert comparable(table.iloc[:0], samples, 4).empty


def test_the_best_is_named_with_its_interval_and_baselines_as_such():
    cells = pd.DataFrame({"label": ["a", "uniform", "b"], "method": ["a", "uniform", "b"], "ratio": 4.0, "kept": 64.0})
    cells = cells.assign(total=256.0, mean=[0.2, 0.2, 0.3], low=[0.1, 0.1, 0.2], high=[0.3, 0.3, 0.4])
    assert in_words(cells, "kl").endswith("at 4× (64 of 256 tokens) a and uniform, a baseline, 0.200 [0.100, 0.300]")
    assert in_words(cells, "right") == "best accuracy (%): at 4× (64 of 256 tokens) b 30.0 [20.0, 40.0]"
    assert in_words(cells.assign(low=np.nan), "right").endswith("b 30.0")
    assert in_words(cells.assign(ratio=1), "right") == "no ratio above 1 has a result yet"
