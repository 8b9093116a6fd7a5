"""Curves, and what all figures of a sweep share: what is drawn is what the table says, gaps included."""

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pypdf
import pytest
from made_up_sweep import made_up_sweep
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

import vtc_lab
from vtc_lab.figures.curves import plot_curves
from vtc_lab.figures.export import save_figure
from vtc_lab.figures.heatmap import plot_heatmap
from vtc_lab.figures.marks import looks
from vtc_lab.figures.panels import plot_flips, plot_forest, plot_kinds
from vtc_lab.figures.style import _ROSTER, BASELINES, figure_size, method_style
from vtc_lab.sweeps.stats import bootstrap_interval, compare
from vtc_lab.sweeps.tidy import tidy
from vtc_lab.tokens import VTCError

ROOT = Path(vtc_lab.__file__).parents[1]
FOURTEEN = list(_ROSTER[:14])


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def line_of(axes, style: dict):
    """The line of a label by its look."""
    (line,) = [
        line for line in axes.get_lines() if line.get_marker() == style["marker"] and line.get_color() == style["color"]
    ]
    return line


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def all_figures(folder) -> None:
    """Every kind of figure, with gaps, into a folder."""
    gap = {("dycoke", 16): "minimum", ("lftr (temporal=select)", 8): "error"}
    table = made_up_sweep(["lftr", "lftr (temporal=select)", "dycoke", "uniform", "random"], gaps=gap)
    split = [f"lftr (temporal_ratio={t}, spatial_ratio={s})" for t in (1, 2) for s in (1, 2)]
    grid = pd.concat([made_up_sweep([label], [2], seed=seed) for seed, label in enumerate(split[1:])])
    figures = [plot_curves(table), plot_kinds(table, 8), plot_flips(table), plot_heatmap(grid)]
    figures.append(plot_forest(compare(table)))
    for figure in figures:
        save_figure(figure, figure.vtc["config"]["plot"], folder)


def test_the_line_of_each_label_is_its_mean_against_the_tokens_kept():
    table = made_up_sweep()
    figure = plot_curves(table)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    expected = bootstrap_interval(table)
    for label, rows in expected.groupby("label"):
        rows = rows.sort_values("kept")
        line = line_of(axes, method_style(label))
        assert line.get_xdata().tolist() == rows.kept.tolist()
        assert line.get_ydata() == pytest.approx(100 * rows["mean"].to_numpy())
        bars = [c for c in axes.collections if to_hex(c.get_color()[0][:3]) == to_hex(method_style(label)["color"])]
        ends = [segment[:, 1] for segment in bars[0].get_segments()]
        assert np.array(ends) == pytest.approx(100 * rows[["low", "high"]].to_numpy())
    pd.testing.assert_frame_equal(
        figure.vtc["data"][["label", "ratio", "mean", "low", "high"]],
        expected[["label", "ratio", "mean", "low", "high"]],
    )


def test_baselines_are_grey_and_demanded():
    table = made_up_sweep(["lftr", "uniform", "random", "pool"])
    (axes,) = plot_curves(table).axes
    for baseline in ("uniform", "random", "pool"):
        r, g, b = bytes.fromhex(line_of(axes, method_style(baseline)).get_color()[1:])
        assert r == g == b
    bare = table[table.method == "lftr"]
    for call in (plot_curves, plot_flips, lambda t: plot_kinds(t, 4)):
        with pytest.raises(VTCError, match="holds no baseline.*'uniform'"):
            call(bare)


def test_both_budgets_are_on_the_axis_and_the_uncompressed_run_is_a_line():
    table = made_up_sweep()
    figure = plot_curves(table)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        "896\n1×",
        "448\n2×",
        "224\n4×",
        "112\n8×",
        "56\n16×",
    ]
    assert "of 896" in axes.get_xlabel() and axes.get_ylabel() == "accuracy (%)"
    full = 100 * table[table.ratio == 1].right.astype(float).mean()
    assert f"everything: {full:.3g}" in legend(figure)
    assert any(np.allclose(line.get_ydata(), full) and len(line.get_xdata()) == 2 for line in axes.get_lines())


