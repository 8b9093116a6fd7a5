"""The pictures say what the reduction says."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import vtc_lab as vtc
from vtc_lab.figures.filmstrip import captions, draw_frames, patch_table
from vtc_lab.figures.style import figure_size


@pytest.fixture(scope="module")
def grey() -> vtc.Clip:
    return vtc.Clip(np.full((4, 56, 112, 3), 200, np.uint8), np.arange(4) / 2)


@pytest.fixture(scope="module")
def tokens() -> vtc.VideoTokens:
    generator = torch.Generator().manual_seed(0)
    values, saliency = torch.randn(4, 7, 14, 8, generator=generator), torch.rand(4, 7, 14, generator=generator)
    return vtc.VideoTokens(values, saliency, saliency_source="made up")


def patches(picture: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """(T, h, w, pixels, 3)"""
    frames, rows, columns = grid
    tall, wide = picture.shape[1] // rows, picture.shape[2] // columns
    blocks = picture.reshape(frames, rows, tall, columns, wide, 3).swapaxes(2, 3)
    return blocks.reshape(frames, rows, columns, tall * wide, 3)


def test_kept_is_untouched_dropped_is_dim_and_hatched(grey, tokens):
    reduced = vtc.reduce(tokens, "random", ratio=3)
    picture = draw_frames(grey, reduced, 140)
    assert picture.dtype == np.uint8 and picture.shape == (4, 70, 140, 3)
    blocks = patches(picture, tokens.grid)
    kept = reduced.kept.numpy()
    assert (blocks[kept] == 200).all()
    assert blocks[~kept].max() < 150
    # Two greys in a dropped patch, dim and lit: a hatch and not only a colour. Most patches are crossed by a line.
    crossed = [len(np.unique(block)) > 1 for block in blocks[~kept]]
    assert np.mean(crossed) > 0.9


def test_merged_patches_share_a_colour_and_the_anchor_carries_it(grey, tokens):
    reduced = vtc.reduce(tokens, "lftr", temporal_ratio=2)
    blocks = patches(draw_frames(grey, reduced, 140), tokens.grid).astype(int)
    kept, assign = reduced.kept.numpy(), reduced.assign.view(tokens.grid).numpy()
    size = np.bincount(assign.ravel())
    lone, anchors = kept & (size[assign] == 1), kept & (size[assign] > 1)
    members = ~kept
    assert anchors.any() and members.any()
    assert (blocks[lone] == 200).all()
    for t, y, x in np.argwhere(members)[::17]:
        tint = np.median(blocks[t, y, x], 0)
        assert tint.max() - tint.min() > 20  # coloured
        home = np.argwhere(anchors & (assign == assign[t, y, x]))[0]
        dot = blocks[tuple(home)]
        coloured = dot[(dot.max(1) - dot.min(1)) > 20]
        assert len(coloured) and (np.median(dot, 0) == 200).all(), "the anchor shows the picture, with a dot"
        assert np.argmax(coloured.mean(0)) == np.argmax(tint - 200 * 140 / 256)


def test_frame_colours_tell_segments_apart(grey, tokens):
    reduced = vtc.reduce(tokens, "lftr", temporal_ratio=2)
    blocks = patches(draw_frames(grey, reduced, 140), tokens.grid)
    assign = reduced.assign.view(tokens.grid).numpy()
    anchor_frame = reduced.anchor.numpy()[assign] // (7 * 14)
    merged = [t for t in range(4) if not reduced.kept[t].any()]
    hues = {int(anchor_frame[t, 0, 0]): tuple(np.median(blocks[t, 0, 0], 0)) for t in merged}
    assert len(set(hues.values())) == len(hues)


def test_hues_are_not_spent_on_frames_without_groups():
    """Two groups with six lone frames between them: the seven hues are enough to tell them apart."""
    clip = vtc.Clip(np.full((10, 16, 16, 3), 200, np.uint8), np.arange(10.0))
    group = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7, 7])
    anchor = torch.tensor([0, 2, 3, 4, 5, 6, 7, 8])
    source = vtc.VideoTokens(torch.randn(10, 1, 1, 4))
    picture = draw_frames(clip, vtc.merge(source, group, torch.ones(10), anchor), 32)
    assert np.median(picture[1], (0, 1)).tolist() != np.median(picture[9], (0, 1)).tolist()


def test_captions_and_table_agree_with_the_ledger(grey, tokens):
    for method in vtc.methods().index:
        reduced = vtc.reduce(tokens, method, ratio=3)
        table = patch_table(grey, reduced)
        assert table.kept.sum() == len(reduced)
        assert (table[["kept", "merged", "dropped"]].sum(axis=1) == 98).all()
        assert (table.kept > 0).sum() == int(reduced.ledger.split(", ")[2].split()[0])
    words = [text for _, text in captions(grey, vtc.reduce(tokens, "uniform", ratio=2))]
    assert words == ["all kept", "all dropped", "all dropped", "all kept"]


def test_show_draws_every_reduction_and_carries_its_table(grey, tokens, tmp_path):
    reductions = [vtc.reduce(tokens, name, ratio=4) for name in ("lftr", "uniform")]
    figure = vtc.show(grey, *reductions, venue="cvpr")
    assert figure.get_size_inches()[0] == pytest.approx(6.875)
    texts = [panel._suptitle.get_text().replace("\n", " ") for panel in figure.subfigs]
    assert texts == [" ".join((f"{r.method}: {r.ledger}", *r.notes)) for r in reductions]
    assert len(figure.vtc["data"]) == 8
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("width", ["column", "text"])
@pytest.mark.parametrize(("venue", "frames"), [("acl", 16), ("neurips", 7)])
def test_no_label_touches_another_and_the_legend_names_every_fate(venue, width, frames):
    """`pool` has the longest captions, and `visionzip` a note."""
    clip = vtc.Clip(np.full((frames, 40, 100, 3), 200, np.uint8), np.arange(float(frames)))
    source = vtc.VideoTokens(torch.randn(frames, 14, 14, 8), torch.rand(frames, 14, 14), saliency_source="made up")
    reductions = [vtc.reduce(source, name, ratio=4) for name in ("pool", "lftr", "visionzip", "random")]
    figure = vtc.show(clip, *reductions, venue=venue, width=width)
    assert figure.get_figwidth() == figure_size(venue, width)[0]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split()[0] for text in words] == ["kept", "merged", "dropped"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [panel._suptitle for panel in figure.subfigs] + figure.legends[0].get_texts()
    texts += [axes.title for axes in figure.axes if axes.images]
    boxes = [text.get_window_extent(canvas.get_renderer()).padded(-0.1) for text in texts]
    for (box, text), (other, neighbour) in itertools.combinations(zip(boxes, texts, strict=True), 2):
        assert not box.overlaps(other), (text.get_text(), neighbour.get_text())
    for box, text in zip(boxes, texts, strict=True):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 + 1, text.get_text()
    pictures = [axes.get_window_extent() for axes in figure.axes if axes.images]
    assert len(pictures) == 4 * frames
    assert not any(box.overlaps(picture) for box in boxes for picture in pictures)


def test_merged_patches_have_the_mean_colour_of_their_group():
    """A group of a black and a white patch is grey in the patch that went into the other, but for the tint."""
    frames = np.repeat(np.array([0, 255], np.uint8), 20)[None, None, :, None].repeat(20, 1).repeat(3, 3)
    source = vtc.VideoTokens(torch.randn(1, 1, 2, 4))
    reduced = vtc.merge(source, torch.tensor([0, 0]), torch.ones(2), torch.tensor([0]))
    merged = draw_frames(vtc.Clip(frames, np.zeros(1)), reduced, 40)[0, 5:-5, 25:-5].reshape(-1, 3)
    assert len(np.unique(merged, axis=0)) == 1 and abs(int(merged.mean()) - 0.8 * 127) < 40


def test_show_says_where_the_saliency_is_from(grey, tokens):
    for reduced in (
        vtc.reduce(tokens, "visionzip", ratio=4),
        vtc.reduce(tokens, "lftr", significance="attention", ratio=4),
    ):
        header = vtc.show(grey, reduced).subfigs[0]._suptitle.get_text()
        assert "saliency: made up" in header.replace("\n", " ")


def test_a_reduction_made_by_hand_is_shown(grey, tokens):
    figure = vtc.show(grey, vtc.prune(tokens, torch.arange(49)))
    assert figure.subfigs[0]._suptitle.get_text().startswith("a reduction made by hand: kept 49 of 392 tokens")


def test_errors_are_sentences(grey, tokens):
    reduced = vtc.reduce(tokens[:3], "uniform", ratio=2)
    with pytest.raises(vtc.VTCError, match="4 frames and the reduction 3"):
        vtc.show(grey, reduced)
    with pytest.raises(vtc.VTCError, match="no reduction to show"):
        vtc.show(grey)
    with pytest.raises(vtc.VTCError, match="neurips"):
        vtc.show(grey, vtc.reduce(tokens, "uniform", ratio=2), venue="nips")
