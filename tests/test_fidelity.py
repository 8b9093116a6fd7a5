"""Fidelity of tokens, pixels and answers against slow plain references, and the table that describes them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import skimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from benchmarks.fidelity_cost import token_costs
from vtc_lab.measures import answer_fidelity, fidelity, list_measures
from vtc_lab.models.answers import Answer
from vtc_lab.pixels import pixel_fidelity, rebuild

SETTINGS = ["uniform", "random", "random-per-frame", "pool", "lftr", {"method": "lftr", "temporal": "select"}]


def tokens_of(grid=(6, 3, 4), channels=5, seed=0, dtype=torch.float32) -> vtc.VideoTokens:
    gen = torch.Generator().manual_seed(seed)
    # A mean token well away from zero, as real encoders have.
    values = torch.randn(*grid, channels, generator=gen) + 2 * torch.randn(channels, generator=gen)
    return vtc.VideoTokens(values.to(dtype), torch.rand(grid, generator=gen).to(dtype), "toy")


def clip_of(frames=4, height=24, width=36, seed=0) -> vtc.Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)
    return vtc.Clip(pixels, np.arange(float(frames)), "toy.mp4")


def reduced_by(setting, tokens: vtc.VideoTokens, ratio: float) -> vtc.Reduction:
    options = setting if isinstance(setting, dict) else {"method": setting}
    return vtc.reduce(tokens, ratio=ratio, **options)


def answer_of(text: str, logits) -> Answer:
    return Answer(text, {}, torch.as_tensor(logits), 1, 1, {})


@st.composite
def reductions(draw) -> tuple[vtc.VideoTokens, vtc.Reduction]:
    """A reduction of a small grid: by a method, or random groups whose weights sum to anything (some methods add)."""
    grid = draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    tokens = tokens_of(grid, draw(st.integers(1, 9)), draw(st.integers(0, 99)), dtype)
    kind = draw(st.sampled_from(["random", "constant", "zero"]))
    if kind != "random":
        values = torch.zeros_like(tokens.values) if kind == "zero" else torch.full_like(tokens.values, 0.1)
        tokens = replace(tokens, values=values)
    setting = draw(st.sampled_from([*SETTINGS, "adds"]))
    if setting != "adds":
        return tokens, reduced_by(setting, tokens, draw(st.floats(1, tokens.total)))
    gen = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    budget = draw(st.integers(1, tokens.total))
    anchor = torch.randperm(tokens.total, generator=gen)[:budget].sort().values
    assign = torch.randint(-1, budget, (tokens.total,), generator=gen)
    assign[anchor] = torch.arange(budget)
    weight = torch.where(assign >= 0, 2 * torch.rand(tokens.total, generator=gen), 0)
    sums = torch.zeros(budget + 1, tokens.values.shape[3], dtype=torch.double)
    sums.index_add_(0, assign + 1, tokens.values.flatten(0, 2).double() * weight[:, None])
    return tokens, vtc.Reduction(sums[1:].to(dtype), anchor, assign, weight, grid).check()


# --- plain references --------------------------------------------------------------------------------------------


def cosine(a, b) -> float:
    left, right = math.sqrt(sum(x * x for x in a)), math.sqrt(sum(y * y for y in b))
    if not left or not right:
        return float(not left and not right)
    return sum(x * y for x, y in zip(a, b, strict=True)) / (left * right)


def coverage_reference(tokens: vtc.VideoTokens, reduced: vtc.Reduction) -> list[float]:
    outputs, assign = reduced.tokens.double().tolist(), reduced.assign.tolist()
    every = range(len(outputs))
    rows = zip(tokens.values.double().flatten(0, 2).tolist(), assign, strict=True)
    return [max(cosine(x, outputs[j]) for j in ([k] if k >= 0 else every)) for x, k in rows]


def both(tokens: vtc.VideoTokens, reduced: vtc.Reduction) -> tuple[np.ndarray, np.ndarray]:
    return tokens.values.flatten(0, 2).double().numpy(), reduced.reconstruct().flatten(0, 2).double().numpy()


def cka_reference(x: np.ndarray, y: np.ndarray) -> float:
    """By the Hilbert-Schmidt independence criterion of Gram matrices, as the paper has it first."""
    centring = np.eye(len(x)) - 1 / len(x)

    def hsic(k, m):
        return np.trace(k @ centring @ m @ centring)

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def rebuilt_reference(frames: np.ndarray, reduced: vtc.Reduction) -> np.ndarray:
    """Patch by patch, for frames that the grid divides."""
    count, rows, columns = reduced.grid
    tall, wide = frames.shape[1] // rows, frames.shape[2] // columns
    places = [(t, y * tall, x * wide) for t in range(count) for y in range(rows) for x in range(columns)]
    patches = [frames[t, y : y + tall, x : x + wide].astype(float) for t, y, x in places]
    outputs = []
    for k in range(len(reduced)):
        members = [i for i in range(len(patches)) if reduced.assign[i] == k]
        weights = [float(reduced.weight[i]) for i in members]
        outputs.append(sum(w * patches[i] for w, i in zip(weights, members, strict=True)) / sum(weights))
    rebuilt = np.empty_like(frames)
    for i, (t, y, x) in enumerate(places):
        rebuilt[t, y : y + tall, x : x + wide] = np.round(outputs[int(reduced.representative[i])])
    return rebuilt


def ssim_reference(a: np.ndarray, b: np.ndarray) -> float:
    """Window by window, equations 13 to 16 of Wang et al. 2004."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            for c in range(3):
                p, q = (each[y : y + 11, x : x + 11, c].astype(float) for each in (a, b))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                shared = (window * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + c1) * (2 * shared + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


# --- of tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 200], ids=["fewer channels than tokens", "more"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("ratio", [1.3, 5, 30])
def test_every_measure_of_tokens_is_that_of_its_plain_reference(setting, ratio, channels) -> None:
    tokens = tokens_of((5, 4, 6), channels)
    reduced = reduced_by(setting, tokens, ratio)
    found, (x, y) = fidelity(tokens, reduced, "all"), both(tokens, reduced)
    alike = coverage_reference(tokens, reduced)
    assert found["coverage"] == pytest.approx(np.mean(alike), abs=1e-5)
    assert found["coverage_p5"] == pytest.approx(np.quantile(alike, 0.05), abs=1e-5)
    assert found["reconstruction_error"] == pytest.approx(((x - y) ** 2).sum() / (x**2).sum(), rel=1e-4)
    centred = [(each - each.mean(0)).flatten() for each in (x, y)]
    correlation = np.dot(*centred) / (np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    assert found["retained_variance"] == pytest.approx(max(0, correlation) ** 2, abs=1e-5)
    assert found["cka"] == pytest.approx(cka_reference(x, y), abs=1e-5)
    saliency = tokens.saliency.flatten().tolist()
    kept = sum(s * min(w, 1) for s, w in zip(saliency, reduced.weight.tolist(), strict=True))
    assert found["saliency_kept"] == pytest.approx(kept / sum(saliency), abs=1e-5)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(reductions())
def test_values_stay_in_the_range_of_the_table(case) -> None:
    tokens, reduced = case
    found = fidelity(tokens, reduced, "all")
    assert list(found) == list(list_measures().query("of == 'tokens'").index)
    for name, value in found.items():
        low, high = list_measures().loc[name, "range"]
        assert type(value) is float and low <= value <= high, (name, value)


@settings(max_examples=60, deadline=None)
@given(reductions())
def test_keeping_everything_has_the_best_value_of_the_table(case) -> None:
    tokens, _ = case
    for name, value in fidelity(tokens, vtc.reduce(tokens, "pool", ratio=1), "all").items():
        assert value == pytest.approx(list_measures().loc[name, "best"], abs=1e-5), name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_coverage_never_rises_when_tokens_are_taken_away(data) -> None:
    """Whole frames too, in some of which nothing is left."""
    frames, patches = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    tokens = tokens_of((frames, 1, patches), data.draw(st.integers(1, 6)), data.draw(st.integers(0, 99)))
    order = torch.tensor(data.draw(st.permutations(range(tokens.total))))
    found = []
    for count in range(1, tokens.total + 1):
        reduced = vtc.prune(tokens, order[:count].sort().values)
        found.append(list(fidelity(tokens, reduced, ["coverage", "coverage_p5"]).values()))
    assert (np.diff(found, axis=0) > -1e-6).all()
    assert found[-1] == pytest.approx([1, 1], abs=1e-6)


def test_lossless_is_exactly_no_error() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        tokens = tokens_of(dtype=dtype)
        assert fidelity(tokens, vtc.reduce(tokens, "lftr", ratio=1))["reconstruction_error"] == 0


def test_plain_means_retain_the_variance_they_explain() -> None:
    tokens = tokens_of((4, 6, 6), 8)
    reduced = vtc.reduce(tokens, "pool", ratio=6)
    x, y = both(tokens, reduced)
    explained = 1 - ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert fidelity(tokens, reduced)["retained_variance"] == pytest.approx(explained, abs=1e-5)


def test_a_worse_reduction_has_worse_values() -> None:
    """A clip of four still scenes: a frame of each keeps all of it, and half of those lose two scenes."""
    scenes = tokens_of((4, 3, 3), 16)
    values = scenes.values.repeat_interleave(4, dim=0)
    tokens = vtc.VideoTokens(values, scenes.saliency.repeat_interleave(4, dim=0))
    frames = torch.arange(16 * 9).view(16, 9)
    good = fidelity(tokens, vtc.prune(tokens, frames[[1, 5, 9, 13]].flatten()), "all")
    bad = fidelity(tokens, vtc.prune(tokens, frames[[1, 5]].flatten()), "all")
    assert good["coverage"] == pytest.approx(1, abs=1e-5) and good["saliency_kept"] == pytest.approx(1 / 4)
    for name in ("coverage", "coverage_p5", "retained_variance", "cka", "saliency_kept"):
        assert bad[name] < good[name] - 0.05, name
    assert bad["reconstruction_error"] > good["reconstruction_error"] + 0.05


@pytest.mark.parametrize("factor", [1e-6, 1e10])
def test_no_measure_depends_on_the_unit_of_the_tokens(factor) -> None:
    tokens = tokens_of((4, 4, 4), 6)
    scaled = replace(tokens, values=tokens.values * factor)
    for setting in SETTINGS:
        reduced = reduced_by(setting, tokens, 5)
        as_it_is = fidelity(tokens, reduced, "all")
        other = fidelity(scaled, replace(reduced, tokens=reduced.tokens * factor), "all")
        assert other == pytest.approx(as_it_is, rel=1e-3, abs=1e-5)


def test_what_scale_and_rotation_change() -> None:
    tokens = tokens_of((4, 4, 4), 6)
    reduced = vtc.reduce(tokens, "pool", ratio=4)
    plain = fidelity(tokens, reduced, "all")
    louder = fidelity(tokens, replace(reduced, tokens=3 * reduced.tokens), "all")
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    turned = fidelity(tokens, replace(reduced, tokens=reduced.tokens @ turn), "all")
    for name in ("coverage", "retained_variance", "cka"):
        assert louder[name] == pytest.approx(plain[name], abs=1e-5), name
    assert louder["reconstruction_error"] > plain["reconstruction_error"] + 1
    assert turned["cka"] == pytest.approx(plain["cka"], abs=1e-5)
    assert turned["retained_variance"] < plain["retained_variance"] - 0.1
    opposite = fidelity(tokens, replace(reduced, tokens=-reduced.tokens), "all")
    assert opposite["retained_variance"] == 0 and opposite["coverage"] < 0


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_tokens_that_are_all_equal_lose_nothing(setting) -> None:
    best = list_measures().best
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for value in (0.0, 0.1, 1000.0):
            tokens = vtc.VideoTokens(torch.full((16, 7, 7, 9), value, dtype=dtype), torch.zeros(16, 7, 7))
            for name, number in fidelity(tokens, reduced_by(setting, tokens, 7), "all").items():
                assert number == pytest.approx(best[name], abs=1e-5), (name, dtype, value)


def test_one_side_that_varies_and_one_that_does_not() -> None:
    tokens = tokens_of()
    one = vtc.reduce(tokens, "pool", ratio=tokens.total)  # one token stands for all
    found = fidelity(tokens, one, "all")
    assert found["retained_variance"] == found["cka"] == 0
    zeros = replace(tokens, values=torch.zeros_like(tokens.values))
    found = fidelity(zeros, vtc.reduce(tokens, "random", ratio=2), "all")
    assert found["reconstruction_error"] == math.inf and found["retained_variance"] == found["cka"] == 0
    assert not any(math.isnan(value) for value in found.values())


def test_saliency_is_merged_as_the_tokens_are() -> None:
    saliency = torch.tensor([4.0, 2.0, 1.0, 1.0]).view(4, 1, 1)
    tokens = vtc.VideoTokens(torch.randn(4, 1, 1, 3), saliency)
    kept = fidelity(tokens, vtc.prune(tokens, [0, 2]), ["saliency_kept"])
    assert kept == {"saliency_kept": pytest.approx(5 / 8)}
    pair = vtc.merge(tokens, torch.tensor([0, 0, 1, -1]), torch.ones(4), torch.tensor([0, 2]))
    assert fidelity(tokens, pair)["saliency_kept"] == pytest.approx((3 + 1) / 8)
    added = replace(pair, weight=torch.tensor([1.0, 1.0, 5.0, 0.0]))
    assert fidelity(tokens, added)["saliency_kept"] == pytest.approx(7 / 8)


def test_which_measures_are_given() -> None:
    tokens, table = tokens_of(), list_measures()
    reduced = vtc.reduce(tokens, "pool", ratio=4)
    everything = fidelity(tokens, reduced, "all")
    assert list(fidelity(tokens, reduced)) == list(table[table.follows_a_slider].index)
    assert fidelity(tokens, reduced, ["cka", "coverage"]) == {k: everything[k] for k in ("coverage", "cka")}
    assert fidelity(tokens, reduced, "cka") == {"cka": everything["cka"]}
    assert fidelity(tokens, reduced, []) == {}
    silent = replace(tokens, saliency=None)
    assert fidelity(silent, reduced, "all") == {k: v for k, v in everything.items() if k != "saliency_kept"}
    with pytest.raises(vtc.VTCError, match="'retained_varianz'.*did you mean 'retained_variance'"):
        fidelity(tokens, reduced, ["retained_varianz"])
    with pytest.raises(vtc.VTCError, match="'psnr'"):
        fidelity(tokens, reduced, "psnr")
    with pytest.raises(vtc.VTCError, match="tokens is 3"):
        fidelity(tokens, reduced, 3)
    with pytest.raises(vtc.VTCError, match="saliency_kept.*saliency"):
        fidelity(silent, reduced, ["saliency_kept"])


def test_a_reduction_of_something_else_is_refused() -> None:
    tokens = tokens_of()
    with pytest.raises(vtc.VTCError, match=r"\(5, 3, 4\).*\(6, 3, 4\)"):
        fidelity(tokens, vtc.reduce(tokens_of((5, 3, 4)), "pool", ratio=2))
    with pytest.raises(vtc.VTCError, match="7 channels.*5"):
        fidelity(tokens, vtc.reduce(tokens_of(channels=7), "pool", ratio=2))
    with pytest.raises(vtc.VTCError, match="no token of these 2 frames was kept"):
        fidelity(tokens[:2], vtc.prune(tokens, [70])[:2])


def test_tokens_are_left_as_they_were() -> None:
    tokens = tokens_of()
    reduced = vtc.reduce(tokens, "pool", ratio=4)
    before = [each.clone() for each in (tokens.values, tokens.saliency, reduced.tokens, reduced.weight)]
    fidelity(tokens, reduced, "all")
    after = (tokens.values, tokens.saliency, reduced.tokens, reduced.weight)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# --- cost --------------------------------------------------------------------------------------------------------


def test_what_follows_a_slider_is_fast() -> None:
    """At 16x14x14x112 within 10 ms of one core, as measured on an idle one; here with room for a busy machine."""
    tokens = tokens_of((16, 14, 14), 112)
    for setting in ("uniform", "pool", "lftr"):
        milliseconds = token_costs(tokens, reduced_by(setting, tokens, 8), 5)
        assert milliseconds["all that follow a slider"] < 40, (setting, milliseconds)


MEASURE = """
import json, os, resource, sys, time
import torch
import vtc_lab as vtc
from vtc_lab.measures import fidelity

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

torch.set_num_threads(1)
for frames, channels in ((16, 3584), (256, 896)):
    if os.fork():  # a process for each, because its peak never falls
        os.wait()
        continue
    values = torch.empty(frames, 14, 14, channels, dtype=torch.float16)
    for frame in values:
        frame.normal_()
    tokens = vtc.VideoTokens(values)
    reduced = vtc.reduce(tokens, "random", ratio=8)
    fidelity(tokens[:4], reduced[:4], "all")  # what torch sets up once
    before, start = peak(), time.process_time()
    found = fidelity(tokens, reduced, "all")
    size = values.numel() * values.element_size()
    measured = {"extra": (peak() - before) / size, "seconds": time.process_time() - start, "cka": found["cka"]}
    print(json.dumps(measured), flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_memory_and_time_of_all_measures_stay_sane() -> None:
    """16 frames of 14x14 tokens with 3584 channels (21 MiB), and 256 frames with 896 (86 MiB), in half precision."""
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=240)
    lines = run.stdout.splitlines()
    assert len(lines) == 2, run.stderr
    wide, long = map(json.loads, lines)
    print(wide, long)
    assert wide["extra"] < 6 and long["extra"] < 2
    for measured in (wide, long):
        assert measured["seconds"] < 30 and 0 < measured["cka"] < 1


# --- of pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_rebuilt_clip_is_that_of_the_plain_reference(setting) -> None:
    clip, tokens = clip_of(), tokens_of((4, 4, 6))
    reduced = reduced_by(setting, tokens, 5)
    rebuilt = rebuild(clip, reduced)
    reference = rebuilt_reference(clip.frames, reduced)
    # A mean halfway between two grey levels may be rounded either way.
    assert np.abs(rebuilt.frames.astype(int) - reference.astype(int)).max() <= 1
    assert (rebuilt.frames != reference).mean() < 0.01
    assert rebuilt.times.tolist() == clip.times.tolist() and rebuilt.path == clip.path
    found = pixel_fidelity(clip, reduced)
    with np.errstate(divide="ignore"):
        psnr = skimage.metrics.peak_signal_noise_ratio(clip.frames, rebuilt.frames, data_range=255)
    assert found["psnr"] == pytest.approx(psnr)
    ssim = np.mean([ssim_reference(a, b) for a, b in zip(clip.frames, rebuilt.frames, strict=True)])
    assert found["ssim"] == pytest.approx(ssim, abs=1e-6)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [(24, 36), (90, 121), (5, 7), (1, 1)])
def test_keeping_everything_changes_no_pixel(setting, size) -> None:
    clip, tokens = clip_of(3, *size), tokens_of((3, 4, 6))
    assert pixel_fidelity(clip, reduced_by(setting, tokens, 1)) == {"psnr": math.inf, "ssim": 1}


@settings(max_examples=40, deadline=None)
@given(reductions(), st.integers(1, 40), st.integers(1, 40))
def test_pixels_stay_in_the_range_of_the_table(case, height, width) -> None:
    tokens, reduced = case
    clip = clip_of(tokens.grid[0], height, width)
    rebuilt = rebuild(clip, reduced)
    assert len(rebuilt) == len(clip) and rebuilt.frames.dtype == np.uint8
    for side, parts, before in zip(rebuilt.frames.shape[1:3], tokens.grid[1:], (height, width), strict=True):
        assert side % parts == 0 and side >= 11 and (abs(side - before) <= parts / 2 or side < 11 + parts)
    found = pixel_fidelity(clip, reduced)
    assert list(found) == list(list_measures().query("of == 'pixels'").index)
    for name, value in found.items():
        low, high = list_measures().loc[name, "range"]
        assert type(value) is float and low <= value <= high, (name, value)


def test_weights_that_do_not_sum_to_one_do_not_change_the_brightness() -> None:
    clip, tokens = vtc.Clip(np.full((2, 16, 16, 3), 200, np.uint8), [0, 1]), tokens_of((2, 2, 2))
    reduced = vtc.reduce(tokens, "pool", ratio=4)
    for factor in (0.1, 4):
        assert (rebuild(clip, replace(reduced, weight=factor * reduced.weight)).frames == 200).all()


@pytest.mark.slow
def test_a_still_clip_survives_the_loss_of_frames_and_a_moving_one_does_not() -> None:
    picture = vtc.read_clip("data/clips/bikes.mp4", frames=8).frames
    still, moving = vtc.Clip(picture[[0] * 8], np.arange(8.0)), vtc.Clip(picture, np.arange(8.0))
    reduced = vtc.reduce(tokens_of((8, 8, 8)), "uniform", ratio=4)
    assert pixel_fidelity(still, reduced) == {"psnr": math.inf, "ssim": 1}
    found = pixel_fidelity(moving, reduced)
    assert found["psnr"] < 30 and found["ssim"] < 0.9


def test_a_clip_of_something_else_is_refused() -> None:
    reduced = vtc.reduce(tokens_of((4, 3, 3)), "pool", ratio=2)
    for function in (rebuild, pixel_fidelity):
        with pytest.raises(vtc.VTCError, match="3 frames and the reduction 4"):
            function(clip_of(3), reduced)
        with pytest.raises(vtc.VTCError, match="'bikes.mp4' is no Clip"):
            function("bikes.mp4", reduced)
    for function in (vtc.fidelity, lambda _, reduction: vtc.show(clip_of(4), reduction)):
        with pytest.raises(vtc.VTCError, match="None is no Reduction; make one with"):
            function(tokens_of((4, 3, 3)), None)
    with pytest.raises(vtc.VTCError, match="4 frames are not 0 groups"):
        vtc.one_each(clip_of(4), 0)
    with pytest.raises(vtc.VTCError, match="no token of these 1 frames was kept"):
        rebuild(clip_of(1), vtc.prune(tokens_of((4, 3, 3)), [35])[:1])


# --- of answers --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 999), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_measures_of_answers_are_those_of_their_plain_references(size, seed, dtype) -> None:
    logits = (5 * torch.randn(2, size, generator=torch.Generator().manual_seed(seed))).to(dtype)
    p, q = ([math.exp(x) for x in row] for row in logits.tolist())
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    found = answer_fidelity(answer_of("red", logits[0]), answer_of("blue", logits[1]))
    pairs = list(zip(p, q, strict=True))
    assert found["kl"] == pytest.approx(sum(a * math.log(a / b) for a, b in pairs), abs=1e-9)
    assert found["tv"] == pytest.approx(sum(abs(a - b) for a, b in pairs) / 2, abs=1e-9)
    assert found["agrees"] == 0
    for name, value in found.items():
        low, high = list_measures().loc[name, "range"]
        assert type(value) is float and low <= value <= high, (name, value)
    assert found["tv"] ** 2 <= found["kl"] / 2 + 1e-9  # Pinsker's inequality


def test_the_same_answer_has_the_best_values_of_the_table() -> None:
    answer = answer_of("red", torch.randn(9))
    found = answer_fidelity(answer, answer)
    assert found == list_measures().query("of == 'answers'").best.to_dict()


def between(full, kept) -> dict[str, float]:
    return answer_fidelity(answer_of("red", full), answer_of("red", kept))


def test_tokens_that_cannot_come() -> None:
    none, some, last = [0.0, 0.0, -math.inf], [0.0, -math.inf, -math.inf], [-math.inf, 0.0, 0.0]
    assert between(none, none) == {"kl": 0, "tv": 0, "agrees": 1}
    assert between(some, none) == {"kl": pytest.approx(math.log(2)), "tv": 0.5, "agrees": 1}
    assert between(none, some) == {"kl": math.inf, "tv": 0.5, "agrees": 1}
    assert between(some, last) == {"kl": math.inf, "tv": 1, "agrees": 1}


@pytest.mark.parametrize("odd", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_what_is_no_distribution_is_no_perfect_result(odd) -> None:
    for pair in ((odd, [0.0, 0.0]), ([0.0, 0.0], odd), (odd, odd)):
        with pytest.raises(vtc.VTCError, match="the model gave NaN .* dtype='bfloat16'"):
            between(*pair)


def test_answers_of_different_models_are_not_compared() -> None:
    with pytest.raises(vtc.VTCError, match=r"\(3,\) and \(1,\)"):
        between([0.0] * 3, [0.0])


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_lists_what_the_functions_return_and_nothing_else() -> None:
    tokens, clip, answer = tokens_of(), clip_of(6), answer_of("red", torch.zeros(3))
    reduced = vtc.reduce(tokens, "pool", ratio=2)
    returned = {
        "tokens": list(fidelity(tokens, reduced, "all")),
        "pixels": list(pixel_fidelity(clip, reduced)),
        "answers": list(answer_fidelity(answer, answer)),
        "table": ["flip_rate", "accuracy"],  # means over questions: no function of one answer gives them
    }
    table = list_measures()
    assert list(table.columns) == ["of", "formula", "range", "best", "source", "follows_a_slider"]
    assert {of: list(part.index) for of, part in table.groupby("of")} == returned
    assert not table.isna().any().any() and table.follows_a_slider.dtype == bool
    assert all(best in limits for best, limits in zip(table.best, table.range, strict=True))
