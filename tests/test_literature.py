"""The published record, and a sweep beside it: figures as printed, ranks against plain references."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_sweep import made_up_sweep
from matplotlib.colors import to_rgb
from scipy.stats import kendalltau

import vtc_lab as vtc
from vtc_lab.figures.style import method_style
from vtc_lab.qa.literature import RECORD
from vtc_lab.sweeps import tidy
from vtc_lab.sweeps.papers import COMPARISON, _tau, comparable, relative_accuracy

ONE = {"backbone": "LLaVA-OneVision-7B", "benchmark": "average"}
EARLYTOM, FLASHVID, VIDCOM2 = "EarlyTom (2605.30010)", "FlashVID (2602.08024)", "VidCom2 (2505.14454)"


def test_every_row_of_the_file_is_on_record_under_its_own_numbers():
    rows, file = vtc.published(), pd.read_csv(RECORD)
    assert len(rows) == len(file) == 1447
    assert rows.value.tolist() == file.value.tolist() and rows.method.tolist() == file.paper_method.tolist()
    assert rows.retained.dropna().between(0, 1, inclusive="right").all()
    assert set(rows.budget) == {"enters_llm", "mean_per_layer", "unclear"}
    assert set(rows.registered) <= {"", *vtc.methods().index}
    named = rows[rows.registered != ""].drop_duplicates("method").set_index("registered").method
    assert named["pool"] == "average pooling" and named["fastvid"] == "FastVID" and "lftr" not in named


def test_relative_is_what_papers_print_where_they_print_it():
    rows = vtc.published()
    assert rows.relative.notna().equals(rows.metric.isin(["accuracy", "relative_accuracy"]) & rows.baseline.notna())
    keys = [*COMPARISON, "method", "retained"]
    both = rows[rows.metric == "accuracy"].merge(rows[rows.metric == "relative_accuracy"], on=keys)
    assert len(both) > 150
    # Half a unit of the last digit of each of the three printed numbers.
    assert ((both.relative_x - both.value_y).abs() < 0.05 + 100 * 0.1 / both.baseline_x).all()


def test_filters_combine_and_a_method_goes_by_either_name():
    rows = vtc.published(method="VidCom2", source=VIDCOM2, metric="relative_accuracy", **ONE)
    assert rows[["retained", "value", "budget"]].values.tolist() == [
        [0.25, 99.6, "mean_per_layer"],
        [0.15, 95.1, "mean_per_layer"],
    ]
    pd.testing.assert_frame_equal(vtc.published(method="vidcom2"), vtc.published(method="VidCom2"))


def test_the_mean_per_layer_is_that_of_the_stage_inside_where_there_is_one():
    rows = vtc.published(**ONE)
    keys = ["source", "method", "retained"]
    found = rows.drop_duplicates(keys).set_index(keys).per_layer.round(3).sort_index()
    assert found[FLASHVID, "FastV"].to_dict() == {0.25: 0.304, 0.2: 0.257, 0.15: 0.211, 0.1: 0.164}
    assert found[EARLYTOM, "HoliTom", 0.1] == 0.082 and found[EARLYTOM, "EarlyTom", 0.2] == 0.164
    assert found[EARLYTOM, "VisionZip", 0.1] == 0.1 and found[VIDCOM2, "FastV", 0.15] == 0.15
    assert rows[rows.source == FLASHVID].per_layer.notna().all() and not rows[rows.budget == "unclear"].empty
    other = vtc.published(source="MotionBench reproduction", method="FastV")
    assert other.per_layer.isna().all()


def test_a_figure_by_the_mean_per_layer_has_fastv_at_16_point_4_per_cent():
    rows = vtc.published(source=FLASHVID, **ONE)
    axes = vtc.plot_published(rows, x="per_layer").axes[0]
    fastv = next(line for line in axes.lines if round(min(line.get_xdata()), 1) == 16.4)
    assert sorted(round(each, 1) for each in fastv.get_xdata()) == [16.4, 21.1, 25.7, 30.4]
    assert (
        fastv.get_fillstyle() == "none"
        and "per layer" in vtc.plot_published(rows, x="per_layer").legends[0].get_title().get_text()
    )


def test_one_method_differs_between_papers():
    rows = vtc.published(method="FastV", metric="relative_accuracy", **ONE)
    at_15 = rows[rows.retained == 0.15].set_index("source").value
    assert at_15[FLASHVID] == 94.5 and at_15[VIDCOM2] == 85.0


def test_what_is_returned_is_the_callers_own():
    rows = vtc.published()
    rows["value"] = 0
    assert (vtc.published().value > 0).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "fastvi"}, "no method 'fastvi' is on record; did you mean 'fastvid'"),
        ({"backbone": "llava-onevision-7b"}, "no backbone 'llava-onevision-7b' .*mean 'LLaVA-OneVision-7B'"),
        ({"benchmark": "video-mme"}, "no benchmark 'video-mme' is on record; did you mean 'videomme'"),
        ({"source": "EarlyTom"}, r"no source 'EarlyTom' is on record; did you mean 'EarlyTom \(2605.30010\)'"),
        ({"metric": "acc"}, "no metric 'acc' is on record; did you mean 'accuracy'"),
        ({"method": ""}, "no method '' is on record; there are 'FastV'"),
        ({"method": "AOT", "backbone": "PLLaVA"}, "no method 'AOT' is on record for PLLaVA; there are .*'PruneVid'"),
    ],
)
def test_an_unknown_name_offers_the_nearest(given, words):
    with pytest.raises(vtc.VTCError, match=words):
        vtc.published(**given)


def test_a_baseline_of_ones_own_far_from_the_published_one_is_a_warning():
    where = {"backbone": "LLaVA-OneVision-7B", "benchmark": "videomme"}
    with pytest.warns(RuntimeWarning, match=r"63.9 %, is more than 1 point from 12 of 12 .*57.7 to 58.6"):
        found = vtc.check_baseline(63.9, **where)
    assert found[found.source == VIDCOM2][["baseline", "apart"]].values.tolist() == [[58.6, 5.3]]
    with pytest.warns(RuntimeWarning, match=r"from 1 of 12 published ones \(57.7 to 57.7 %\)"):
        vtc.check_baseline(59.0, **where)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vtc.check_baseline(59.6, source=VIDCOM2, **where)  # one point, not more
        vtc.check_baseline(58.2, **where)


@pytest.mark.parametrize("own", [0.584, float("nan"), 101, -3])
def test_an_accuracy_that_is_not_in_per_cent_is_refused(own):
    with pytest.raises(vtc.VTCError, match="in per cent"):
        vtc.check_baseline(own, backbone="LLaVA-OneVision-7B", benchmark="videomme")


def test_a_baseline_that_no_paper_gives_is_said():
    with pytest.raises(vtc.VTCError, match="no accuracy of Qwen3-VL-8B on lvbench without reduction"):
        vtc.check_baseline(50, backbone="Qwen3-VL-8B", benchmark="lvbench")


def test_what_compares_is_one_row_a_method_and_share():
    rows = comparable(vtc.published())
    assert not rows.duplicated([*COMPARISON, "method", "retained"]).any()
    assert rows.relative.notna().all() and rows.retained.notna().all()
    (row,) = (
        rows[(rows.source == FLASHVID) & (rows.method == "FastV") & (rows.retained == 0.15)]
        .query("backbone == 'LLaVA-OneVision-7B' and benchmark == 'average'")
        .itertuples()
    )
    assert row.metric == "accuracy" and row.relative == pytest.approx(100 * 55.2 / 58.4)


def test_relative_accuracy_matches_a_loop_over_resamples(monkeypatch):
    monkeypatch.setattr(tidy, "DRAWS", 40)
    table = made_up_sweep(["lftr", "random"], [1, 4], clips=6, gaps={("random", 4): "minimum"})
    table = pd.concat([table, made_up_sweep(["vidcom2"], [4], clips=6, seed=1)], ignore_index=True)
    lost = (table.label == "lftr") & (table.ratio == 4) & (table["sample"] == "2-1")
    unknown = (table.ratio == 1) & (table["sample"] == "3-0")
    table.loc[lost | unknown, ["right", "status"]] = [None, "error"]
    cells, _ = relative_accuracy(table)
    clips = sorted(table["clip"].unique())
    full = table[(table.ratio == 1) & (table.label == "lftr")].set_index("sample").right
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=40)
    for cell in cells.itertuples():
        mine = table[(table.label == cell.label) & (table.ratio == cell.ratio) & (table["sample"] != "3-0")]
        mine = mine[mine.status == "ok"]
        assert cell.n == len(mine)
        if not len(mine):
            assert np.isnan([cell.relative, cell.low, cell.high]).all()
            continue
        base = full[mine["sample"]].to_numpy(float)
        assert cell.relative == pytest.approx(100 * mine.right.astype(float).sum() / base.sum())
        drawn = []
        for weight in weights:
            times = mine["clip"].map(dict(zip(clips, weight, strict=True))).to_numpy()
            drawn.append(100 * (times * mine.right.to_numpy(float)).sum() / (times * base).sum())
        assert (cell.low, cell.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 7).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 3)))
def test_tau_is_that_of_scipy_with_ties_too(lists):
    first, second, theirs = map(np.array, lists)
    found = _tau(np.stack([first, second]), theirs)
    for ours, tau in zip((first, second), found, strict=True):
        assert tau == pytest.approx(kendalltau(ours, theirs).statistic, nan_ok=True)


def ranked(order: list[str], ratio: float = 4, clips: int = 6) -> pd.DataFrame:
    """A sweep in which methods lose more from one to the next, on every clip alike."""
    rows = [
        {"method": method, "ratio": at, "clip": clip, "kept": 100 / at, "total": 100, "right": 1 - (at > 1) * lost / 10}
        for lost, method in enumerate(order)
        for at in (1, ratio)
        for clip in range(clips)
    ]
    return pd.DataFrame(rows)


def test_the_order_of_a_paper_agrees_with_itself_and_not_with_its_reverse():
    rows = vtc.published(source=EARLYTOM, **ONE)
    theirs = comparable(rows)
    theirs = theirs[(theirs.retained == 0.25) & (theirs.registered != "")].sort_values("relative", ascending=False)
    theirs = theirs.drop_duplicates("relative")
    order = theirs.registered.tolist()
    assert len(order) >= 4
    for own, tau in ((order, 1), (order[::-1], -1)):
        (row,) = vtc.rank_agreement(ranked(own), rows, 4).itertuples()
        assert (row.tau, row.low, row.high) == pytest.approx((tau, tau, tau)) and row.n == len(order)
        assert row.methods.split(", ") == order and row.p == pytest.approx(2 / math.factorial(len(order)))
    assert np.isnan(vtc.rank_agreement(ranked(order, clips=1), rows, 4).low).all()


def test_only_what_both_have_at_that_share_counts():
    rows = vtc.published(source=FLASHVID, **ONE)
    own = ranked(["flashvid", "lftr", "fastvid", "visionzip"], ratio=20 / 3)
    variant = own[own.method == "flashvid"].assign(label="flashvid (a=1)", right=lambda t: t.right * (t.ratio == 1))
    table = pd.concat([own.assign(label=own.method), variant], ignore_index=True)
    (row,) = vtc.rank_agreement(table, rows, 20 / 3).itertuples()
    assert row.table == "2602.08024 Table 1" and row.methods == "flashvid, fastvid, visionzip" and row.tau == 1
    with pytest.raises(vtc.VTCError, match="no published table has three .* at 0.125 of the tokens; .* have none"):
        vtc.rank_agreement(ranked(["flashvid", "fastvid", "visionzip"], ratio=8), rows, 8)
    with pytest.raises(vtc.VTCError, match="of flashvid, lftr the rows have flashvid"):
        vtc.rank_agreement(ranked(["flashvid", "lftr"]), rows, 4)


def test_a_method_without_all_results_is_not_ranked():
    table = ranked(["flashvid", "fastvid", "visionzip", "random"])
    rows = pd.concat([vtc.published(source=FLASHVID, **ONE), vtc.published(source=VIDCOM2, **ONE)])
    table.loc[(table.method == "fastvid") & (table.ratio == 4) & (table["clip"] == 2), "right"] = np.nan
    with pytest.raises(vtc.VTCError, match="of flashvid, visionzip, random the rows have"):
        vtc.rank_agreement(table, rows, 4)
    table.loc[table["clip"] == 2, "right"] = np.nan  # nobody has these
    assert vtc.rank_agreement(table, rows, 4).n.tolist() == [3]


def test_the_interval_is_of_resampled_clips(monkeypatch):
    monkeypatch.setattr(tidy, "DRAWS", 300)
    rows = vtc.published(source=EARLYTOM, **ONE)
    table = made_up_sweep(["fastvid", "visionzip", "holitom", "dycoke", "random"], [1, 4], clips=8)
    (row,) = vtc.rank_agreement(table, rows, 4).itertuples()
    cells, drawn = relative_accuracy(table)
    theirs = comparable(rows).query("retained == 0.25").set_index("registered").relative
    at = cells[(cells.ratio == 4) & (cells.label != "random")]
    taus = [kendalltau(draw, theirs[at.label]).statistic for draw in drawn[at.index].to_numpy()]
    assert (row.low, row.high) == pytest.approx(np.nanquantile(taus, [0.025, 0.975]))
    assert row.low < row.tau < row.high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t, r: vtc.rank_agreement(t.drop(columns=["ratio", "kept"]), r, 4), "no column 'ratio', 'kept'; "),
        (lambda t, r: vtc.plot_published(r, t.drop(columns=["right"])), "no column 'right'"),
        (lambda t, r: vtc.plot_published(r, t[t.ratio > 1]), "no result at ratio 1"),
        (lambda t, r: vtc.rank_agreement(t, r, 3), "all results at ratio 3; there are some at: 1, 2, 4"),
        (lambda t, r: vtc.rank_agreement(r, t, 4), "no column 'right', 'clip', 'ratio', 'kept', 'total'"),
        (lambda t, r: vtc.plot_published(t), "the table has no column 'backbone', 'source'"),
        (lambda t, r: vtc.plot_published(r.iloc[:0]), "the table has no rows"),
        (lambda t, r: vtc.plot_published(r[r.metric == "ttft_ms"]), "none of the .* rows is an accuracy"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    table = made_up_sweep(["fastvid", "visionzip", "uniform"], [1, 2, 4], clips=2)
    with pytest.raises(vtc.VTCError, match=words) as caught:
        call(table, vtc.published(source=EARLYTOM))
    assert "\n" not in str(caught.value)


def lines(axes, gid: str) -> list:
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def test_each_table_is_a_panel_with_its_own_numbers():
    rows = vtc.published(method="FastV", **ONE)
    figure = vtc.plot_published(rows)
    tables = comparable(rows).groupby(COMPARISON, sort=False, dropna=False)
    assert len(figure.axes) == tables.ngroups == 6
    for axes, (_, group) in zip(figure.axes, tables, strict=True):
        (line,) = lines(axes, "published")
        group = group.sort_values("retained")
        assert line.get_xdata().tolist() == (100 * group.retained).tolist()
        assert line.get_ydata().tolist() == group.relative.tolist()
    assert figure.axes[0].get_title() == "EarlyTom, Table 1, 32 frames\nLLaVA-OneVision-7B, average"
    assert len({axes.get_ylim() for axes in figure.axes}) == len({axes.get_xlim() for axes in figure.axes}) == 1


def test_the_fill_of_a_mark_is_its_budget():
    figure = vtc.plot_published(vtc.published(method="FastV", **ONE))
    fills = {axes.get_title().split(",")[0]: lines(axes, "published")[0].get_fillstyle() for axes in figure.axes}
    assert fills["EarlyTom"] == "full" and fills["VidCom2"] == "none" and fills["FlashVID"] == "left"
    entries = dict(zip([t.get_text() for t in figure.legends[0].texts], figure.legends[0].legend_handles, strict=True))
    assert entries["mean share per layer of the LLM"].get_fillstyle() == "none"
    random = vtc.plot_published(vtc.published(method="random", metric="relative_accuracy", **ONE))
    assert lines(random.axes[0], "published")[0].get_marker() == "X"  # which has an inside; x has none


def test_methods_that_papers_compare_look_different():
    figure = vtc.plot_published(vtc.published(**ONE))
    for axes in figure.axes:
        drawn = lines(axes, "published")
        looks = {(to_rgb(line.get_color()), line.get_marker(), str(line.get_linestyle())) for line in drawn}
        assert len(looks) == len(drawn), axes.get_title()


def test_a_sweep_of_ones_own_is_drawn_into_every_panel(tmp_path):
    own = made_up_sweep(["fastvid", "lftr", "uniform"], [1, 4, 8], clips=5, gaps={("lftr", 8): "minimum"})
    figure = vtc.plot_published(vtc.published(source=EARLYTOM, **ONE), own)
    cells, _ = relative_accuracy(own)
    assert len(figure.axes) == 3
    for axes in figure.axes:
        drawn = {line.get_color(): line for line in lines(axes, "own")}
        for label, kept in (("fastvid", [12.5, 25, 100]), ("lftr", [25, 100])):
            line, mine = drawn[method_style(label)["color"]], cells[(cells.label == label) & (cells.n > 0)]
            assert line.get_xdata().tolist() == kept
            assert line.get_ydata().tolist() == mine.sort_values("kept").relative.tolist()
    said = [text.get_text() for text in figure.legends[0].texts]
    assert "own sweep: lftr" in said and "missing: 20 of 180 results" in said
    data = pd.read_csv(vtc.save_figure(figure, "published", tmp_path)[".csv"])
    assert (data.source == "own sweep").sum() == 9 and (data.source == EARLYTOM).sum() == len(data) - 9
