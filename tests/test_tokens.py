"""The contract's three dataclasses: their checks, slices and representatives."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.tokens import suggest

DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]


def tokens_of(grid=(6, 3, 4), channels=5, seed=0) -> vtc.VideoTokens:
    gen = torch.Generator().manual_seed(seed)
    return vtc.VideoTokens(torch.randn(*grid, channels, generator=gen), torch.rand(grid, generator=gen), "toy")


@st.composite
def reductions(draw) -> tuple[vtc.VideoTokens, vtc.Reduction]:
    """A random reduction of a random grid: anchors anywhere, the rest merged anywhere or dropped."""
    grid = draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)))
    tokens = tokens_of(grid, seed=draw(st.integers(0, 99)))
    gen = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    budget = draw(st.integers(1, tokens.total))
    anchor = torch.randperm(tokens.total, generator=gen)[:budget]
    group = torch.randint(-1, budget if draw(st.booleans()) else 0, (tokens.total,), generator=gen)
    group[anchor] = torch.arange(budget)
    return tokens, vtc.merge(tokens, group, torch.rand(tokens.total, generator=gen), anchor)


# --- Clip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "times", "complaint"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], r"float32.*\(2, 4, 4, 3\).*uint8"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"\(2, 4, 4\).*\(T, H, W, 3\)"),
        (np.zeros((2, 4, 4, 4), np.uint8), [0, 1], r"\(2, 4, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), [], r"\(0, 4, 4, 3\).*none of them 0"),
        (np.zeros((2, 0, 4, 3), np.uint8), [0, 1], r"\(2, 0, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 1, 2], r"2 frames.*\(3,\).*one time per frame"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0.0, r"2 frames.*\(\)"),
    ],
)
def test_a_clip_that_is_none_is_refused(frames, times, complaint) -> None:
    with pytest.raises(vtc.VTCError, match=complaint):
        vtc.Clip(frames, times)


def test_a_part_of_a_clip() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    clip = vtc.Clip(frames, [0, 0.5, 1, 1.5, 2], "a.mp4", "decord 0.6.0")
    part = clip[1:4]
    assert len(clip) == 5 and len(part) == 3
    assert np.array_equal(part.frames, frames[1:4]) and part.times.tolist() == [0.5, 1, 1.5]
    assert (part.path, part.reader) == ("a.mp4", "decord 0.6.0")
    assert clip[-2:].times.tolist() == [1.5, 2] and len(clip[:]) == 5


def test_the_hash_of_a_clip_is_that_of_its_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    clip = vtc.Clip(frames, np.arange(5))
    assert vtc.Clip(frames.copy(), np.arange(5) + 1, "elsewhere").sha256 == clip.sha256
    assert vtc.Clip(frames[:, :, ::-1], np.arange(5)).sha256 != clip.sha256  # a view is hashed by what it shows
    assert vtc.Clip(frames[:, :, ::-1][:, :, ::-1], np.arange(5)).sha256 == clip.sha256


@pytest.mark.parametrize(
    "wrong", [slice(2, 2), slice(4, 2), slice(9, 12), slice(0, 4, 2), slice(None, None, -1), 1, [0]]
)
def test_frames_are_chosen_by_a_plain_range(wrong) -> None:
    clip = vtc.Clip(np.zeros((5, 4, 4, 3), np.uint8), np.arange(5))
    tokens = tokens_of((5, 2, 2))
    for whole in (clip, tokens, vtc.reduce(tokens, "uniform", ratio=2)):
        with pytest.raises(vtc.VTCError, match=r"\[.*\] of 5 frames|slice such as"):
            whole[wrong]


# --- VideoTokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "saliency", "complaint"),
    [
        (torch.zeros(4, 2, 8), None, r"float32 of shape \(4, 2, 8\).*\(T, h, w, D\)"),
        (torch.zeros(4, 2, 2, 8, dtype=torch.long), None, "int64.*floating"),
        (torch.zeros(4, 2, 2, 8, dtype=torch.bool), None, "bool.*floating"),
        (torch.zeros(0, 2, 2, 8), None, r"\(0, 2, 2, 8\)"),
        (torch.zeros(4, 2, 2, 0), None, r"\(4, 2, 2, 0\)"),
        (np.zeros((4, 2, 2, 8)), None, "ndarray"),
        (None, None, "NoneType"),
        (torch.zeros(4, 2, 2, 8), torch.zeros(4, 2), r"saliency.*\(4, 2\).*\(4, 2, 2\)"),
        (torch.zeros(4, 2, 2, 8), torch.zeros(4, 2, 2, dtype=torch.long), "saliency.*int64"),
        (torch.zeros(4, 2, 2, 8), np.zeros((4, 2, 2)), "saliency is ndarray"),
        (torch.zeros(4, 2, 2, 8), torch.full((4, 2, 2), -0.1), "negative"),
        (torch.zeros(4, 2, 2, 8), torch.full((4, 2, 2), float("nan")), "non-finite"),
        (torch.zeros(4, 2, 2, 8), torch.full((4, 2, 2), float("inf")), "non-finite"),
    ],
)
def test_tokens_that_are_none_are_refused(values, saliency, complaint) -> None:
    with pytest.raises(vtc.VTCError, match=complaint) as caught:
        vtc.VideoTokens(values, saliency)
    assert not re.search(r"\.\s|\n", str(caught.value))


def test_a_part_of_the_tokens() -> None:
    tokens = tokens_of()
    part = tokens[2:5]
    assert (tokens.grid, tokens.total, len(tokens)) == ((6, 3, 4), 72, 6)
    assert (part.grid, part.total, len(part), part.encoder) == ((3, 3, 4), 36, 3, "toy")
    assert torch.equal(part.values, tokens.values[2:5]) and torch.equal(part.saliency, tokens.saliency[2:5])
    assert vtc.VideoTokens(tokens.values)[1:2].saliency is None


# --- Reduction ---------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(reductions(), st.data())
def test_a_part_of_a_reduction_is_what_its_frames_anchor(pair, data) -> None:
    tokens, whole = pair
    start = data.draw(st.integers(0, len(tokens) - 1))
    stop = data.draw(st.integers(start + 1, len(tokens)))
    part, patches = whole[start:stop], tokens.grid[1] * tokens.grid[2]
    outputs = [k for k in range(len(whole)) if start <= whole.anchor[k] // patches < stop]
    assert part.grid == (stop - start, *tokens.grid[1:]) and part.total == (stop - start) * patches
    assert torch.equal(part.tokens, whole.tokens[outputs])
    assert (part.anchor + start * patches).tolist() == whole.anchor[outputs].tolist()
    assert torch.equal(part.kept, whole.kept[start:stop])
    for m in range(part.total):
        home = int(whole.assign[start * patches + m])
        if home in outputs:
            assert part.assign[m] == outputs.index(home) and part.weight[m] == whole.weight[start * patches + m]
        else:
            assert part.assign[m] == -1 and part.weight[m] == 0
    if outputs:
        part.check()
        assert part.ledger.startswith(f"kept {len(outputs)} of {part.total} tokens, ")
    else:
        assert part.ledger == f"kept 0 of {part.total} tokens, nothing left, 0 of {stop - start} frames"
        with pytest.raises(vtc.VTCError, match="no token of these"):
            part.reconstruct()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(reductions())
def test_a_dropped_token_is_represented_by_the_nearest_that_was_not(pair) -> None:
    """Nearest in time first, then in the grid; where several are as near, any of them."""
    tokens, reduced = pair
    frames, height, width = tokens.grid
    places = [(t, y, x) for t in range(frames) for y in range(height) for x in range(width)]
    alive = [m for m in range(tokens.total) if reduced.assign[m] >= 0]
    representative = reduced.representative
    for m, (t, y, x) in enumerate(places):
        if reduced.assign[m] >= 0:
            assert representative[m] == reduced.assign[m]
            continue
        distance = {n: (abs(places[n][0] - t), (places[n][1] - y) ** 2 + (places[n][2] - x) ** 2) for n in alive}
        nearest = {int(reduced.assign[n]) for n in alive if distance[n] == min(distance.values())}
        assert int(representative[m]) in nearest
    shown = reduced.reconstruct()
    assert shown.shape == tokens.values.shape
    assert torch.equal(shown.view(tokens.total, -1), reduced.tokens[representative])


def test_the_identity_reconstructs_its_source() -> None:
    tokens = tokens_of()
    everything = vtc.prune(tokens, torch.arange(72))
    assert everything.check() is everything
    assert torch.equal(everything.reconstruct(), tokens.values)
    assert everything.ledger == str(everything) == "kept 72 of 72 tokens, 1.0x, 6 of 6 frames"


def test_the_ledger_counts_what_was_kept() -> None:
    reduced = vtc.prune(tokens_of(), torch.tensor([0, 3, 12, 70]))
    assert reduced.ledger == "kept 4 of 72 tokens, 18.0x, 3 of 6 frames"


@pytest.mark.parametrize("device", DEVICES)
def test_to_another_device(device) -> None:
    tokens = tokens_of()
    reduced = vtc.reduce(tokens, "lftr", ratio=4)
    if device == "meta":  # values are not there, so only what is moved can be seen
        moved = reduced.to(device)
        assert {getattr(moved, part).device.type for part in ("tokens", "anchor", "assign", "weight")} == {"meta"}
        assert (moved.grid, moved.notes, len(moved)) == (reduced.grid, reduced.notes, 18)
        assert vtc.VideoTokens(tokens.values).to(device).values.device.type == "meta"
        return
    elsewhere = tokens.to(device)
    assert elsewhere.values.device.type == elsewhere.saliency.device.type == device
    there = vtc.reduce(elsewhere, "lftr", ratio=4)
    assert there.tokens.device.type == there.kept.device.type == there.reconstruct().device.type == device
    for back in (there.to("cpu"), reduced.to(device).to("cpu")):
        assert torch.equal(back.anchor, reduced.anchor) and torch.equal(back.assign, reduced.assign)
        torch.testing.assert_close(back.tokens, reduced.tokens)
    assert torch.equal(reduced.to(device).reconstruct().cpu(), reduced.reconstruct())


# --- merge, prune, fidelity --------------------------------------------------------------------------------------


def test_merge_is_a_weighted_mean_in_any_order_of_anchors() -> None:
    tokens = tokens_of((1, 1, 4), channels=3)
    a, b, c, d = tokens.values[0, 0]
    merged = vtc.merge(tokens, torch.tensor([1, 0, 1, -1]), torch.tensor([3.0, 5, 1, 7]), torch.tensor([1, 0]))
    assert merged.anchor.tolist() == [0, 1] and merged.assign.tolist() == [0, 1, 0, -1]
    assert merged.weight.tolist() == [0.75, 1, 0.25, 0]
    torch.testing.assert_close(merged.tokens, torch.stack([0.75 * a + 0.25 * c, b]))
    even = vtc.merge(tokens, torch.zeros(4, dtype=torch.long), torch.zeros(4), torch.tensor([2]))
    torch.testing.assert_close(even.tokens, (a + b + c + d)[None] / 4)  # equal where nothing weighs anything
    assert even.anchor.tolist() == [2]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(reductions())
def test_fidelity_is_the_cosine_to_what_stands_for_each_token(pair) -> None:
    tokens, reduced = pair
    outputs, alike = reduced.tokens.double().numpy(), []
    for x, home in zip(tokens.values.double().flatten(0, 2).numpy(), reduced.assign.tolist(), strict=True):
        cosines = outputs @ x / np.linalg.norm(x) / np.linalg.norm(outputs, axis=1)
        alike.append(cosines[home] if home >= 0 else cosines.max())
    found = vtc.fidelity(tokens, reduced)
    assert found["coverage"] == pytest.approx(np.mean(alike), abs=1e-5)
    assert found["coverage_p5"] == pytest.approx(np.quantile(alike, 0.05), abs=1e-5)


def test_fidelity_of_zero_tokens_follows_the_rule_that_zeros_are_alike() -> None:
    values = torch.zeros(1, 1, 4, 3)
    values[0, 0, 0, 0] = 1
    tokens = vtc.VideoTokens(values)
    assert vtc.fidelity(tokens, vtc.prune(tokens, torch.tensor([0])))["coverage"] == 0.25
    assert vtc.fidelity(tokens, vtc.prune(tokens, torch.tensor([0, 2])))["coverage"] == 1


def test_fidelity_wants_the_clip_that_was_reduced() -> None:
    with pytest.raises(vtc.VTCError, match=r"\(3, 3, 4\).*\(6, 3, 4\)"):
        vtc.fidelity(tokens_of(), vtc.reduce(tokens_of((3, 3, 4)), "uniform", ratio=2))
    with pytest.raises(vtc.VTCError, match="7 channels.*5"):
        vtc.fidelity(tokens_of(), vtc.reduce(tokens_of(channels=7), "uniform", ratio=2))


def test_suggestions_name_the_nearest_or_all() -> None:
    assert suggest("lfrt", ["lftr", "pool"]) == "did you mean 'lftr'?"
    assert suggest("zzz", ["lftr", "pool"]) == "there are 'lftr', 'pool'"
    assert suggest("zzz", []) == "there are none"
