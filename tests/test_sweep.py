"""A sweep: its rows are what asking one by one gives, what fails is a row, and it does not matter who did the work."""

import importlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.measures import answer_fidelity
from vtc_lab.models import video_model
from vtc_lab.models.answers import Answer
from vtc_lab.sweeps.jobs import _sound
from vtc_lab.sweeps.keys import environment, portable
from vtc_lab.sweeps.plan import variants
from vtc_lab.sweeps.run import summary
from vtc_lab.sweeps.store import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
STRENGTH = 2


@pytest.fixture(scope="module")
def model():
    return vtc.load_model()


@pytest.fixture(scope="module")
def samples():
    """Two on each of three short clips in files."""
    short = [sample for sample in vtc.read_samples() if sample["frames"] == 8]
    of_a_clip = [[*samples] for _, samples in itertools.groupby(short, key=lambda sample: sample["clip"])]
    return [sample for samples in of_a_clip[:3] for sample in samples[:2]]


@pytest.fixture(scope="module")
def made():
    """Samples on clips that are in memory alone."""
    pairs = [(clip[:4], asked) for clip, asked in (vtc.make_clip(seed, frames=8) for seed in (3, 4, 5))]
    return [sample | {"clip": clip} for clip, asked in pairs for sample in asked]


@pytest.fixture(scope="session")
def fresh_processes():
    """A way to start processes that have imported the package, but nothing of what the tests have made."""
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    context = importlib.import_module("distributed.utils").get_mp_context()
    context.set_forkserver_preload(["distributed", "vtc_lab.sweeps.workers", "vtc_lab.models.loading"])
    return context


@pytest.fixture
def ends():
    """Registers a method of this module, which workers cannot import."""

    @vtc.method(name="ends")
    def run(tokens, budget, *, seed: int = 0):
        kept = torch.arange(budget)
        return vtc.prune(tokens, kept + (tokens.total - budget) * ((seed + STRENGTH) % 2))


def timeless(table):
    return table.drop(columns=[name for name in table if name.endswith("_s")])


def same(one, other):
    pd.testing.assert_frame_equal(timeless(one), timeless(other))


# What the rows say.