def test_by_the_mean_per_layer_fastv_at_10_per_cent_stands_at_16_point_4():
    """Of 28 layers, two hold everything; a method before the language model stands where it stood."""
    table = made_up_sweep(["fastv", "random"], [1, 4, 10])
    kept, inside = table.total / table.ratio, table.method == "fastv"
    mean = kept.where(~inside, (2 * table.total + 26 * kept) / 28)
    table = table.assign(per_layer=mean, kept=kept.where(~inside, table.total))
    figure = plot_curves(table, x="per_layer")
    axes, styles = figure.axes[0], looks(tidy(table, "right"))
    lines = {line.get_color(): line.get_xdata() / 896 for line in axes.lines if len(line.get_xdata()) == 3}
    assert np.round(lines[styles["fastv"]["color"]], 3).tolist() == [0.164, 0.304, 1]
    assert np.round(lines[styles["random"]["color"]], 3).tolist() == [0.1, 0.25, 1]
    assert axes.get_xlabel() == "mean tokens per layer, of 896"
    ticks = dict(zip(axes.get_xticks(), (label.get_text() for label in axes.get_xticklabels()), strict=True))
    assert ticks[896] == "896\n100%" and ticks[89.6] == "90\n10%" and min(ticks) == 89.6
    assert figure.vtc["data"].per_layer.notna().all()
    with pytest.raises(VTCError, match="no column 'per_layer'"):
        plot_curves(table.drop(columns="per_layer"), x="per_layer")


def test_crowded_ratios_leave_out_labels_and_not_ticks():
    ratios = [1, 2, 2.2, 2.4, 2.6, 8]
    figure = plot_curves(made_up_sweep(["uniform"], ratios, clips=3))
    renderer = drawn(figure)
    ticks = figure.axes[0].get_xticklabels()
    assert [tick.get_text()[-4:] for tick in ticks] == ["6\n1×", "8\n2×", "", "", "2.6×", "2\n8×"]
    boxes = sorted(tick.get_window_extent(renderer).extents.tolist() for tick in ticks if tick.get_text())
    assert all(left[2] < right[0] for left, right in itertools.pairwise(boxes))


def test_results_that_are_missing_for_any_reason_are_a_gap_and_counted():
    table = made_up_sweep(
        ["lftr", "tome", "dycoke", "uniform"],
        gaps={("dycoke", 8): "minimum", ("dycoke", 16): "minimum", ("tome", 4): "error"},
    )
    table.loc[table.index[(table.label == "uniform") & (table.ratio == 2)][:5], "right"] = None
    figure = plot_curves(table)
    (axes,) = figure.axes
    assert legend(figure)[2] == "dycoke, cannot run at 8×, 16×"
    assert legend(figure)[-2:] == ["missing: 53 of 864 results", "over fewer samples"]
    line = line_of(axes, method_style("tome"))  # with a gap, not a bridge over it
    assert np.isnan(line.get_ydata()[line.get_xdata().tolist().index(224)])
    data = figure.vtc["data"]
    lacking = data[data.n < data.of].set_index(["label", "ratio"])[["n", "missing", "of"]].T.to_dict("list")
    assert lacking == {
        ("tome", 4): [0, 48, 48],
        ("dycoke", 8): [0, 48, 48],
        ("dycoke", 16): [0, 48, 48],
        ("uniform", 2): [43, 5, 48],
    }


def test_a_mean_over_fewer_samples_stands_apart_from_the_line():
    table = made_up_sweep(["lftr", "uniform"])
    fewer = (table.label == "lftr") & (table.ratio == 8) & table["clip"].isin(["clips/000.mp4", "clips/001.mp4"])
    table.loc[fewer, ["right", "kept", "status"]] = [None, np.nan, "minimum"]
    figure = plot_curves(table)
    line, point = (line for line in figure.axes[0].get_lines() if line.get_color() == method_style("lftr")["color"])
    assert np.isnan(line.get_ydata()[1]) and np.isfinite(line.get_ydata()[[0, 2, 3, 4]]).all()
    rest = table[(table.label == "lftr") & (table.ratio == 8) & ~fewer].right.astype(float).mean()
    assert point.get_xydata().tolist() == [[112, pytest.approx(100 * rest)]]
    assert point.get_markerfacecolor() == "white" and point.get_alpha() < 0.5
    assert "over fewer samples" in legend(figure)


