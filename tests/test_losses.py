"""Lost answers split by the evidence that stayed, and a ceiling that is drawn in every figure and ranked in none."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_sweep import KINDS, made_up_sweep

import vtc_lab as vtc
from vtc_lab.figures.style import BASELINES, CEILING, method_style, role
from vtc_lab.sweeps import tidy
from vtc_lab.sweeps.tidy import ceilings
from vtc_lab.widgets.study import in_words

LABELS = ["oracle", "lftr", "divprune", "uniform", "random"]


def dashed(axes) -> list:
    """Lines in the look of a ceiling."""
    return [line for line in axes.get_lines() if line.get_color() == CEILING["color"]]


def legend(figure) -> dict:
    (box,) = figure.legends
    return {text.get_text(): handle for text, handle in zip(box.get_texts(), box.legend_handles, strict=True)}


@pytest.fixture(scope="module")
def sweep() -> pd.DataFrame:
    return made_up_sweep(LABELS, [1, 4, 16])


@pytest.fixture(scope="module")
def tests(sweep) -> pd.DataFrame:
    return vtc.compare(sweep, "random", permutations=199)


def test_losses_are_counted_answer_by_answer(monkeypatch):
    monkeypatch.setattr(tidy, "DRAWS", 40)
    table = made_up_sweep(LABELS, [1, 4, 16], clips=9)
    found = vtc.split_losses(table).set_index(["label", "ratio", "kind", "loss"])
    full = dict(table[table.ratio == 1][["sample", "right"]].drop_duplicates().itertuples(index=False))
    clips = sorted(table["clip"].unique())
    weights = np.random.default_rng(0).multinomial(len(clips), np.full(len(clips), 1 / len(clips)), size=40)
    for label in LABELS:
        for ratio in (4, 16):
            for kind in KINDS:
                asked = table[(table.label == label) & (table.ratio == ratio) & (table.kind == kind)]
                asked = [row for row in asked.itertuples() if full[row.sample]]
                lost = {row.sample: row.recall for row in asked if not row.right}
                ways = {"dropped": {s for s in lost if lost[s] < 0.5}, "failed": {s for s in lost if lost[s] >= 0.5}}
                for way, mine in (ways | {"either": set(lost)}).items():
                    row = found.loc[(label, ratio, kind, way)]
                    assert (row.share, row.n) == (pytest.approx(len(mine) / len(asked)), len(asked))
                    hits = np.array([sum(r.sample in mine for r in asked if r.clip == clip) for clip in clips])
                    each = np.array([sum(r.clip == clip for r in asked) for clip in clips])
                    means = (weights @ hits) / (weights @ each)
                    assert (row.low, row.high) == pytest.approx(np.nanquantile(means, [0.025, 0.975]))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 500), st.sampled_from([("label",), ("label", "ratio"), ("label", "ratio", "kind")]))
def test_both_ways_add_up_whatever_the_groups(seed, by):
    table = made_up_sweep(LABELS, [1, 8], clips=3, seed=seed, gaps={("divprune", 8): "minimum"})
    found = vtc.split_losses(table, by)
    assert found.loss.tolist() == ["dropped", "failed", "either"] * (len(found) // 3)
    dropped, failed, either = found.share.to_numpy().reshape(-1, 3).T
    assert dropped + failed == pytest.approx(either, nan_ok=True)
    assert (dropped[found.label[::3] == "oracle"] == 0).all()
    lacking = found[found.label == "divprune"]
    assert lacking.share.isna().all() and (lacking.n == 0).all() and (lacking.of == lacking.missing).all()


def test_half_of_the_evidence_counts_as_there_and_samples_without_any_are_left_out():
    rows = [("a", 1, 1.0, True), ("a", 8, 0.5, False), ("b", 1, 1.0, True), ("b", 8, 0.49, False)]
    rows += [("c", 1, np.nan, True), ("c", 8, np.nan, False), ("d", 1, 1.0, False), ("d", 8, 0.0, False)]
    table = pd.DataFrame(rows, columns=["sample", "ratio", "recall", "right"]).assign(method="random", kind="state")
    found = vtc.split_losses(table.assign(clip=table["sample"]))
    assert found[["loss", "share", "n"]].values.tolist() == [["dropped", 0.5, 2], ["failed", 0.5, 2], ["either", 1, 2]]


@pytest.mark.parametrize("call", [vtc.split_losses, lambda table: vtc.plot_losses(table, 16)])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="recall"), "no column 'recall'"),
        (lambda t: t.assign(recall=np.nan), "'recall' is empty; only clips of the generated world"),
        (lambda t: t[t.ratio > 1], "no result at ratio 1"),
        (lambda t: t.assign(right=t.right & (t.ratio > 1)), "no answer about the generated world is right"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(sweep, change, words, call):
    with pytest.raises(vtc.VTCError, match=words) as caught:
        call(change(sweep))
    assert "\n" not in str(caught.value)


def test_the_figure_demands_a_baseline_and_a_ratio_of_the_table(sweep):
    with pytest.raises(vtc.VTCError, match="holds no baseline"):
        vtc.plot_losses(sweep[~sweep.method.isin(BASELINES)], 16)
    for ratio in (1, 3):
        with pytest.raises(vtc.VTCError, match="ratios above 1 are: 4, 16"):
            vtc.plot_losses(sweep, ratio)


@pytest.mark.parametrize(("width", "columns"), [("text", 3), ("column", 2)])
def test_bars_are_the_shares_and_the_ceiling_is_a_line(sweep, width, columns):
    figure = vtc.plot_losses(sweep, 16, width=width)
    expected = vtc.split_losses(sweep, ["label", "method", "ratio", "kind"]).query("ratio == 16")
    pd.testing.assert_frame_equal(figure.vtc["data"], expected.reset_index(drop=True))
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names == ["lftr", "divprune", "uniform", "random"]
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title().split(",")[0] for axes in shown] == list(KINDS)
    assert sum(axes.xaxis.get_tick_params()["labelbottom"] for axes in shown) == columns
    for axes, kind in zip(shown, KINDS, strict=True):
        mine = expected[expected.kind == kind].set_index(["label", "loss"])
        for bar in axes.patches:
            label = names[round(bar.get_y() + bar.get_height() / 2)]
            loss = (
                "failed"
                if bar.get_facecolor() == legend(figure)["it was there and the model failed"].get_facecolor()
                else "dropped"
            )
            assert bar.get_width() == pytest.approx(100 * mine.share[label, loss])
            assert bar.get_x() == pytest.approx(100 * mine.share[label, "dropped"] * (loss == "failed"))
        assert len(axes.patches) == 8
        (line,) = dashed(axes)
        assert line.get_xdata() == pytest.approx(100 * mine.share["oracle", "either"])
        for bars in axes.collections:
            ((left, y), (right, _)) = bars.get_segments()[0]
            assert (left, right) == pytest.approx(tuple(100 * mine.loc[(names[round(y)], "either"), ["low", "high"]]))


def test_a_row_without_results_says_so_and_the_export_has_the_numbers(tmp_path):
    table = made_up_sweep(LABELS, [1, 16], gaps={("divprune", 16): "error"})
    figure = vtc.plot_losses(table, 16)
    said = [(text.get_text(), text.get_position()[1]) for axes in figure.axes for text in axes.texts]
    assert said == [("no result", 1)] * len(KINDS)
    right = table[(table.label == "lftr") & (table.ratio == 1)].right.sum()
    assert f"missing: {right} of {5 * right} results" in legend(figure)
    files = vtc.save_figure(figure, "losses", tmp_path)
    assert set(files) == {".pdf", ".svg", ".png", ".csv", ".json"}
    assert len(pd.read_csv(files[".csv"])) == 3 * len(LABELS) * len(KINDS)


def test_a_kind_that_a_label_was_not_asked_is_no_bar_of_zero():
    table = made_up_sweep(LABELS, [1, 16])
    figure = vtc.plot_losses(table[(table.label != "lftr") | (table.kind != "count")], 16)
    assert [axes.get_title().split(",")[0] for axes in figure.axes if axes.texts] == ["count"]


def test_a_ceiling_is_told_from_methods_by_the_registry_alone():
    assert [role(name) for name in ("oracle", "random", "lftr", "a stranger")] == ["ceiling", "baseline", "", ""]
    assert method_style("oracle") == CEILING and not CEILING["marker"]
    table = pd.DataFrame({"label": ["mine", "oracle", "oracle (a=1)"], "method": ["oracle", "lftr", "oracle"]})
    assert ceilings(table).tolist() == [True, False, True]
    assert ceilings(table[["label"]]).tolist() == [False, True, True]
    assert not ceilings(pd.DataFrame({"score": [1.0]})).any()


def test_no_other_method_sees_the_evidence():
    clip, samples = vtc.make_clip(10_003, frames=8)
    plain = vtc.load_encoder("pixels").encode(clip)
    for name in vtc.methods().query("needs == 'features'").index:
        kept = [vtc.reduce(tokens, name, ratio=4).assign for tokens in (plain, vtc.with_evidence(plain, samples))]
        assert torch.equal(*kept), name


def test_in_curves_and_kinds_a_ceiling_is_a_dashed_line_without_markers(sweep):
    curves = vtc.plot_curves(sweep)
    (line,) = dashed(curves.axes[0])
    means = vtc.bootstrap_interval(sweep).query("label == 'oracle'").sort_values("kept")
    assert line.get_ydata() == pytest.approx(100 * means["mean"].to_numpy())
    assert line.get_marker() == "" and line.get_linestyle() == "--"
    assert list(legend(curves))[:5] == ["lftr", "divprune", "uniform", "random", "oracle"]
    kinds = vtc.plot_kinds(sweep, 16)
    data = kinds.vtc["data"].query("label == 'oracle'").sort_values("kind")
    lines = sorted(dashed(kinds.axes[0]), key=lambda line: line.get_ydata()[0])
    assert [line.get_xdata()[0] for line in lines] == pytest.approx(list(100 * data.difference))
    assert [np.floor(line.get_ydata()).tolist() for line in lines] == [[row, row] for row in range(len(KINDS))]
    assert "oracle" in legend(kinds)
    assert kinds.get_figheight() > vtc.plot_kinds(sweep[sweep.label != "lftr"], 16).get_figheight()


def test_in_a_forest_it_crosses_the_rows_of_the_others(tests):
    figure = vtc.plot_forest(tests)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["lftr", "divprune", "uniform"]
    for ratio, axes in zip((4, 16), figure.axes, strict=True):
        (line,) = dashed(axes)
        (cell,) = tests[(tests.label == "oracle") & (tests.ratio == ratio)].itertuples()
        assert line.get_xdata() == pytest.approx(100 * cell.difference)
        assert sorted(line.get_ydata()) == sorted(axes.get_ylim())
    assert "oracle" in legend(figure)


def test_tests_of_methods_are_the_same_beside_a_ceiling_which_has_none(sweep, tests):
    alone = vtc.compare(sweep[sweep.label != "oracle"], "random", permutations=199)
    beside = tests[tests.label != "oracle"]
    assert beside.p_holm.tolist() == alone.p_holm.tolist()
    assert tests.p_holm[tests.label == "oracle"].isna().all()
    assert tests.difference[tests.label == "oracle"].notna().all()


def test_a_ceiling_is_never_the_best(sweep, tmp_path):
    cells = vtc.bootstrap_interval(sweep)
    assert (cells[cells.ratio > 1].groupby("ratio")["mean"].idxmax().map(cells.label) == "oracle").all()
    rows = vtc.save_table(cells, "t", tmp_path)[".tex"].read_text().splitlines()
    assert "bfseries" not in next(row for row in rows if row.startswith("oracle"))
    assert sum("bfseries" in row for row in rows) >= 1
    said = in_words(vtc.plot_curves(sweep).vtc["data"], "right")
    assert "oracle" not in said and said.count("lftr") == 2


def test_pictures_of_tokens_name_a_ceiling_and_do_not_count_it():
    clip, samples = vtc.make_clip(10_003, frames=8)
    tokens = vtc.with_evidence(vtc.load_encoder("pixels").encode(clip), samples)
    reductions = [vtc.reduce(tokens, name, ratio=8) for name in ("oracle", "lftr", "divprune", "random")]
    titles = [axes.get_title("left").replace("\n", " ") for axes in vtc.compare_kept(clip, reductions).axes]
    assert titles[0].startswith("oracle (ceiling)") and "lftr  196" in " ".join(titles)
    overlap = vtc.plot_overlap(reductions)
    assert "Grey names: baselines and ceilings." in overlap._supxlabel.get_text().replace("\n", " ")
    agreement = vtc.plot_agreement(clip, reductions)
    assert (agreement.vtc["data"].methods == 3).all()
    with pytest.raises(vtc.VTCError, match="at least 2"):
        vtc.plot_agreement(clip, reductions[:2])


@pytest.mark.slow
def test_losses_of_the_real_model():
    clip, samples = vtc.make_clip(10_007, frames=8)
    asked = [sample | {"clip": clip} for sample in samples]
    table = vtc.sweep(vtc.load_model(), asked, ["oracle", "random"], [1, 16])
    table["right"] = table.right | (table.ratio == 1)  # however well the model is trained
    found = vtc.split_losses(table, "label").set_index(["label", "loss"])
    lost = table[(table.ratio == 16) & (table.right == 0)]
    for label in ("oracle", "random"):
        recall = lost.recall[lost.label == label]
        expected = [(recall < 0.5).sum(), (recall >= 0.5).sum(), len(recall)]
        assert (found.loc[label].share * len(samples)).tolist() == pytest.approx(expected)
    assert found.share["random", "dropped"] > found.share["oracle", "dropped"] == 0
    vtc.plot_losses(table, 16)


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import make_figures

    yield make_figures
    sys.modules.pop("make_figures")


def test_the_gallery_finds_no_ceiling_best_and_says_where_it_lies(gallery):
    methods = ["lftr", "fastvid", "visionzip", "vidcom2", "uniform", "random", "oracle"]
    table = made_up_sweep(methods, [1, 4, 8], clips=6)
    lines = gallery.finding(table, permutations=99)
    assert not any("oracle" in line for line in lines if line.startswith(("- Best", "- Within")))
    assert sum(line.startswith("- Ceiling, `oracle`") for line in lines) == 1
    (lost,) = (line for line in lines if "8x loses" in line)
    assert "`oracle` 0.0 and " in lost
    rows = gallery.accuracy_table(vtc.bootstrap_interval(table))
    assert rows[-1].startswith("| oracle (ceiling) |")
