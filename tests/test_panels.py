"""Heat map, kinds, forest and flips: cells, bars and marks say what the table says."""

import numpy as np
import pandas as pd
import pytest
from made_up_sweep import KINDS, made_up_sweep
from matplotlib.patches import Polygon, Rectangle

from vtc_lab.figures.heatmap import plot_heatmap
from vtc_lab.figures.panels import plot_flips, plot_forest, plot_kinds
from vtc_lab.figures.style import method_style
from vtc_lab.sweeps.stats import compare
from vtc_lab.tokens import VTCError


def split_label(temporal: int, spatial: int) -> str:
    return f"lftr (temporal_ratio={temporal}, spatial_ratio={spatial})"


def grid(gaps: dict | None = None, without: tuple = ()) -> pd.DataFrame:
    """A table over 1, 2, 4 in time and in space."""
    gaps = {(split_label(*split), split[0] * split[1]): status for split, status in (gaps or {}).items()}
    splits = [(t, s) for t in (1, 2, 4) for s in (1, 2, 4) if (t, s) not in without]
    return pd.concat(
        [made_up_sweep([split_label(t, s)], [t * s], seed=3 * t + s, gaps=gaps) for t, s in splits], ignore_index=True
    )


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_cells_hold_the_value_its_interval_and_the_tokens():
    table = grid()
    figure = plot_heatmap(table)
    (axes,) = figure.axes
    texts = {tuple(np.floor(text.get_position()).astype(int)): text.get_text() for text in axes.texts}
    assert len(texts) == 9
    for cell in figure.vtc["data"].itertuples():
        mine = table[table.label == split_label(int(cell.temporal_ratio), int(cell.spatial_ratio))]
        assert cell.mean == pytest.approx(mine.right.astype(float).mean())
        at = [1, 2, 4].index(cell.spatial_ratio), [1, 2, 4].index(cell.temporal_ratio)
        assert texts[at] == f"{100 * cell.mean:.1f}\n{100 * cell.low:.1f}–{100 * cell.high:.1f}\n{cell.kept:g}"
    assert axes.yaxis_inverted() and [tick.get_text() for tick in axes.get_xticklabels()] == ["1×", "2×", "4×"]


def test_cells_without_a_result_are_hatched_and_counted():
    table = grid(gaps={(4, 4): "minimum", (2, 4): "error"}, without=((4, 2),))
    table.loc[table.index[table.label == split_label(1, 2)][:3], ["right", "status"]] = [None, "error"]
    figure = plot_heatmap(table)
    (axes,) = figure.axes
    texts = {tuple(np.floor(text.get_position()).astype(int)): text.get_text() for text in axes.texts}
    assert [texts[at] for at in ((2, 2), (2, 1), (1, 2))] == ["cannot\nrun", *["missing:\n48 of 48"] * 2]
    assert legend(figure) == ["missing: 99 of 384 results"]
    assert texts[1, 0].endswith("448, 3 missing")
    hatched = {patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()}
    assert hatched == {(2, 1), (1, 2)}


@pytest.mark.parametrize(("value", "lower_is_better"), [("right", False), ("kl", True)])
def test_cells_that_a_baseline_beats_are_cut(value, lower_is_better):
    table = grid()
    baselines = made_up_sweep(["uniform", "random"], [2, 4, 8], seed=5)
    figure = plot_heatmap(pd.concat([table, baselines], ignore_index=True), value)
    means = baselines.astype({value: float}).groupby(["kept", "method"], as_index=False)[value].mean()
    expected = set()
    for cell in figure.vtc["data"].itertuples():
        rivals = means[value][means.kept <= cell.kept]
        if (rivals < cell.mean).any() if lower_is_better else (rivals > cell.mean).any():
            expected.add(([1, 2, 4].index(cell.spatial_ratio), [1, 2, 4].index(cell.temporal_ratio)))
    corners = {tuple(np.floor(p.get_xy().min(0)).astype(int)) for p in figure.axes[0].patches if isinstance(p, Polygon)}
    assert corners == expected and 0 < len(expected) < 9
    assert legend(figure) == ["a baseline does better with no more tokens"]