@pytest.mark.slow
def test_rows_are_what_single_questions_give(model, samples):
    methods = ["lftr", "uniform", ("lftr", {"temporal": "select", "significance": "attention"}), "pool"]
    table = vtc.sweep(model, samples, methods, [1, 8])
    assert len(table) == len(samples) * 4 * 2 and set(table.status) == {"ok"} and table.engaged.all()
    rows = table.to_dict("records")
    clips = {sample["clip"]: vtc.read_clip(sample["clip"]) for sample in samples}
    full = {
        n: model.ask(samples[n]["question"], clips[samples[n]["clip"]], candidates=samples[n]["candidates"])
        for n in (0, 5)
    }
    for n, (method, ratio) in itertools.product(full, itertools.product(methods, [1, 8])):
        sample, row = samples[n], rows.pop(0)
        while row["question"] != sample["question"] or row["clip"] != sample["clip"]:
            row = rows.pop(0)
        name, options = (method, {}) if isinstance(method, str) else method
        clip = clips[sample["clip"]]
        tokens = model.encode(clip, saliency=bool(options))
        reduced = vtc.reduce(tokens, name, ratio=ratio, **options)
        answer = model.ask(sample["question"], clip, reduced, candidates=sample["candidates"])
        assert (row["method"], row["ratio"], row["said"]) == (name, ratio, answer.text)
        assert row["kept"] == len(reduced) and row["total"] == tokens.total
        assert row["right"] == (answer.text == sample["answer"]) and row["flipped"] == (answer.text != full[n].text)
        assert row["likeliest"] == max(answer.scores, key=answer.scores.get) and row["frames"] == len(clip)
        assert vtc.score(sample, answer, "likelihood") == (row["likeliest"] == sample["answer"])
        assert row["likelihood"] == pytest.approx(answer.scores[sample["answer"]], abs=1e-5)
        apart = answer_fidelity(full[n], answer)
        assert (row["kl"], row["tv"]) == pytest.approx((apart["kl"], apart["tv"]), abs=1e-4)
        assert all(row[f"{stage}_s"] > 0 for stage in ("read", "encode", "reduce", "prefill", "decode"))
    whole = table[table.ratio == 1]
    assert (whole.kept == whole.total).all() and (whole.kl == 0).all() and not whole.flipped.any()


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["preserve", "compact"])
def test_reductions_prefilled_together_are_the_single_ones(model, made, positions):
    clip = made[0]["clip"]
    questions = [sample["question"] for sample in made if sample["clip"] is clip]
    assert len({len(question.split()) for question in questions}) > 1  # of unequal length: some are padded
    tokens = model.encode(clip)
    reductions = [vtc.reduce(tokens, name, ratio=5) for name in ("random", "lftr", "uniform", "random", "pool")]
    for asked in (questions, questions[:1]):
        rows = model.ask_each(asked, clip, reductions, candidates=[None] * len(asked), positions=positions)
        for reduction, row in zip(reductions, rows, strict=True):
            for question, answer in zip(asked, row, strict=True):
                alone = model.ask(question, clip, reduction, positions=positions)
                assert torch.allclose(alone.logits, answer.logits, atol=1e-4)
                assert alone.text == answer.text and answer.entered == len(reduction)
        assert torch.equal(rows[0][0].logits, rows[3][0].logits)  # the same reduction, answered once
    with pytest.raises(vtc.VTCError, match="reductions to .* tokens"):
        model.ask_each(questions, clip, [reductions[0], None], candidates=[None] * len(questions))


def test_columns_are_there_without_rows(model, samples):
    full = vtc.sweep(model, samples[:1], ["uniform"], [4])
    empty = [
        vtc.sweep(model, []),
        vtc.sweep(model, samples, []),
        vtc.sweep(model, samples, ratios=[]),
        vtc.sweep(model, samples, stop=lambda: True),
    ]
    for table in empty:
        assert table.empty and list(table.columns) == list(COLUMNS) and (table.dtypes == full.dtypes).all()
        assert summary(table)[1] == "0 results: 0 ok, 0 at budgets that a method cannot keep, 0 failed"


def test_settings_are_named_by_what_is_not_default(model, samples):
    methods = [
        "random",
        ("random", {"seed": 7}),
        ("lftr", {"temporal": "merge"}),
        "lftr",
        *variants("lftr", temporal_ratio=[2, 2.0, np.float64(2)]),
    ]
    table = vtc.sweep(model, samples[:2], methods, [4], seeds=(0, np.int64(1)))
    rows = table[["label", "options", "seed"]].drop_duplicates().values.tolist()
    assert rows == [
        ["random", "", 0],
        ["random", "", 1],
        ["random", "", 7],
        ["lftr", "", 0],
        ["lftr (temporal_ratio=2)", '{"temporal_ratio": 2}', 0],
    ]
    assert len(table) == 2 * 5 and table["sample"].nunique() == 2
    product = variants("lftr", temporal=["merge", "select"], order=["temporal-first", "spatial-first"])
    assert [tuple(options.values()) for _, options in product] == list(
        itertools.product(["merge", "select"], ["temporal-first", "spatial-first"])
    )