def test_samples_that_failed_under_every_setting_are_counted_and_spoil_no_comparison():
    table = made_up_sweep(["lftr", "uniform"])
    table.loc[table["clip"] == "clips/003.mp4", ["right", "status"]] = [None, "error"]
    figure = plot_curves(table)
    assert legend(figure)[-1] == "missing: 40 of 480 results"
    assert np.isfinite(line_of(figure.axes[0], method_style("lftr")).get_ydata()).all()


@pytest.mark.parametrize(("width", "columns"), [("column", 1), ("text", 2)])
def test_more_than_eight_labels_are_split_into_panels_with_every_baseline(width, columns):
    table = made_up_sweep([*_ROSTER[:20], "uniform", "pool", "oracle"], [1, 2, 8], clips=3)
    figure = plot_curves(table, width=width)
    named = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert sum(named, []) == _ROSTER[:20] and max(map(len, named)) <= 8 and len(named) % columns == 0
    assert legend(figure)[:3] == ["uniform", "pool", "oracle"]
    for axes, labels in zip(figure.axes, named, strict=True):
        for label in [*labels, "uniform", "pool", "oracle"]:
            assert len(line_of(axes, method_style(label)).get_xdata()) == 3
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
        assert len(lines) == len(labels) + 3


@pytest.mark.slow
@pytest.mark.parametrize("width", ["column", "text"])
def test_fourteen_methods_fit_and_the_legend_covers_nothing(width):
    table = made_up_sweep([*FOURTEEN, *BASELINES], clips=3)
    for plot in (plot_curves, plot_flips, lambda t, width: plot_kinds(t, 16, width=width)):
        figure = plot(table, width=width)
        renderer = drawn(figure)
        box = figure.legends[0].get_window_extent(renderer)
        assert figure.get_figwidth() == figure_size("cvpr", width)[0]
        assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y0 >= -1
        for axes in figure.axes:
            assert axes.get_tightbbox(renderer).y0 >= box.y1 - 2
            assert axes.get_window_extent(renderer).height > 60


def test_variants_of_a_method_share_its_marker_and_differ_in_look():
    labels = ["lftr", *[f"lftr (cut={cut})" for cut in range(11)], "uniform"]
    styles = looks(tidy(made_up_sweep(labels, [1, 4], clips=2), "right"))
    assert list(styles)[-1] == "uniform"
    variants = [styles[label] for label in labels[:-1]]
    assert {style["marker"] for style in variants} == {"o"}
    seen = {(style["color"], str(style["linestyle"]), style.get("fillstyle", "full")) for style in variants}
    assert len(seen) == 12
    assert variants[0] == method_style("lftr") | {"zorder": 3}


