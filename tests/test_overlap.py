"""Comparing what methods keep: the numbers against plain loops, the pictures against the reductions."""

import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

import vtc_lab as vtc
from vtc_lab.figures.filmstrip import draw_frames
from vtc_lab.figures.multiples import compare_kept, shown_frames
from vtc_lab.figures.overlap import kept_overlap, plot_agreement, plot_overlap
from vtc_lab.figures.style import BASELINES

T, H, W = 9, 4, 6


@pytest.fixture(scope="module")
def clip() -> vtc.Clip:
    frames = np.random.default_rng(0).integers(0, 256, (T, 32, 48, 3)).astype(np.uint8)
    return vtc.Clip(frames, np.arange(T) / 4)


@pytest.fixture(scope="module")
def tokens() -> vtc.VideoTokens:
    generator = torch.Generator().manual_seed(0)
    values, saliency = torch.randn(T, H, W, 8, generator=generator), torch.rand(T, H, W, generator=generator)
    return vtc.VideoTokens(values, saliency, encoder="noise", saliency_source="made up")


@pytest.fixture(scope="module")
def everyone(tokens) -> tuple[list[vtc.Reduction], dict[str, vtc.VTCError]]:
    """Every registered method at 4x, and what has no result there."""
    reductions, gaps = [], {}
    for name in vtc.methods().index:
        try:
            reductions.append(vtc.reduce(tokens, name, ratio=4))
        except vtc.VTCError as error:
            gaps[name] = error
    return reductions, gaps


def jaccard(one: vtc.Reduction, other: vtc.Reduction) -> float:
    a, b = set(one.anchor.tolist()), set(other.anchor.tolist())
    return len(a & b) / len(a | b)


def words(figure) -> str:
    """Everything that stands in a figure's header and at its foot."""
    return f"{figure._suptitle.get_text()} {figure._supxlabel.get_text()}".replace("\n", " ")


def test_overlap_is_the_jaccard_index_of_every_two(everyone):
    reductions, _ = everyone
    table = kept_overlap(reductions)
    assert list(table.index) == list(table.columns) == [one.method for one in reductions]
    for one, other in itertools.product(reductions, repeat=2):
        assert table.loc[one.method, other.method] == pytest.approx(jaccard(one, other))


