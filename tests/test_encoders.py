"""Encoders without a language model: shapes, what their tokens show, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtc_lab as vtc


def noise(frames=3, height=64, width=96, seed=0) -> vtc.Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)
    return vtc.Clip(pixels, np.arange(frames))


@pytest.fixture(scope="module")
def efficientnet():
    return vtc.load_encoder("efficientnet-lite0")


@pytest.fixture(scope="module")
def clips() -> dict[str, vtc.Clip]:
    """8 frames over 4 s of each clip that comes with the project; the dog runs for 1.5 s only."""
    return {path.stem: vtc.read_clip(path, frames=8, end=1.5 if path.stem == "dog" else 4) for path in vtc.find_clips()}


def to_previous_and_within(tokens: vtc.VideoTokens) -> tuple[float, float]:
    """Mean cosine to the same place in the previous frame, and between the patches of one frame."""
    unit = torch.nn.functional.normalize(tokens.values.flatten(1, 2), dim=-1)
    count = unit.shape[1]
    within = ((unit @ unit.mT).sum((1, 2)) - count) / (count * (count - 1))
    return float((unit[1:] * unit[:-1]).sum(-1).mean()), float(within.mean())


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 8, 16, 32])
def test_pixels_come_back_at_native_size(patch) -> None:
    clip, encoder = noise(20), vtc.load_encoder("pixels", size=None, patch=patch)  # 20 frames: more than one batch
    tokens = encoder.encode(clip)
    assert tokens.values.shape == (20, 64 // patch, 96 // patch, 3 * patch**2)
    assert tokens.values.dtype == torch.float32 and tokens.values.min() == -1 and tokens.values.max() == 1
    back = encoder.decode(tokens.values)
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - clip.frames.astype(int)).max() <= 1


def test_a_token_is_the_patch_at_its_place() -> None:
    pixels = np.zeros((2, 32, 48, 3), np.uint8)
    pixels[1, 16:32, 32:48] = (255, 0, 51)
    tokens = vtc.load_encoder("pixels", size=None).encode(vtc.Clip(pixels, np.arange(2)))
    coloured = tokens.values[1, 1, 2].view(16, 16, 3)
    assert torch.allclose(coloured, torch.tensor([1, -1, -0.6]).expand(16, 16, 3))
    rest = tokens.values.clone()
    rest[1, 1, 2] = -1
    assert rest.eq(-1).all()


def test_a_clip_is_resized_to_a_square_of_patches() -> None:
    clip = noise(2, 90, 120)
    tokens = vtc.load_encoder("pixels").encode(clip)
    assert tokens.grid == (2, 14, 14) and tokens.values.shape[-1] == 768
    assert tokens.saliency is None and tokens.encoder == "pixels 224x224, patches of 16"
    assert vtc.load_encoder("pixels", size=112, patch=8).encode(clip).grid == (2, 14, 14)
    flat = vtc.Clip(np.full((2, 90, 120, 3), 200, np.uint8), np.arange(2))
    assert torch.allclose(vtc.load_encoder("pixels").encode(flat).values, torch.tensor(200 / 127.5 - 1), atol=1e-5)


def test_a_reduction_can_be_checked_by_eye() -> None:
    """Decoding what stayed shows, at every kept place of a pruned clip, the pixels that were there."""
    clip, encoder = noise(4, 64, 64), vtc.load_encoder("pixels", size=None)
    reduced = vtc.reduce(encoder.encode(clip), "random", ratio=4)
    shown = encoder.decode(reduced.reconstruct()).astype(int)
    seen = reduced.kept.numpy().repeat(16, 1).repeat(16, 2)
    assert np.abs(shown - clip.frames)[seen].max() <= 1
    assert np.abs(shown - clip.frames)[~seen].mean() > 40


# --- efficientnet-lite0 ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_efficientnet_gives_a_14x14_grid_of_112_channels(efficientnet) -> None:
    tokens = efficientnet.encode(noise(17, 90, 120))  # more than one batch
    assert tokens.values.shape == (17, 14, 14, 112) and tokens.values.is_contiguous()
    assert not tokens.values.requires_grad and tokens.values.isfinite().all() and tokens.saliency is None
    assert "ImageNet" in tokens.encoder and "CLIP" not in tokens.encoder


@pytest.mark.slow
def test_efficientnet_sees_each_frame_by_itself(efficientnet) -> None:
    clip = noise(18, 60, 60)
    whole, part = efficientnet.encode(clip).values, efficientnet.encode(clip[15:18]).values
    torch.testing.assert_close(whole[15:18], part, atol=1e-4, rtol=1e-4)


def test_efficientnet_tells_a_pattern_from_another_and_where_it_is(efficientnet) -> None:
    pixels = np.full((2, 224, 224, 3), 128, np.uint8)
    pixels[1, 112:, 112:] = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    plain, marked = efficientnet.encode(vtc.Clip(pixels, np.arange(2))).values
    change = 1 - torch.nn.functional.cosine_similarity(plain, marked, dim=-1)
    assert change[8:, 8:].mean() > 3 * change[:5, :5].mean()


STILL = ("dog", "robot_cooking", "pedestrians")
MOVING = ("bikes", "dunes", "sintel")


@pytest.mark.slow
def test_real_features_tell_still_clips_from_moving_ones(efficientnet, clips) -> None:
    measured = {name: to_previous_and_within(efficientnet.encode(clip)) for name, clip in clips.items()}
    before = {name: each[0] for name, each in measured.items()}
    within = {name: each[1] for name, each in measured.items()}
    assert min(before[name] for name in STILL) > 0.8 > 0.7 > max(before[name] for name in MOVING)
    for name in measured:  # time is more alike than space, and places of a frame are told apart
        assert before[name] > within[name] and 0 < within[name] < 0.5, name


# --- what is refused ---------------------------------------------------------------------------------------------


def test_patches_that_do_not_divide_the_frame_are_refused() -> None:
    with pytest.raises(vtc.VTCError, match="16 do not divide.*120x90.*112x80"):
        vtc.load_encoder("pixels", size=None).encode(noise(1, 90, 120))
    with pytest.raises(vtc.VTCError, match="patches of 15 do not divide.*224x224"):
        vtc.load_encoder("pixels", patch=15)
    with pytest.raises(vtc.VTCError, match="32.*8x8"):
        vtc.load_encoder("pixels", size=8, patch=32)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("pixel", {}, "'pixel'.*'pixels'"),
        ("clip-vit", {}, "'clip-vit'.*'pixels', 'efficientnet-lite0'"),
        (None, {}, "None.*'pixels'"),
        ("pixels", {"size": 0}, "size is 0"),
        ("pixels", {"size": 224.0}, "size is 224.0.*whole number"),
        ("pixels", {"size": True}, "size is True"),
        ("pixels", {"patch": -16}, "patch is -16"),
        ("pixels", {"patch": None}, "patch is None"),
        ("pixels", {"patch": "16"}, "patch is '16'"),
    ],
)
def test_an_unknown_encoder_or_a_wrong_side_is_named(name, options, complaint) -> None:
    with pytest.raises(vtc.VTCError, match=complaint):
        vtc.load_encoder(name, **options)


@pytest.mark.parametrize("name", ["pixels", "efficientnet-lite0"])
def test_what_an_encoder_cannot_do_is_refused(name) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'sise'"):
        vtc.load_encoder(name, sise=64)
    encoder = vtc.load_encoder(name)
    with pytest.raises(vtc.VTCError, match=f"encoder '{name}' has no attention"):
        encoder.encode(noise(1), saliency=True)
    with pytest.raises(vtc.VTCError, match="'dog.mp4' is no Clip"):
        encoder.encode("dog.mp4")
