"""Which pictures of a prompt are frames of one clip: by what the real processors write before them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conformance_table import compare_with_masked, load, logits, same
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import SIDE, TINY, frames, prompt

import vtc_lab as vtc
from vtc_lab.models.compression import compress
from vtc_lab.models.families import FAMILIES
from vtc_lab.models.prompt_clips import encode_prompt

LARGE = np.zeros((2 * SIDE, 3 * SIDE, 3), np.uint8)
INTERNVL, SMOLVLM = (re.compile(FAMILIES[name].frame, re.DOTALL) for name in ("internvl", "smolvlm"))


def large(family: str, *pictures: str):
    """A prompt with large pictures, cut into pieces by the processor's own defaults."""
    model, processor = load(family)
    cut = {"crop_to_patches": True, "max_patches": 6}
    if family != "internvl":
        cut = {"do_image_splitting": True, "do_resize": False, "max_image_size": {"longest_edge": SIDE}}
    text = " ".join(f"{words} {TINY[family].picture}" for words in pictures) + " ?"
    inputs = processor(text=text, images=[LARGE] * len(pictures), images_kwargs=cut, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 4 * 7 * len(pictures)
    return model, inputs


@given(st.integers(1, 3000), st.booleans())
def test_internvl_counts_frames(number, spaced) -> None:
    digits = " ".join(str(number)) if spaced else str(number)  # some tokenizers decode with spaces between
    gap = " " * spaced
    found = INTERNVL.search(f"</img>\nFrame{gap}{digits}{gap}: <img>{gap}")
    assert bool(found["first"]) == (number == 1)
    assert INTERNVL.search(f"{number}: a picture of Frame{number}</img>\nFrame{number}: <img>")
    for other in ("", "\n", "Image: ", f"Image-{number}: ", f"Frame{number} ", f"Frame{number}: here "):
        assert not INTERNVL.search(f"</img>{other}<img>")


@given(st.integers(0, 99), st.integers(0, 59))
def test_smolvlm_tells_the_time_of_frames(minutes, seconds) -> None:
    end = f"\nFrame from {minutes:02d}:{seconds:02d}:<fake_token_around_image><global-img>"
    begin = "You are provided the following series of six frames from a 0:00:03 [H:MM:SS] video.\n"
    assert (
        SMOLVLM.search(f"User:{begin}{end}")["first"] and not SMOLVLM.search(f"<fake_token_around_image>{end}")["first"]
    )
    for other in ("<fake_token_around_image><global-img>", f"{end}<row_1_col_2>", end.replace("from", "")):
        assert not SMOLVLM.search(other)


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_clips_that_processors_write(family) -> None:
    """Clips with pictures before, between and behind them, in a padded batch; nobody says which are frames."""
    model, processor = load(family)
    picture = frames(5)[0]
    row, lone = (frames(1), frames(2), "and no", frames(3), "down"), [("where ?",)]
    if family == "internvl":  # the other's processor forgets pictures beside clips
        row, lone = ("from :", picture, *row, "is", picture, picture, "?"), [("is", picture, "red ?"), *lone]
    inputs = prompt(family, processor, row, ("what moves", frames(4), "?"), *lone)
    found = encode_prompt(model, inputs)
    assert [len(tokens.values) for tokens in found.tokens] == [6] * 4
    alone = [encode_prompt(model, prompt(family, processor, ("what", frames(n), "?"))).tokens[0] for n in (1, 2, 3, 4)]
    for tokens, other in zip(found.tokens, alone, strict=True):
        torch.testing.assert_close(tokens.values, other.values, atol=1e-5, rtol=0)
    there = inputs["attention_mask"].bool()
    same(logits(model, compress(model, inputs, "lftr", 1))[there], logits(model, inputs)[there])
    compare_with_masked(model, prompt(family, processor, row))


def test_long_clips_beside_a_picture() -> None:
    model, processor = load("internvl")
    clip = np.concatenate([frames(n) for n in range(20)])
    text = "is <IMG_CONTEXT> in <video> or <video> ?"
    inputs = processor(text=text, images=[frames(9)[0]], videos=[clip, clip[::-1].copy()], return_tensors="pt")
    assert [len(tokens.values) for tokens in encode_prompt(model, inputs).tokens] == [120, 120]


def test_a_clip_of_one_frame() -> None:
    model, processor = load("internvl")
    inputs = processor(text="is <video> in <video> ?", videos=[frames(1)[:1], frames(2)[:1]], return_tensors="pt")
    assert [len(tokens.values) for tokens in encode_prompt(model, inputs).tokens] == [1, 1]


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_pictures_come_back_whole(family) -> None:
    """Also those that the processor cuts into pieces, and several of them."""
    model, processor = load(family)
    some = prompt(family, processor, ("is", frames(1)[0], "or", frames(2)[0], "red ?"))
    for inputs in (some, large(family, "is")[1], large(family, "is", "and", "no")[1]):
        reduced = compress(model, inputs, "lftr", ratio=4)
        assert reduced.reductions == () and torch.equal(reduced["input_ids"], inputs["input_ids"])


@pytest.mark.parametrize("family", ["idefics3", "llava"])
def test_pictures_are_the_clip_where_processors_take_no_videos(family) -> None:
    model, processor = load(family)
    rows = [("what", frames(1), "then", frames(2)[:3], "?"), ("is it", frames(3)[0], "?"), ("where ?",)]
    found = encode_prompt(model, prompt(family, processor, *rows))
    assert [len(tokens.values) for tokens in found.tokens] == [9, 1]


def test_pieces_are_no_frames() -> None:
    model, inputs = large("idefics3", "is")
    with pytest.raises(vtc.VTCError, match="cut up pictures; call it with do_image_splitting=False, or say .*clips="):
        compress(model, inputs, "lftr", ratio=4)


def test_without_a_tokenizer_clips_have_to_be_named() -> None:
    model, processor = load("internvl")
    inputs, name = prompt("internvl", processor, ("what", frames(1), "?")), model.name_or_path
    expected = compress(model, inputs, "random", ratio=4)
    try:
        model.name_or_path = model.config._name_or_path = ""
        with pytest.raises(
            vtc.VTCError, match="InternVL's frames are told by the words .* no tokenizer in ''; say .*clips="
        ):
            compress(model, inputs, "random", ratio=4)
        reduced = compress(model, inputs, "random", ratio=4, clips=[slice(0, 6)])
    finally:
        model.name_or_path = model.config._name_or_path = name
    assert torch.equal(reduced["input_ids"], expected["input_ids"])