@pytest.mark.slow
@given(st.integers(1, 24), st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_overlap_is_symmetric_between_0_and_1(budget, seeds):
    source = vtc.VideoTokens(torch.randn(2, 3, 4, 2))
    reductions = [vtc.reduce(source, "random", ratio=24 / budget, seed=seed) for seed in seeds]
    values = kept_overlap(reductions).to_numpy()
    assert (values == values.T).all() and (np.diag(values) == 1).all()
    assert ((values >= 0) & (values <= 1)).all()
    for (m, one), (n, other) in itertools.product(enumerate(reductions), repeat=2):
        assert values[m, n] == pytest.approx(jaccard(one, other))


def test_what_is_called_the_same_is_told_apart(tokens):
    by_hand = [vtc.prune(tokens, torch.arange(start, start + 54)) for start in (0, 27)]
    table = kept_overlap([*by_hand, vtc.reduce(tokens, "random", ratio=4, seed=1)])
    name = "a reduction made by hand"
    assert list(table.index) == [f"{name} #1", f"{name} #2", "random (seed=1)"]
    assert table.loc[f"{name} #1", f"{name} #2"] == pytest.approx(27 / 81)


def test_heat_map_shows_every_number_once_and_baselines_in_grey(everyone):
    reductions, _ = everyone
    table = kept_overlap(reductions)
    figure = plot_overlap(reductions)
    axes, count = figure.axes[0], len(reductions)
    order = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(order) == sorted(table.index)
    table = table.loc[order, order]
    shown = {(round(x), round(y)): text.get_text() for text in axes.texts for x, y in [text.get_position()]}
    assert len(shown) == count**2
    for (x, y), text in shown.items():
        assert float(text) == pytest.approx(table.iloc[y, x], abs=0.00501)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == order
        for label in labels:
            channels = {to_hex(label.get_color())[at : at + 2] for at in (1, 3, 5)}
            assert len(channels) == 1 and (channels == {"00"}) == (label.get_text() not in BASELINES)
    assert "each method keeps 54 of 216, 4.0x" in words(figure) and "Tokens by noise" in words(figure)
    assert f"about {0.25 / 1.75:.2f}" in words(figure)
    assert "saliency: made up" in words(figure)


def test_what_is_alike_stands_side_by_side(tokens):
    """Two families that do not overlap, given in turns, come out one after the other."""
    left = [vtc.prune(tokens, torch.arange(50) + shift) for shift in (0, 5, 10)]
    right = [vtc.prune(tokens, torch.arange(50) + shift) for shift in (100, 105, 110)]
    mixed = [one for pair in zip(left, right, strict=True) for one in pair]
    figure = plot_overlap(mixed)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    family = [int(name[-1]) % 2 for name in names]  # they are numbered from 1 as they were given
    assert family in ([1] * 3 + [0] * 3, [0] * 3 + [1] * 3)
    data = figure.vtc["data"]
    assert len(data) == 36 and list(data.label[:6]) == names
    assert data.set_index(["label", "other"]).jaccard[names[0], names[1]] == pytest.approx(45 / 55)


@pytest.mark.slow
def test_small_multiples_have_a_panel_for_every_method_and_every_gap(clip, everyone):
    reductions, gaps = everyone
    assert list(gaps) == ["dycoke"]
    figure = compare_kept(clip, reductions, gaps)
    assert figure.get_size_inches()[0] == pytest.approx(5.5)
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    for one in reductions:
        title = f"{one.method} (baseline)  54/216" if one.method in BASELINES else f"{one.method}  54/216"
        colour = titles.pop(title)._left_title.get_color()
        assert (colour == "black") == (one.method not in BASELINES)
    (title, empty), *_ = titles.items()
    assert len(titles) == 1 and title == "dycoke: cannot keep this budget" and not empty.images
    assert str(gaps["dycoke"]) in words(figure)
    for note in ("saliency: made up", "Dark and hatched: dropped", "4 of 9"):
        assert note in words(figure)
    assert words(figure).count("saliency: made up") == 1, "methods with the same note share a line"
    data = figure.vtc["data"]
    assert (data.groupby("label").kept.sum() == 54).all() and data.label.nunique() == len(reductions)


def test_a_panel_shows_the_frames_and_the_share_of_every_frame(clip, tokens):
    reduced = vtc.reduce(tokens, "lftr", ratio=4)
    figure = compare_kept(clip, [reduced])
    picture, bar = figure.axes
    chosen = shown_frames(4, T)
    assert np.allclose(bar.images[0].get_array()[0], reduced.kept.flatten(1).float().mean(1))
    assert list(bar.get_xticks()) == chosen
    four = np.asarray(picture.images[0].get_array())
    width = (four.shape[1] - 3 * 4) // 4
    for place, frame in enumerate(draw_frames(clip, reduced, width)[chosen]):
        start = place * (width + 4)
        assert (four[:, start : start + width] == frame).all()
        assert (four[:, start + width : start + width + 4] == 255).all()


def test_frames_stand_for_the_clip_and_not_for_what_uniform_keeps():
    assert shown_frames(4, 9) == [1, 3, 5, 7]
    assert shown_frames(4, 16) == [2, 6, 10, 14]
    assert shown_frames(9, 4) == shown_frames(4, 4) == [0, 1, 2, 3]
    assert shown_frames(1, 1) == [0]


def test_agreement_counts_the_methods_that_keep_each_patch(clip, everyone):
    reductions, _ = everyone
    figure = plot_agreement(clip, reductions)
    data = figure.vtc["data"]
    assert len(data) == T * H * W and (data.methods == len(reductions)).all()
    for row in data.sample(40, random_state=0).itertuples():
        assert row.kept_by == sum(bool(one.kept[row.frame, row.y, row.x]) for one in reductions)
        assert row.seconds == clip.times[row.frame]
    everywhere, nowhere = (data.kept_by == len(reductions)).sum(), (data.kept_by == 0).sum()
    assert f"Kept by all {len(reductions)}: {everywhere} patches; by none: {nowhere}." in words(figure)
    assert "saliency: made up" in words(figure)
    histogram = figure.axes[-1]
    heights = [bar.get_height() for bar in histogram.patches]
    assert heights == np.bincount(data.kept_by, minlength=len(reductions) + 1).tolist()


def test_independent_choices_follow_the_line(clip):
    """Many random selections agree as often as the line says: a tenth of the patches at most is elsewhere."""
    source = vtc.VideoTokens(torch.randn(T, 16, 16, 2))
    reductions = [vtc.reduce(source, "random", ratio=4, seed=seed) for seed in range(12)]
    histogram = plot_agreement(clip, reductions).axes[-1]
    heights = np.array([bar.get_height() for bar in histogram.patches])
    expected = histogram.lines[0].get_ydata()
    assert expected.sum() == pytest.approx(T * 256)
    assert np.abs(heights - expected).sum() / 2 < 0.1 * T * 256


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 4, 4), (3, 1, 1)])
def test_the_smallest_grids_are_drawn_too(grid):
    source = vtc.VideoTokens(torch.randn(*grid, 4))
    film = vtc.Clip(np.zeros((grid[0], 20, 30, 3), np.uint8), np.arange(float(grid[0])))
    reductions = [vtc.reduce(source, name, ratio=1) for name in ("lftr", "uniform")]
    for figure in (compare_kept(film, reductions), plot_overlap(reductions), plot_agreement(film, reductions)):
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert (kept_overlap(reductions) == 1).all(axis=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")  # matplotlib gives up on a layout with a warning
def test_long_names_fit_into_a_narrow_column(clip, tokens):
    long = {"temporal_ratio": 1, "significance": "neighbours", "segments": "optimal", "granularity": "patch"}
    reductions = [vtc.reduce(tokens, "random-per-frame", ratio=4, seed=seed) for seed in range(8)]
    reductions.append(vtc.reduce(tokens, "lftr", ratio=4, **long))
    for figure in (
        compare_kept(clip, reductions, venue="acl", width="column"),
        plot_overlap(reductions, venue="acl", width="column"),
        plot_agreement(clip, reductions, venue="acl", width="column"),
    ):
        figure.draw_without_rendering()
        taken = figure.get_tightbbox()  # inches
        assert taken.x0 > -0.01 and taken.x1 < 3.03 + 0.01 and taken.y0 > -0.01
        assert "segments=optimal" in words(figure) or any(
            "segments" in one.get_title(loc="left") for one in figure.axes
        )
    assert "[1] lftr (temporal_ratio=1" in words(plot_overlap(reductions))


@pytest.mark.slow
def test_figures_are_saved_with_their_tables_and_words_as_they_are(clip, tokens, everyone, tmp_path):
    """Dollars in names and notes make no formula."""
    source = vtc.VideoTokens(tokens.values, tokens.saliency, encoder="$0 - $10", saliency_source=r"Ba$$in \frac")
    reductions = [replace(vtc.reduce(source, name, ratio=4), method="$9") for name in ("visionzip", "random")]
    figures = {
        "shown": vtc.show(clip, *reductions),
        "kept": compare_kept(clip, reductions, everyone[1], venue="cvpr", width="column", columns=2),
        "overlap": plot_overlap(reductions, venue="cvpr"),
        "agreement": plot_agreement(clip, reductions, venue="icml"),
    }
    for name, figure in figures.items():
        paths = vtc.save_figure(figure, name, tmp_path)
        assert set(paths) == {".pdf", ".svg", ".png", ".csv", ".json"}
        drawn = " ".join(ET.parse(paths[".svg"]).getroot().itertext())
        assert "$9" in drawn and r"Ba$$in \frac" in drawn and (name == "shown" or "$0 - $10" in drawn)
    facts = json.loads((tmp_path / "kept.json").read_text())
    assert facts["inches"][0] == 3.281 and facts["config"]["plot"] == "compare_kept"
    assert "every fourth frame whole" in facts["config"]["gaps"]["dycoke"]
    assert [one["kept"] for one in facts["config"]["reductions"]] == [54] * len(reductions)


def test_errors_are_sentences(clip, tokens):
    uniform, random = (vtc.reduce(tokens, name, ratio=4) for name in ("uniform", "random"))
    smaller, shorter = vtc.reduce(tokens, "random", ratio=8), vtc.reduce(tokens[:5], "random", ratio=120 / 54)
    wrong = [
        (lambda: kept_overlap([uniform, smaller]), "uniform keeps 54 tokens and random 27; compare methods at one"),
        (lambda: kept_overlap([uniform, shorter]), "of (9, 4, 6) and (5, 4, 6) grids"),
        (lambda: kept_overlap([uniform]), "give a list of at least 2 that vtc.reduce returned"),
        (lambda: plot_overlap(["lftr", "uniform"]), "'lftr' is no Reduction; make one with vtc.reduce"),
        (lambda: compare_kept(clip, []), "reductions has 0; give a list of at least 1"),
        (lambda: compare_kept(clip[:4], [uniform]), "the clip has 4 frames and the reduction 9"),
        (lambda: compare_kept("bikes.mp4", [uniform]), "'bikes.mp4' is no Clip"),
        (lambda: compare_kept(clip, [uniform], columns=0), "columns is 0; choose 1 to 6"),
        (lambda: plot_agreement(clip, [uniform, smaller]), "at one budget"),
        (lambda: plot_overlap([uniform, random], venue="nips"), "neurips"),
        (lambda: plot_overlap([random] * 18, venue="acl", width="column"), "18 methods cannot be read in 3.03 inches"),
        (
            lambda: compare_kept(clip, [uniform] * 9, columns=9),
            "columns is 9; choose 1 to 6, so that the frames can be seen",
        ),
    ]
    for call, said in wrong:
        with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
            call()
        assert said in str(error.value)