def test_kinds_are_paired_differences_from_everything():
    table = made_up_sweep(["lftr", "uniform"], [1, 4], clips=20)
    figure = plot_kinds(table, 4)
    (axes,) = figure.axes
    wide = table.pivot_table(index=["label", "kind", "sample"], columns="ratio", values="right", aggfunc="first")
    change = (wide[4].astype(float) - wide[1].astype(float)).groupby(["label", "kind"]).mean()
    data = figure.vtc["data"].set_index(["label", "kind"])
    assert data.difference.to_dict() == pytest.approx(change.to_dict())
    assert (data.low <= data.difference).all() and (data.difference <= data.high).all() and (data.n == 20).all()
    style = method_style("uniform")
    marks = [line for line in axes.get_lines() if line.get_marker() == style["marker"]]
    assert [line.get_xdata()[0] for line in marks] == pytest.approx([100 * change["uniform", kind] for kind in KINDS])
    assert [int(line.get_ydata()[0]) for line in marks] == [0, 1, 2, 3]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"{kind}\nn = 20" for kind in KINDS]
    low, high = axes.get_xlim()
    assert low < 0 < high and "at 4×, tokens kept: 224 of 896" in figure.legends[0].get_title().get_text()


def test_kinds_stand_in_columns_across_the_text():
    table = made_up_sweep(["lftr", "dycoke", "uniform"], [1, 8], gaps={("dycoke", 8): "minimum"})
    table.loc[(table.label == "lftr") & (table.kind == "order"), ["right", "status"]] = [None, "error"]
    figure = plot_kinds(table, 8, width="text")
    assert len(figure.axes) == 2
    ticks = [[tick.get_text().split("\n")[0] for tick in axes.get_yticklabels()] for axes in figure.axes]
    assert ticks == [["colour", "count"], ["direction", "order"]]
    assert legend(figure)[1:] == ["dycoke, cannot run", "uniform", "missing: 12 of 96 results"]


