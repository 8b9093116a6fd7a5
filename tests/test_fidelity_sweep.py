"""Fidelity over clips, methods and ratios: what fails says so in its row, and the table goes into plots and tests."""

import pytest
import torch

import vtc_lab as vtc


def tokens(frames=8, seed=0):
    return vtc.VideoTokens(torch.randn(frames, 3, 3, 16, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.slow
def test_each_row_is_that_reduction_and_its_fidelity():
    clips = {"a": tokens(), "b": tokens(seed=1)}
    table = vtc.fidelity_sweep(clips, ["lftr", ("lftr", {"temporal": "select"}), "uniform"], [1, 4])
    assert len(table) == 12 and set(table.status) == {"ok"}
    row = table[(table.label == "lftr (temporal=select)") & (table.ratio == 4) & (table["clip"] == "b")].iloc[0]
    reduced = vtc.reduce(clips["b"], "lftr", ratio=4, temporal="select")
    assert (row.kept, row.total) == (18, 72)
    expected = vtc.fidelity(clips["b"], reduced)
    assert row[[*expected]].to_dict() == pytest.approx(expected)
    assert vtc.compare(table, "uniform", "coverage").n.tolist() == [2, 2]
    assert vtc.plot_curves(table, "coverage").vtc["data"].label.nunique() == 3


def test_what_fails_is_a_row_and_the_rest_goes_on():
    @vtc.method
    def broken(tokens, budget):
        raise RuntimeError("out of luck")

    clips = {"long": tokens(), "short": tokens(1)}
    table = vtc.fidelity_sweep(clips, ["broken", "visionzip", "evs", "uniform"], [2, 16])
    said = table.set_index(["clip", "method", "ratio"])
    assert said.loc[("long", "broken", 2), "error"] == "RuntimeError: out of luck"
    assert "saliency" in said.loc[("long", "visionzip", 2), "error"]
    assert said.loc[("long", "evs", 16), "status"] == "minimum"
    assert said.loc[("short", "uniform", 16), "status"] == "error"  # nine tokens cannot become fewer than one
    assert said.loc[("long", "uniform", 16), "status"] == "ok" and said.coverage.notna().sum() == 4


@pytest.mark.parametrize(
    ("clips", "methods", "ratios", "complaint"),
    [({}, ["lftr"], [2], "dict"), ({"a": tokens()}, "lftr", [2], "list"), ({"a": tokens()}, ["lfrt"], [2], "'lftr'")]
    + [({"a": tokens()}, vtc.variants("lftr", stage=["pixels"]), [2], "decides before there are features")],
)
def test_bad_input_is_one_sentence(clips, methods, ratios, complaint):
    with pytest.raises(vtc.VTCError, match=complaint):
        vtc.fidelity_sweep(clips, methods, ratios)


def test_a_ratio_for_time_above_the_whole_reduction_is_no_failure():
    tokens = vtc.VideoTokens(torch.randn(4, 2, 2, 8))
    table = vtc.fidelity_sweep({"a": tokens}, vtc.variants("lftr", temporal_ratio=[1, 4]) + ["uniform"], [1, 2])
    undefined = table[table.label.str.contains("=4")]
    assert set(undefined.status) == {"minimum"} and undefined.error.str.contains("more than the whole").all()
    assert vtc.summary(table)[1] == "6 results: 4 ok, 2 at budgets that a method cannot keep, 0 failed"
    figure = vtc.plot_curves(table, "coverage")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "lftr (temporal_ratio=4), cannot run at 1×, 2×" in named and not any("missing" in text for text in named)