def test_a_fidelity_table_needs_no_more_than_its_columns():
    rows = [(c, m, r, 64 // r, 64, 1 / r) for c in "abc" for m in ("lftr", "uniform") for r in (1, 2, 4)]
    table = pd.DataFrame(rows, columns=["clip", "method", "ratio", "kept", "total", "retained_variance"])
    figure = plot_curves(table, "retained_variance", width="text", venue="acl")
    assert figure.axes[0].get_ylabel() == "retained variance"
    assert figure.get_figwidth() == 6.3
    assert figure.vtc["data"]["mean"].tolist() == [1, 0.5, 0.25] * 2


def test_a_label_with_one_ratio_is_a_point_and_asks_nothing_of_the_others():
    table = made_up_sweep(["lftr", "uniform"], [1, 2, 8])
    point = made_up_sweep(["lftr (temporal_ratio=3)"], [3])
    failed = made_up_sweep(["tome"], [8], gaps={("tome", 8): "error"}).assign(ratio=np.nan)
    figure = plot_curves(pd.concat([table, point, failed], ignore_index=True))
    assert line_of(figure.axes[0], method_style("lftr", 1)).get_xdata().tolist() == [299]
    assert {"tome, no result", "missing: 48 of 384 results"} <= set(legend(figure))


def test_one_clip_gives_means_without_intervals():
    assert "too few clips for an interval" not in legend(plot_curves(made_up_sweep(clips=6)))
    figure = plot_curves(made_up_sweep(clips=1))
    assert legend(figure)[-1] == "too few clips for an interval"
    assert figure.vtc["data"].low.isna().all() and figure.vtc["data"]["mean"].notna().all()
    assert figure._repr_png_().startswith(b"\x89PNG")


def mixed_totals() -> pd.DataFrame:
    """A sweep over long and short clips, of which all rows of the short ones failed."""
    table = made_up_sweep(["lftr", "uniform"], [1, 4])
    table["total"] = np.where(table["clip"] < "clips/006.mp4", 800, 400)
    table["kept"] = table["total"] / table.ratio
    table.loc[table["total"] == 400, ["kept", "right", "status"]] = [np.nan, None, "error"]
    return table


def test_the_total_on_an_axis_is_of_the_rows_that_have_a_result():
    figure = plot_curves(mixed_totals())
    assert figure.axes[0].get_xlabel() == "tokens kept of 800, and ratio"
    assert (figure.vtc["data"].total == 800).all()
    assert "tokens kept: 200 of 800" in plot_kinds(mixed_totals(), 4).legends[0].get_title().get_text()
    split = '{"temporal_ratio": 2, "spatial_ratio": 2}'
    table = mixed_totals().query("ratio == 4 and label == 'lftr'").assign(options=split)
    assert plot_heatmap(table).axes[0].get_title().endswith("tokens kept of 800")


@pytest.mark.filterwarnings("error")
def test_a_table_read_back_from_csv_is_drawn_as_before_though_a_sample_has_no_clip(tmp_path):
    table = made_up_sweep(["lftr", "uniform"])
    gone = table["clip"] == "clips/003.mp4"
    results = ["kept", "right", "flipped", "prefill_s", "decode_s", "reduce_s"]
    table.loc[gone, results] = np.nan
    table.loc[gone, ["clip", "kind", "status", "error"]] = ["", "", "error", "no such clip"]
    table.to_csv(tmp_path / "sweep.csv", index=False)
    back = pd.read_csv(tmp_path / "sweep.csv")
    for plot in (plot_curves, plot_flips, lambda t: plot_kinds(t, 4)):
        before, after = plot(table), plot(back)
        pd.testing.assert_frame_equal(before.vtc["data"], after.vtc["data"], check_dtype=False)
        assert legend(before) == legend(after)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    all_figures(folder)
    return folder


def test_every_figure_is_written_with_its_numbers_and_real_fonts(saved):
    pdfs = sorted(saved.glob("*.pdf"))
    assert [pdf.stem for pdf in pdfs] == ["plot_curves", "plot_flips", "plot_forest", "plot_heatmap", "plot_kinds"]
    for pdf in pdfs:
        assert len(pd.read_csv(pdf.with_suffix(".csv"))) > 2
        for font in pypdf.PdfReader(pdf).pages[0]["/Resources"]["/Font"].values():
            font = font.get_object()
            descendant = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
            assert descendant["/Subtype"] in ("/CIDFontType2", "/TrueType")


@pytest.mark.slow
def test_another_process_draws_the_same_bytes_without_pyplot_and_nltk(saved, tmp_path):
    code = f"import sys, test_curves; test_curves.all_figures({str(tmp_path)!r}); "
    code += "print({'matplotlib.pyplot', 'nltk'} & sys.modules.keys())"
    environment = os.environ | {
        "PYTHONHASHSEED": "7",
        "TZ": "UTC-5",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "set()\n", run.stderr
    here, there = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (saved, tmp_path))
    assert len(here) == 25 and here == there


def test_saving_again_after_showing_gives_the_same_bytes(tmp_path):
    figure = plot_curves(made_up_sweep(gaps={("lftr", 16): "minimum"}))
    first = {path: path.read_bytes() for path in save_figure(figure, "f", tmp_path).values()}
    figure.savefig(io.BytesIO(), dpi=72)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert {path: path.read_bytes() for path in save_figure(figure, "f", tmp_path).values()} == first


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: plot_curves(t.iloc[:0]), "no rows"),
        (lambda t: plot_curves(t, "acuracy"), "no column 'acuracy'"),
        (lambda t: plot_curves(t, "said"), "'said' does not hold numbers"),
        (lambda t: plot_curves(t, venue="nips"), "neurips"),
        (lambda t: plot_curves(t.assign(model=np.where(t.index < 9, "b", "a"))), "results of 2 models, 'a' and 'b'"),
        (lambda t: plot_curves(t.assign(status="error", error="disk full")), "none of the .* rows has .*: disk full"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(VTCError, match=words) as caught:
        call(made_up_sweep(clips=2))
    assert "\n" not in str(caught.value)
