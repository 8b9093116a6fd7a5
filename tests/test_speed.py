"""What `measure` reports: whole tables, sums that hold, interleaved ratios, and refusals."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import vtc_lab as vtc

pytestmark = pytest.mark.slow
CLIP = vtc.make_clip(7)[0][:4]
ARGUMENTS = {"batches": (1, 2), "new_tokens": 3, "repeats": 2}


@pytest.fixture(scope="module")
def table():
    return vtc.measure(
        vtc.load_model(), CLIP, ["lftr", "visionzip", "fastv", ("lftr", {"stage": "pixels"})], [8], **ARGUMENTS
    )


def values(table, method, column="value"):
    return table[table.method == method].set_index("quantity")[column]


def test_every_setting_has_every_quantity_against_the_ideal(table):
    assert table.groupby("method", sort=False).size().to_dict() == {
        "none": 12,
        "lftr": 12,
        "visionzip": 12,
        "fastv": 12,
        "lftr (stage=pixels)": 12,
    }
    for method in ("lftr", "visionzip"):
        assert values(table, method, "speedup")[["prefill", "ttft", "total"]].min() > 1
        share = values(table, method, "speedup") / values(table, method, "ideal")
        assert share.dropna().to_dict() == pytest.approx(values(table, method, "of_ideal").dropna().to_dict(), rel=0.3)
    assert (values(table, "none", "of_ideal").dropna() == 1).all()
    known = table.dropna(subset="low")
    assert ((known.low <= known.value) & (known.value <= known.high)).all() and known.value.ge(0).all()
    assert json.loads(json.dumps(table.attrs))["rounds"] == 2


def test_both_budgets_are_in_the_table(table):
    """Eight times fewer enter with LFTR; FastV takes all in, and holds an eighth from its third layer on."""
    entered = table.groupby("method")[["entered", "visual", "per_layer"]].first()
    total = entered.visual["none"]
    assert entered.entered["lftr"] == entered.per_layer["lftr"] == round(total / 8)
    assert entered.entered["fastv"] == total and total / 8 < entered.per_layer["fastv"] < total
    assert values(table, "fastv", "ideal").prefill < values(table, "lftr", "ideal").prefill


def test_what_needs_attention_pays_for_it(table):
    assert values(table, "visionzip").encode > values(table, "lftr").encode == values(table, "none").encode


def test_a_stage_before_the_encoder_encodes_for_itself(table):
    """At 8x an eighth of the patches is needed: less than an eighth of the FLOPs, with what makes the patches."""
    before, behind = values(table, "lftr (stage=pixels)"), values(table, "lftr")
    assert before.encode < behind.encode and before.reduce > 0
    ideal = values(table, "lftr (stage=pixels)", "ideal")
    assert 7 < ideal.encode < 20 and values(table, "lftr", "ideal").encode == 1
    assert ideal.prefill == values(table, "lftr", "ideal").prefill and ideal.ttft > values(table, "lftr", "ideal").ttft


def test_questions_per_second_follow_from_the_stages(table):
    one = values(table, "none")
    assert one.total == pytest.approx(one[["read", "encode", "reduce", "prefill", "decode"]].sum(), rel=0.5)
    assert one.best_questions_per_second >= one.questions_per_second * 0.999
    assert values(table, "lftr").largest_batch > one.largest_batch > 1


def test_a_batch_that_does_not_fit_is_refused_before_it_is_tried():
    with pytest.raises(
        vtc.VTCError, match=r"a batch of 10\d+ prompts does not fit into .* the largest that does has \d+"
    ):
        vtc.measure(vtc.load_model(), CLIP, ["lftr"], [8], batches=[10**9])


def test_a_method_that_cannot_go_down_so_far_is_left_out():
    with pytest.warns(RuntimeWarning, match="dycoke at 40x is left out: .* below that minimum"):
        table = vtc.measure(vtc.load_model(), CLIP, ["dycoke"], [40], batches=[2], new_tokens=2, repeats=1)
    assert set(table.method) == {"none"} and not math.isnan(table.value[0])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"methods": ["lfrt"]}, "did you mean 'lftr'"),
        ({"methods": [("visionzip", {"stage": "pixels"})]}, "looks at the encoder's attention"),
        ({"methods": [("lftr", {"stages": "pixels"})]}, "did you mean 'stage'"),
        ({"ratios": [None]}, "ratio is None"),
        ({"ratios": [0.5]}, "ratio is 0.5"),
        ({"repeats": 0}, "repeats is 0; it must be a whole number from 1"),
        ({"new_tokens": 1}, "new_tokens is 1; it must be a whole number from 2"),
        ({"batches": [2, 0]}, r"batches is \[2, 0\]; give at most 100 whole numbers"),
        ({"batches": range(10**9)}, "batches is .* give at most 100 whole numbers"),
    ],
)
def test_arguments_that_make_no_table_are_refused(wrong, words):
    given = {"methods": ["lftr"], "ratios": [8]} | wrong
    with pytest.raises(vtc.VTCError, match=words):
        vtc.measure(vtc.load_model(), CLIP, **given)


def test_real_size_runs_at_toy_size(tmp_path):
    """Every model's configuration, processor and measurement, so that an hour on a GPU is not lost to a slip."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "real_size.py"
    given = [
        "--toy",
        "--frames",
        "2",
        "--methods",
        "lftr",
        "lftr stage=both",
        "fastv",
        "--ratios",
        "2",
        "--repeats",
        "1",
        "--new-tokens",
        "2",
    ]
    subprocess.run([sys.executable, script, *given, "--out", tmp_path / "real.json"], check=True, capture_output=True)
    found = json.loads((tmp_path / "real.json").read_text())
    assert [table["model"] for table in found["tables"]] == [
        f"{name} (toy size), random weights" for name in ("LLaVA-OneVision-7B", "Qwen2.5-VL-7B", "Qwen3-VL-8B")
    ]
    assert all({"cpu", "torch", "rows", "cores"} <= set(table) for table in found["tables"])
    assert found["command"].startswith("python benchmarks/real_size.py --toy")


def test_figures_draw_every_setting(table):
    stages = vtc.plot_stages(table).axes[0]
    assert [text.get_text() for text in stages.get_yticklabels()][::-1] == [
        "every token",
        "lftr 8×",
        "visionzip 8×",
        "fastv 8×",
        "lftr (stage=pixels) 8×",
    ]
    pixels = "lftr (stage=pixels)"
    accuracy = pd.DataFrame(
        [("lftr", 1, 0.9), ("lftr", 8, 0.89), ("fastv", 1, 0.9), (pixels, 1, 0.9), (pixels, 8, 0.9)],
        columns=["label", "ratio", "mean"],
    )
    figure = vtc.plot_speed(table, accuracy)
    assert figure.vtc["data"].set_index("method").points.to_dict() == pytest.approx({"lftr": -1, pixels: 0})
    assert len({line.get_color() for line in figure.axes[0].lines[:2]}) == 2  # one method, in two ways
    with pytest.raises(vtc.VTCError, match="no setting has both a speed and an accuracy"):
        vtc.plot_speed(table, accuracy[accuracy.label == "fastv"])
