"""Which pictures of a prompt are frames of one clip: by the text between them, on what the real processors write."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conformance_table import compare_with_masked, load, logits, same
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import SIDE, TINY, frames, prompt

import vtc_lab as vtc
from vtc_lab.models.compress import compress
from vtc_lab.models.frames import clips_of
from vtc_lab.models.prompt_clips import encode_prompt

FRAME, COLON, IMAGE, BREAK, TEN = 90, 91, 92, 93, 10  # tokens; digits are 0 to 9


def number(n: int) -> tuple[int, ...]:
    return tuple(map(int, str(n)))


def counted(count: int, lead: tuple = (BREAK,)) -> list[tuple[int, ...]]:
    """The texts before the frames of a clip, as InternVL's processor writes them."""
    return [((*lead, 60) if n == 1 else (BREAK,)) + (FRAME, *number(n), COLON, IMAGE) for n in range(1, count + 1)]


def timed(count: int, per_second: int) -> list[tuple[int, ...]]:
    """As SmolVLM's: a line that tells of the clip, then times, of which several can be the same."""
    texts = []
    for n in range(count):
        minutes, seconds = divmod(n // per_second, 60)
        stamp = (*number(minutes // 10), *number(minutes % 10), COLON, *number(seconds // 10), *number(seconds % 10))
        lead = (70, 71, *number(count), 72, 73, 74, 75, 76) if n == 0 else (94,)
        texts.append((*lead, BREAK, FRAME, 80, *stamp, COLON, 94, IMAGE))
    return texts


def runs(*lengths: int, start: int = 0) -> list[list[int]]:
    ends = np.cumsum([start, *lengths])
    return [list(range(begin, end)) for begin, end in zip(ends, ends[1:], strict=False)]


@given(st.lists(st.integers(3, 130), min_size=1, max_size=4), st.lists(st.integers(60, 69), max_size=4))
def test_frames_that_are_counted(lengths, between) -> None:
    texts = [text for length in lengths for text in counted(length, (BREAK, *between))]
    assert clips_of(texts, pieces=True) == runs(*lengths)


@given(st.lists(st.integers(3, 150), min_size=1, max_size=3), st.integers(1, 4))
def test_frames_that_are_timed(lengths, per_second) -> None:
    assert clips_of([text for length in lengths for text in timed(length, per_second)]) == runs(*lengths)


@given(st.integers(2, 40), st.lists(st.integers(0, 99), max_size=3))
def test_frames_with_the_same_between_them(count, between) -> None:
    """As LLaVA's users write: nothing, or a line break; a picture elsewhere is none of them."""
    texts = [(1, 2, 3)] + [tuple(between)] * (count - 1)
    assert clips_of(texts) == runs(count)
    if count > 2:
        apart = (50, 51, 52, 53, 54, 55, 56, 57)
        assert clips_of([(1,), apart, *texts[1:], apart]) == runs(count, start=1)


@pytest.mark.parametrize("lead", [(), (61,), (61, 62, 63, 64)])
def test_a_picture_before_counted_frames_is_none_of_them(lead) -> None:
    frame = counted(6)
    first = (BREAK, *lead, *frame[0][2:])  # with just a line break it looks like the text before any other frame
    assert clips_of([(5, IMAGE), first, *frame[1:]], pieces=True) == runs(6, start=1)
    again = [(BREAK, FRAME, 1, COLON, IMAGE), *frame[1:]]
    assert clips_of([(5, IMAGE), first, *frame[1:], *again], pieces=True) == runs(6, 6, start=1)


def test_pieces_of_a_picture_are_no_frames() -> None:
    pieces = [(5, IMAGE), *[()] * 6]
    assert clips_of(pieces, pieces=True) == [] and clips_of(pieces) == runs(7)
    assert clips_of([*pieces, *counted(8)], pieces=True) == runs(8, start=7)
    rows = [(5, IMAGE, 40)] + [(IMAGE, 41 + n) for n in range(5)]  # SmolVLM names row and column
    assert clips_of([*rows, (BREAK, IMAGE, 94), *timed(9, 2)]) == runs(9, start=7)


def test_one_picture_is_no_clip_and_two_are() -> None:
    assert clips_of([]) == clips_of([(1, 2)]) == [] and clips_of([(1, 2), (3,)]) == [[0, 1]]


def test_what_cannot_be_told_is_asked() -> None:
    with pytest.raises(vtc.VTCError, match=r"which of 3 pictures are frames .* clips=\[slice"):
        clips_of([(1,), (2, 3), (4, 5, 6)])


@pytest.mark.parametrize("family", ["internvl", "smolvlm", "idefics3", "llava"])
def test_clips_that_processors_write(family) -> None:
    """Two clips with a picture before, between and behind them, in a padded batch; nobody says which are frames."""
    model, processor = load(family)
    picture = frames(5)[0]
    row, lone = ("first , then", frames(1), "and no", frames(2), "down"), [("where ?",)]
    if family != "smolvlm":  # whose processor forgets pictures beside clips
        row, lone = ("what is", picture, *row, "is", picture, "?"), [("is", picture, "red ?"), *lone]
    inputs = prompt(family, processor, row, ("what moves", frames(3), "?"), *lone)
    found = encode_prompt(model, inputs)
    assert [len(tokens.values) for tokens in found.tokens] == [6, 6, 6]
    alone = [encode_prompt(model, prompt(family, processor, ("what", frames(n), "?"))).tokens[0] for n in (1, 2, 3)]
    for tokens, other in zip(found.tokens, alone, strict=True):
        torch.testing.assert_close(tokens.values, other.values, atol=1e-5, rtol=0)
    there = inputs["attention_mask"].bool()
    same(logits(model, compress(model, inputs, "lftr", 1))[there], logits(model, inputs)[there])
    compare_with_masked(model, prompt(family, processor, row))


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_clips_side_by_side(family) -> None:
    model, processor = load(family)
    found = encode_prompt(model, prompt(family, processor, (frames(1), frames(2), frames(3), "?")))
    assert [len(tokens.values) for tokens in found.tokens] == [6, 6, 6]


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_a_large_picture_comes_back_whole(family) -> None:
    model, processor = load(family)
    large = np.zeros((2 * SIDE, 3 * SIDE, 3), np.uint8)
    cut = {"crop_to_patches": True, "max_patches": 6}
    if family == "smolvlm":
        cut = {"do_image_splitting": True, "do_resize": False, "max_image_size": {"longest_edge": SIDE}}
    inputs = processor(text=f"is {TINY[family].picture} red ?", images=[large], images_kwargs=cut, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4 * 7
    reduced = compress(model, inputs, "lftr", ratio=4)
    assert reduced.reductions == () and torch.equal(reduced["input_ids"], inputs["input_ids"])
