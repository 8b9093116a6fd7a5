"""Samples of benchmarks in a sweep: parts of videos are read, and answers are scored by the sample's own rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vtc_lab as vtc

CLIP = "data/shapes_qa/clips/00023.mp4"
QUESTION = "how many objects appear ?"


@pytest.fixture(scope="module")
def model():
    return vtc.load_model()


def sample(**more: object) -> dict[str, object]:
    return {"clip": CLIP, "question": QUESTION, "answer": "two", **more}


@pytest.mark.slow
def test_parts_of_one_video_are_clips_of_their_own(model, tmp_path) -> None:
    length = float(vtc.read_clip(CLIP).times[-1])
    asked = [sample(), sample(start=0, end=length / 3), sample(start=2 * length / 3), sample(end=length / 3, start=0.0)]
    table = vtc.sweep(model, asked, ["random"], [2], results=tmp_path / "results.sqlite")
    assert set(table.status) == {"ok"} and set(table["clip"]) == {CLIP}
    assert table["sample"].nunique() == 3 and table["sample"][1] == table["sample"][3]
    for one, row in zip(asked, table.itertuples(), strict=True):
        clip = vtc.read_sample_clip(one)
        assert row.total == model.encode(clip).total
        assert row.said == model.ask(QUESTION, clip, vtc.reduce(model.encode(clip), "random", ratio=2)).text
    again = vtc.sweep(model, asked[2:3], ["random"], [2], results=tmp_path / "results.sqlite")
    assert again.prefill_s[0] == table.prefill_s[2]  # read back, and not the whole clip's


@pytest.mark.slow
def test_how_it_is_read_and_asked(model, tmp_path) -> None:
    path, rows = tmp_path / "results.sqlite", {}
    length = float(vtc.read_clip(CLIP).times[-1])
    ways = [{}, {"frames": 4}, {"fps": 2}, {"fps": 2.0}, {"positions": "compact"}, {"max_new_tokens": np.int64(1)}]
    for number, way in enumerate(ways):
        table = vtc.sweep(model, [sample(), sample(clip=vtc.read_clip(CLIP, 3))], ["uniform"], [2], results=path, **way)
        assert set(table.status) == {"ok"} and table.frames[1] == 3 and table["sample"].nunique() == 2
        clip = vtc.read_clip(CLIP, way.get("frames"), way.get("fps"))
        how = {key: value for key, value in way.items() if key in ("positions", "max_new_tokens")}
        how |= {key: int(value) for key, value in how.items() if key == "max_new_tokens"}
        answer = model.ask(QUESTION, clip, vtc.reduce(model.encode(clip), "uniform", ratio=2), **how)
        full = model.ask(QUESTION, clip, **how)
        row = table.iloc[0]
        assert row.frames == len(clip) and row.said == answer.text and row.total == answer.total
        assert row.kl == pytest.approx(vtc.answer_fidelity(full, answer)["kl"], abs=1e-4)
        rows[number] = row
    assert rows[1].frames == 4 and rows[2].frames == int(length * 2) + 1 and rows[0].frames not in (4, rows[2].frames)
    assert rows[4].kl != rows[0].kl
    asked = ["", '{"frames": 4}', '{"fps": 2}', '{"fps": 2}', '{"positions": "compact"}', '{"max_new_tokens": 1}']
    assert [row.asked for row in rows.values()] == asked
    assert rows[2].equals(rows[3])  # read back
    stored = vtc.read_results(path)
    assert sorted(stored.asked) == sorted(set(asked))  # of each way what was written last about this file
    with pytest.raises(vtc.VTCError, match="asked for in 5 ways"):  # they are no repetitions of each other
        vtc.bootstrap_interval(stored, "kl")
    short = vtc.sweep(model, [sample()], ["uniform"], [2], frames=1000)
    assert short.status[0] == "error" and "not 1000" in short.error[0] and short.frames.isna()[0]


@pytest.mark.slow
def test_what_a_benchmark_calls_a_sample_is_in_the_table(model, tmp_path) -> None:
    named = [sample(id="7-1", group="short"), sample(id=8, group=None, start=0), sample(start=0, end=1)]
    table = vtc.sweep(model, named, ["uniform"], [1, 2], results=tmp_path / "results.sqlite")
    expected = [["7-1", "short"]] * 2 + [["8", ""]] * 2 + [["", ""]] * 2
    assert table[["id", "group"]].values.tolist() == expected
    stored = vtc.read_results(tmp_path / "results.sqlite")
    assert sorted(stored[["id", "group"]].values.tolist()) == sorted(expected)
    assert (table.likeliest == "").all() and table.likelihood.isna().all()
    later = vtc.sweep(model, [sample(id="other")], ["uniform"], [2], results=tmp_path / "results.sqlite")
    assert later.id[0] == "other" and later.prefill_s[0] == table.prefill_s[1]


@pytest.mark.slow
def test_a_sample_is_scored_by_its_rule(model, tmp_path) -> None:
    said = model.ask(QUESTION, vtc.read_clip(CLIP)).text
    rules = [
        sample(answer=f"{said.upper()}."),
        sample(answer=f"{said.upper()}.", rule="exact"),
        sample(answer="x", also=[said], rule="exact"),
        sample(answer="B", options=["none", said], rule="letter"),
        sample(answer=said, candidates=["one", "two", "three", "four"], rule="likelihood"),
    ]
    table = vtc.sweep(model, rules, ["uniform"], [1], results=tmp_path / "results.sqlite")
    answers = [model.ask(QUESTION, vtc.read_clip(CLIP), candidates=[one.get("candidates")][0]) for one in rules]
    assert table.right.tolist()[:3] == [1, 1, 1]
    assert table.right.tolist() == [vtc.score(one, answer) for one, answer in zip(rules, answers, strict=True)]
    assert table["sample"].nunique() == len(rules)
    assert table.letter.tolist() == ["", "", "", "B", ""]
    assert vtc.summary(table)[0].loc["all"].to_dict() == {"ok": 5, "minimum": 0, "error": 0, "unsaved": 0, "B": 1}


def test_a_rule_that_cannot_score_is_a_row(model) -> None:
    table = vtc.sweep(model, [sample(rule="letter"), sample(rule="lettre"), sample()], ["uniform"], [2])
    assert table.status.tolist() == ["error", "error", "ok"]
    assert "'two'" in table.error[0] and "did you mean 'letter'" in table.error[1]


def test_pictures_and_places_of_a_clip(model, tmp_path) -> None:
    frames = vtc.read_clip(CLIP, frames=6).frames
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"{number:05}.png")
    asked = {"clip": str(tmp_path / "nowhere.mp4"), "tried": [str(tmp_path / "nowhere.mp4"), str(folder)]}
    asked = sample(**asked, picture_rate=3)
    table = vtc.sweep(model, [asked], ["uniform"], [1], results=tmp_path / "results.sqlite")
    assert table.status[0] == "ok" and table.total[0] == 6 * 196
    Image.fromarray(np.zeros_like(frames[0])).save(folder / "00003.png")
    assert vtc.sweep(model, [asked], ["uniform"], [1])["sample"][0] != table["sample"][0]
    gone = vtc.sweep(model, [asked | {"tried": [str(tmp_path / "nowhere.mp4")]}], ["uniform"], [1])
    assert gone.status[0] == "error" and "nowhere.mp4" in gone.error[0]


def test_samples_out_of_a_table_or_without_an_answer(model):
    """What a benchmark keeps to itself is not scored, and a table's empty cells are nothing."""
    one = vtc.read_samples()[0]
    odd = [
        one | {"answer": None},
        one | {"candidates": float("nan"), "kind": float("nan")},
        one | {"answer": one["answer"].upper()},
        one | {"answer": "something else", "also": [one["answer"]]},
        one | {"clip": 3},
    ]
    table = vtc.sweep(model, odd, ["uniform"], [1])
    assert table.right.isna().tolist() == [True, False, False, False, True]
    assert table.right[1:4].all() and table.kl[:4].tolist() == pytest.approx([0] * 4)
    assert table.status.tolist() == ["ok"] * 4 + ["error"]


def test_a_seed_that_is_no_number_is_an_option(model):
    @vtc.method
    def spelt(tokens, budget, *, seed: str = "abc"):
        return vtc.prune(tokens, torch.arange(budget))

    table = vtc.sweep(model, vtc.read_samples()[:1], ["spelt", ("spelt", {"seed": "q"})], [4], seeds=[0, 1])
    assert table.label.tolist() == ["spelt", "spelt (seed=q)"] and table.seed.tolist() == [0, 0]