@pytest.mark.slow
def test_a_forest_has_a_row_for_each_label_and_fills_what_differs_beyond_chance():
    table = made_up_sweep(["lftr", "dycoke", "uniform"], [1, 4, 16], clips=20, gaps={("dycoke", 16): "minimum"})
    table.loc[table.index[(table.label == "lftr") & (table.ratio == 4)][:7], ["right", "status"]] = [None, "error"]
    tests = compare(table)
    figure = plot_forest(tests)
    assert [axes.get_title() for axes in figure.axes] == ["4×", "16×"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["lftr", "dycoke", "uniform"]
    for axes, ratio in zip(figure.axes, [4, 16], strict=True):
        rows = tests[tests.ratio == ratio]
        dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
        assert [dot.get_ydata()[0] for dot in dots] == [0, 1, 2]
        assert [dot.get_xdata()[0] for dot in dots] == pytest.approx((100 * rows.difference).tolist(), nan_ok=True)
        ends = [segment[:, 0] for bars in axes.collections for segment in bars.get_segments() if len(segment)]
        assert np.array(ends) == pytest.approx(100 * rows[["low", "high"]].dropna().to_numpy())
        filled = [dot.get_markerfacecolor() == "black" for dot in dots]
        assert filled == ((rows.p_holm < 0.05) & (rows.n == rows.of)).tolist()
    assert any(filled) and legend(figure)[-2:] == ["missing: 87 of 480 results", "over fewer samples"]
    assert figure.legends[0].get_title().get_text() == "change in accuracy (points)\nagainst everything"


def test_flips_are_counted_by_what_was_said_before():
    table = made_up_sweep(["lftr", "uniform"], [1, 4, 16], clips=30)
    table.loc[table.index[(table.label == "lftr") & (table.ratio == 4)][:7], ["right", "status"]] = [None, "error"]
    figure = plot_flips(table)
    before = table[table.ratio == 1].drop_duplicates("sample").set_index("sample")[["right", "said"]]
    for cell in figure.vtc["data"].itertuples():
        rows = table[(table.label == cell.label) & (table.ratio == cell.ratio) & (table.status == "ok")]
        was = before.loc[rows["sample"]]
        was_right, now_right = was.right.to_numpy(bool), rows.right.to_numpy(bool)
        differs = rows.said.to_numpy() != was.said.to_numpy()
        assert (cell.lost, cell.gained) == ((was_right & ~now_right).sum(), (~was_right & now_right).sum())
        assert cell.other == (~was_right & ~now_right & differs).sum()
        assert cell.n == len(rows) and cell.missing == 120 - len(rows)
    assert figure.vtc["data"][["lost", "gained", "other"]].sum().min() > 0
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("4×\n224", "16×\n56")
    lost = [bar.get_width() for bar in left.containers[0]]
    rows = figure.vtc["data"][figure.vtc["data"].ratio == 4]
    assert lost == pytest.approx((100 * rows.lost / rows.n).tolist())
    assert [bar.get_x() + bar.get_width() for bar in left.containers[0]] == pytest.approx([0, 0])  # to the left
    assert legend(figure)[-2:] == ["missing: 7 of 480 results", "over fewer samples"]
    assert [bar.get_alpha() for bar in left.containers[0]] == [0.45, None]


@pytest.mark.filterwarnings("error")
def test_counting_flips_and_baselines_draws_no_resamples_that_could_lack_a_label():
    table = made_up_sweep(["lftr", "uniform"], [1, 4], clips=6)
    few, splits = (table.ratio == 4) & (table["clip"] > "clips/001.mp4"), grid()
    table.loc[few, ["right", "flipped", "status"]] = [None, None, "error"]
    for seed in range(12):  # other names make another order of clips, which are drawn by place
        clips = np.random.default_rng(seed).permutation(6)
        named = table.assign(clip=table["clip"].map(dict(zip(sorted(table["clip"].unique()), clips, strict=True))))
        assert plot_flips(named).vtc["data"].n.tolist() == [8, 8]
        if seed > 2:
            continue
        baselines = named[named.label == "uniform"].astype({"clip": str})
        assert (plot_heatmap(pd.concat([splits, baselines], ignore_index=True)).vtc["data"].n == 48).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: plot_heatmap(t), "no row's options have temporal_ratio and spatial_ratio"),
        (lambda t: plot_heatmap(t.drop(columns="options")), "no column 'options'"),
        (lambda t: plot_heatmap(t.assign(options="temporal_ratio=2")), "'options' does not hold JSON"),
        (
            lambda t: plot_heatmap(pd.concat([g := grid(), g.assign(label=g.label + "!")])),
            "temporal_ratio 1 and spatial_ratio 1 have results of lftr .* and lftr .*!",
        ),
        (lambda t: plot_kinds(t, 3), "no compressed rows at ratio 3; its ratios above 1 are: 2, 4, 8, 16"),
        (lambda t: plot_kinds(t, 1), "no compressed rows at ratio 1"),
        (lambda t: plot_kinds(t.drop(columns="kind"), 4), "no column 'kind'; did you mean"),
        (lambda t: plot_kinds(t[t.ratio == 4], 4), "no result at ratio 1"),
        (lambda t: plot_forest(t), "no column 'reference'"),
        (lambda t: plot_forest(pd.concat([compare(t), compare(t, value="kl")])), "more than one row for 'lftr' at rat"),
        (lambda t: plot_flips(t.drop(columns="flipped")), "no column 'flipped'"),
        (lambda t: plot_flips(t[t.ratio == 1]), "no ratio above 1"),
        (lambda t: plot_flips(t, width="page"), "width is 'page'"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(VTCError, match=words) as caught:
        call(made_up_sweep(clips=2))
    assert "\n" not in str(caught.value)