@pytest.mark.slow
def test_a_stage_before_the_encoder_is_an_option_of_every_method(model, made, tmp_path):
    """Its rows are those of `reduce_clip`, under a name and a key of their own; "features" is the default."""
    methods = ["lftr", *variants("lftr", stage=["features", "both", "pixels"]), ("lftr + fastv", {"stage": "pixels"})]
    methods += [("visionzip", {"stage": "both"})]
    table = vtc.sweep(model, made[:2], methods, [1, 4], results=tmp_path / "sweep.db")
    labels = [
        "lftr",
        "lftr (stage=both)",
        "lftr (stage=pixels)",
        "lftr + fastv (stage=pixels)",
        "visionzip (stage=both)",
    ]
    assert table.label.unique().tolist() == labels and set(table.status) == {"ok"}
    assert table[table.label == labels[2]].options.unique().tolist() == ['{"stage": "pixels"}']
    for row in table[table.label.isin(labels[1:3]) & (table.ratio == 4)].itertuples():
        other, stage = model.fresh(), row.label[12:-1]
        sample = next(sample for sample in made[:2] if sample["question"] == row.question)
        answer = other.ask(row.question, sample["clip"], vtc.reduce_clip(other, sample["clip"], "lftr", 4, stage=stage))
        assert (row.said, row.kept) == (answer.text, answer.entered)
        full = table[(table.label == "lftr") & (table.ratio == 4) & (table.question == row.question)]
        assert row.reduce_s > 0 and 0 < row.encode_s != full.encode_s.item()
    stored = vtc.sweep(model, made[:2], methods, [1, 4], results=tmp_path / "sweep.db")
    pd.testing.assert_frame_equal(stored, table)  # to the last second: nothing was done again


@pytest.mark.slow
def test_options_can_make_the_budget(model, samples):
    table = vtc.sweep(model, samples[:2], variants("lftr", temporal_ratio=[1, 2], spatial_ratio=[4]), [None])
    assert table.ratio.tolist() == [4, 8, 4, 8] and (table.kept * table.ratio == table.total).all()
    assert set(vtc.sweep(model, samples[:2], ["uniform"], [None]).error) == {
        "method 'uniform' needs a ratio, from 1 to 1568"
    }


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
@settings(max_examples=50)
def test_portable_values_are_equal_and_stay_as_they_are(value):
    plain = portable(value)
    assert portable(plain) == plain == value and repr(portable(plain)) == repr(plain)


# What fails is a row.


@pytest.mark.slow
def test_what_fails_is_a_row_and_the_rest_goes_on(model, samples, tmp_path):
    @vtc.method(name="broken")
    def broken(tokens, budget, *, at: int = 0):
        if budget < tokens.total // 3:
            raise ZeroDivisionError("budget\nis small")
        return vtc.prune(tokens, torch.arange(budget))

    @vtc.method(name="high", minimum=("half", lambda frames, patches, options: frames * patches // 2))
    def high(tokens, budget):
        return vtc.prune(tokens, torch.arange(budget))

    corrupt = tmp_path / "corrupt.mp4"
    corrupt.write_bytes(Path(samples[0]["clip"]).read_bytes()[:3000])
    bad = [
        samples[0] | {"clip": tmp_path / "gone.mp4"},
        {key: value for key, value in samples[0].items() if key != "clip"},
        samples[0] | {"clip": str(corrupt)},
        samples[0] | {"question": "what is <video> ?"},
        samples[0] | {"candidates": ["red", "red"]},
        samples[0] | {"question": " "},
    ]
    methods, ratios = ["lftr", "broken", "high"], [1, 2, 4]
    mixed = [sample for pair in itertools.zip_longest(bad, samples) for sample in pair if sample]
    table = vtc.sweep(model, mixed, methods, ratios)
    good = table["sample"].isin(vtc.sweep(model, samples, ["uniform"], [1])["sample"])
    words = table[~good].groupby("question", sort=False).error.unique()
    assert len(table[~good]) == len(bad) * 9 and set(table[~good].status) <= {"error", "minimum"}
    assert any("gone.mp4" in text for text in table.error) and any("no clip" in text for text in table.error)
    assert any("corrupt.mp4" in text for text in table.error) and "do not differ" in " ".join(table.error)
    assert all("stands for the video" in text for text in words["what is <video> ?"][:1])
    assert all("is no question" in text for text in words[" "][:1])
    rest = table[good].reset_index(drop=True)
    small = rest[(rest.ratio == 4) & (rest.method == "broken")]
    assert set(small.error) == {"ZeroDivisionError: budget is small"} and set(small.status) == {"error"}
    minimum = rest[(rest.ratio == 4) & (rest.method == "high")]
    assert set(minimum.status) == {"minimum"} and minimum.error.str.contains("keeps half, here").all()
    for gap in (small, minimum):
        assert gap[["kept", "right", "said", "kl", "tv", "likelihood", "flipped", "prefill_s"]].isna().all(axis=None)
        assert not gap.engaged.any() and gap.total.notna().all() and gap.encode_s.notna().all()
    # What others do wrong changes nothing in the rows of the rest.
    clean = vtc.sweep(model, samples, ["lftr"], ratios)
    near = rest[rest.method == "lftr"].reset_index(drop=True)
    assert (near.said == clean.said).all() and np.allclose(near.kl, clean.kl, atol=1e-5)
    counts, sentence = summary(table)
    assert counts.loc["all"].tolist() == [*(int((table.status == s).sum()) for s in ("ok", "minimum", "error")), 0]
    assert counts.loc["broken", "error"] == len(small) + len(bad) * 3
    assert f"{len(table)} results: " in sentence and "most often" in sentence


@pytest.mark.slow
def test_without_an_uncompressed_answer_the_others_are_there(model, samples, monkeypatch):
    """As where memory is too small for all tokens, but not for a half of them."""
    ask = video_model.VideoModel.ask_each

    def small(self, questions, clip, reductions, **options):
        if len(questions) * sum(1568 if r is None else len(r) for r in reductions) > 800:
            raise torch.OutOfMemoryError("out of memory")
        return ask(self, questions, clip, reductions, **options)

    expected = vtc.sweep(model, samples[:3], ["uniform", "lftr"], [2, 4])
    monkeypatch.setattr(video_model.VideoModel, "ask_each", small)
    table = vtc.sweep(model, samples[:3], ["uniform", "lftr"], [2, 4])
    assert (table.said == expected.said).all() and np.allclose(table.likelihood, expected.likelihood, atol=1e-5)
    assert table.kl.isna().all() and table.flipped.isna().all() and set(table.status) == {"ok"}
    assert set(table.error) == {"nothing to compare with: OutOfMemoryError: out of memory"}


@pytest.mark.slow
def test_a_reduction_that_does_not_engage_is_an_error(model, samples, monkeypatch):
    chosen = video_model._chosen
    monkeypatch.setattr(video_model, "_chosen", lambda reduction, tokens: chosen(None, tokens))
    table = vtc.sweep(model, samples[:4], ["uniform"], [4])
    assert set(table.status) == {"error"} and not table.engaged.any()
    assert set(table.error) == {"1568 visual tokens entered, not 392; the reduction did not engage"}


@pytest.mark.slow
def test_not_a_number_is_an_error_and_no_perfect_result(samples):
    broken = vtc.load_model()
    broken.network.get_output_embeddings().weight.data[7] = torch.nan
    table = vtc.sweep(broken, samples[:4], ["lftr", "uniform"], [1, 4])
    assert set(table.status) == {"error"} and set(table.frames) == {8} and (table.total > 0).all()
    assert table.error.str.match("the model gave NaN .* dtype='bfloat16' or dtype='float32'$").all()
    assert table[["kept", "said", "right", "likelihood", "likeliest", "kl", "tv", "flipped"]].isna().all(axis=None)
    later = Answer("red", {"red square": np.nan, "red circle": np.nan}, torch.zeros(3), 1, 1, {})
    assert "NaN" in str(_sound(later))  # the logits of later tokens, by which whole texts are scored


def test_wrong_arguments_are_sentences(model, samples):
    def twice(**given):
        return lambda: vtc.sweep(**{"model": model, "samples": samples, "methods": ["lftr"], "ratios": [4], **given})

    cases = [
        (twice(methods=["lfrt"]), "did you mean 'lftr'"),
        (twice(methods="lftr"), "methods is 'lftr'; give a list"),
        (twice(methods=[("lftr", {"tempral": "merge"})]), "did you mean 'temporal'"),
        (twice(methods=[("lftr", "merge")]), "the options of 'lftr' are 'merge'"),
        (twice(methods=[("lftr", {"temporal": "average"})]), "temporal is 'average'"),
        (twice(ratios=[0.5]), "ratio is 0.5"),
        (twice(ratios=[float("nan")]), "ratio is nan"),
        (twice(ratios=4), "ratios is 4; give a list"),
        (twice(seeds=0), "seeds is 0; give a list"),
        (twice(seeds=[]), "seeds is empty"),
        (twice(seeds=range(10**30)), "more than 100,000 settings"),
        (twice(methods=["random"], seeds=["a"]), "seed is 'a'"),
        (twice(frames=0), "frames=0"),
        (twice(frames=8.0), "frames=8.0"),
        (twice(fps=-1), "fps=-1"),
        (twice(fps="1"), "fps='1'"),
        (twice(frames=8, fps=1), "frames=8 and fps=1 were both given"),
        (twice(max_new_tokens=True), "max_new_tokens is True"),
        (twice(positions="keep"), "there are 'preserve', 'compact'"),
        (twice(model="toy"), "model is 'toy'; give what vtc.load_model gives"),
        (twice(results=5), "5 cannot be a path"),
        (twice(executor=3), "executor is 3"),
        (twice(timeout=3), "timeout is 3; give None or seconds above 0, and an executor"),
        (twice(samples=["a.mp4"]), "sample 1 is 'a.mp4', without question and answer"),
        (twice(samples=[samples[0], {"clip": "a.mp4", "question": "x"}]), "without answer; give"),
        (twice(samples=[samples[0] | {"question": None}]), "without question; give"),
        (twice(samples=[samples[0] | {"candidates": "red"}]), "the candidates of sample 1 are 'red'"),
        (lambda: variants("lfrt"), "did you mean 'lftr'"),
        (lambda: variants("lftr", temporal="merge"), "give a list of the values"),
        (lambda: variants("random", seed=range(10**30)), "give a list of the values"),
        (lambda: variants("lftr", temporal=["average"]), "temporal is 'average'"),
        (lambda: variants("lftr", stage=["before"]), "stage is 'before'"),
        (lambda: variants("oracle", stage=["both"]), "method 'oracle' has no option 'stage'"),
        (lambda: vtc.sweep(model, samples, [("fastv", {"stage": "both"})]), "'fastv' has no option 'stage'"),
        (lambda: vtc.sweep(model, samples, [("visionzip", {"stage": "pixels"})]), "looks at the encoder's attention"),
        (lambda: vtc.sweep(model, samples, [("lftr", {"stage": "both"})], [None]), "chooses tokens by the ratio"),
        (lambda: portable(np.zeros(3)), "cannot be an option"),
    ]
    for call, words in cases:
        with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
            call()
        assert words in str(error.value)


# Progress and Stop.


@pytest.mark.slow
def test_progress_counts_up_and_stop_keeps_what_is_done(model, samples):
    stop, seen = threading.Event(), []

    def progress(state):
        seen.append((state.done, state.seconds_left, len(state.table())))
        if state.done > 6:  # of 12
            stop.set()

    samples = samples[:4]  # on two clips
    part = vtc.sweep(model, samples, ["lftr", "random"], [1, 2, 4], progress=progress, stop=stop)
    done, left, rows = (list(column) for column in zip(*seen, strict=True))
    assert done[0] == 0 and np.isnan(left[0]) and done == sorted(set(done)) and all(x > 0 for x in left[1:])
    assert rows == sorted(rows) and rows[-1] == len(part) < len(samples) * 6
    seen.clear()
    stop.clear()
    full = vtc.sweep(model, samples, ["lftr", "random"], [1, 2, 4], progress=lambda state: seen.append(state))
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (12, 12, 0)
    assert str(seen[0]) == "0 of 12 settings of clips" and str(seen[-1]) == "12 of 12 settings of clips"
    said = [str(replace(seen[0], done=3, seconds_left=seconds)) for seconds in (4, 90, 600, 9000)]
    assert said == [f"3 of 12 settings of clips, about {words} left" for words in ("4 s", "90 s", "10 min", "2 h")]
    key = ["sample", "label", "ratio"]
    merged = full.set_index(key).loc[pd.MultiIndex.from_frame(part[key])].reset_index()[list(part.columns)]
    same(part, merged)


# Who does the work.


@pytest.mark.slow
def test_threads_share_the_model(model, made, ends):
    alone = vtc.sweep(model, made, ["ends", "lftr"], [2, 4])
    before = torch.get_num_threads()
    with ThreadPoolExecutor(2) as executor:
        same(vtc.sweep(model, made, ["ends", "lftr"], [2, 4], executor=executor), alone)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_fresh_processes_get_methods_and_clips_from_memory(model, made, samples, ends, tmp_path, fresh_processes):
    both = [*made[:4], *samples[:2], samples[0] | {"clip": str(tmp_path / "gone.mp4")}]
    alone = vtc.sweep(model, both, ["ends", "lftr"], [2, 4], seeds=(0, 1))
    names = ["lftr", "random", "divprune"]
    with ProcessPoolExecutor(1, mp_context=fresh_processes) as executor:
        assert executor.submit(environment, names).result() == environment(names)  # hashes of code among it
        same(vtc.sweep(model, both, ["ends", "lftr"], [2, 4], seeds=(0, 1), executor=executor), alone)
    assert {"ok", "error"} == set(alone.status)


def test_a_method_made_again_is_the_new_one_in_old_workers(model, made, ends):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        first = vtc.sweep(model, made[:2], ["ends"], [4], executor=executor)

        @vtc.method(name="ends")
        def other(tokens, budget):
            return vtc.prune(tokens, torch.arange(budget) + (tokens.total - budget))

        second = vtc.sweep(model, made[:2], ["ends"], [4], executor=executor)
    same(second, vtc.sweep(model, made[:2], ["ends"], [4]))
    assert not np.allclose(first.kl, second.kl)


@pytest.mark.slow
def test_a_broken_pool_loses_nothing(model, made):
    alone, killed = vtc.sweep(model, made, ["lftr", "uniform"], [2, 4]), []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:

        def progress(state):
            if 0 < state.done < state.total and not killed:
                killed.append(True)
                os.kill(next(iter(executor._processes)), signal.SIGKILL)

        with pytest.warns(RuntimeWarning, match="clips are done in this process"):
            table = vtc.sweep(model, made, ["lftr", "uniform"], [2, 4], executor=executor, progress=progress)
    same(table, alone)


HANGS = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
import torch
import vtc_lab as vtc

file, awake, forever = sys.argv[1:]


@vtc.method(name="asleep")
def asleep(tokens, budget):
    while len(tokens.values) == 5 and budget < 200 and not os.path.exists(awake):
        exec(forever)
    return vtc.prune(tokens, torch.arange(budget))


if __name__ == "__main__":
    clip, asked = vtc.make_clip(3, frames=8)
    given = [asked[0] | {"clip": clip[:n]} for n in (4, 5, 6)], ["asleep"], [1, 8]
    model = vtc.load_model()
    with ProcessPoolExecutor(1) as executor:
        table = vtc.sweep(model, *given, results=file, executor=executor, timeout=5)
    print(*table.status, *table.error[table.error != ""], sep="|")
    open(awake, "w").close()
    table = vtc.sweep(model, *given, results=file)
    print(*table.status, set(table.error), sep="|")
"""


@pytest.mark.slow
def test_a_clip_that_hangs_is_given_up_and_nothing_waits_for_it(tmp_path):
    """The pool's one worker sleeps for ever: its next clip, the pool and Python itself go on and end."""
    (tmp_path / "hangs.py").write_text(HANGS)
    command = [sys.executable, "hangs.py", "results.db", "awake", "time.sleep(3600)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    given_up = "given up after timeout=5 seconds; run again, or give more"
    assert done.stdout.split("\n") == [f"ok|ok|ok|error|ok|ok|{given_up}", "ok|ok|ok|ok|ok|ok|{''}", ""], done.stderr


def test_stop_ends_a_pool_and_keeps_what_is_done(model, made):
    stop = threading.Event()
    many = [sample | {"clip": sample["clip"][:n]} for n in (2, 3, 4) for sample in made]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        table = vtc.sweep(
            model, many, ["lftr"], [4], executor=executor, progress=lambda p: p.done and stop.set(), stop=stop
        )
    assert 0 < len(table) < len(many)


def test_workers_must_be_alike_and_open(model, made):
    class Elsewhere(ThreadPoolExecutor):
        """Does the work in a process that has another version of torch."""

        def submit(self, function, parcel) -> Future:
            object.__setattr__(parcel, "environment", parcel.environment.replace("torch 2", "torch 1"))
            return super().submit(function, parcel)

    with Elsewhere(1) as executor:
        table = vtc.sweep(model, made[:1], ["lftr"], [4], executor=executor)
    assert table.error.str.contains("install the same there").all()
    with pytest.raises(vtc.VTCError, match="give one that is open"):
        vtc.sweep(model, made[:1], ["lftr"], [4], executor=executor)


@pytest.mark.slow
def test_what_was_changed_after_loading_is_not_sent_to_workers(model, made):
    changed = vtc.load_model()
    changed.processor.video_processor.image_mean = [0.2, 0.3, 0.4]
    named, bare = vtc.load_model(), video_model.VideoModel(model.network, model.processor, "bare")
    named.revision = "mine"
    with (
        ThreadPoolExecutor(1) as threads,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as processes,
    ):
        processes.submit(abs, 1).result()  # the worker is there before the model is lent
        for one in (changed, named, bare):
            alone = vtc.sweep(one, made[:2], ["lftr"], [4])
            same(vtc.sweep(one, made[:2], ["lftr"], [4], executor=threads), alone)
            table = vtc.sweep(one, made[:2], ["lftr"], [4], executor=processes)
            assert set(table.status) == {"error"} and table.error.str.contains("cannot be sent to other proc").all()
        expected = vtc.sweep(model, made[:2], ["lftr"], [4])  # which the same worker gets right
        same(vtc.sweep(model, made[:2], ["lftr"], [4], executor=processes), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_processes")
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_table(model, ends, tmp_path):
    from dask.distributed import Client, LocalCluster

    samples = [sample for sample in vtc.read_samples() if sample["frames"] == 8 and sample["kind"] == "count"][:6]
    methods, killed = ["ends", "lftr"], []
    alone = vtc.sweep(model, samples, methods, [2, 4])
    assert alone["clip"].nunique() == 6
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path) as cluster,
        Client(cluster) as client,
    ):
        workers = list(client.run(os.getpid).values())

        def progress(state):
            if 0 < state.done < state.total and not killed:
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)

        executor = client.get_executor()
        table = vtc.sweep(model, samples, methods, [2, 4], executor=executor, progress=progress, results=tmp_path / "a")
    assert killed and len(set(workers)) == 2
    same(table, alone)
    same(vtc.sweep(model, samples, methods, [2, 4], results=tmp_path / "a"), alone)
