"""LFTR against a slow, plain second writing of it, and what its budgets, splits and errors promise."""

from __future__ import annotations

import itertools
import re
import typing

import lftr_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import vtc_lab as vtc
from vtc_lab.reducers.joint import joint_significance
from vtc_lab.reducers.ops import top
from vtc_lab.reducers.registry import get_method

CHOICES = {
    "segments": ("greedy", "optimal"),
    "temporal": ("merge", "select"),
    "granularity": ("frame", "patch"),
    "significance": ("distinct", "neighbours", "attention"),
    "allocation": ("per-frame", "global"),
    "dropped": ("prune", "merge"),
    "order": ("temporal-first", "spatial-first"),
}
JOINTLY = [
    {"significance": a, "temporal": b, "allocation": c, "dropped": d}
    for a, b, c, d in itertools.product(
        CHOICES["significance"], CHOICES["temporal"], ("auto", "per-frame"), CHOICES["dropped"]
    )
]
COMBINATIONS = [dict(zip(CHOICES, combination, strict=True)) for combination in itertools.product(*CHOICES.values())]
COVERAGE = {"joint": "coverage"}
AXES = [{}, *({name: choice} for name, choices in CHOICES.items() for choice in choices[1:])]


def same_as_reference(tokens: vtc.VideoTokens, ratios: dict, options: dict) -> None:
    got = vtc.reduce(tokens, "lftr", **ratios, **options)
    budget, count = reference.split(
        tokens.grid, *(ratios.get(name) for name in ("ratio", "temporal_ratio", "spatial_ratio"))
    )
    saliency = None if tokens.saliency is None else tokens.saliency.numpy()
    want = reference.lftr(tokens.values.numpy(), saliency, budget, count, **options)
    situation = f"{tokens.grid} {ratios} {options}"
    assert len(got) == budget, situation
    np.testing.assert_array_equal(got.anchor, want["anchor"], situation)
    np.testing.assert_array_equal(got.assign, want["assign"], situation)
    np.testing.assert_allclose(got.weight, want["weight"], atol=1e-4, err_msg=situation)
    np.testing.assert_allclose(got.tokens, want["tokens"], atol=2e-4, err_msg=situation)


def noise(grid: tuple[int, int, int], channels: int = 6, seed: int = 0) -> vtc.VideoTokens:
    gen = torch.Generator().manual_seed(seed)
    return vtc.VideoTokens(torch.randn(*grid, channels, generator=gen), torch.rand(grid, generator=gen))


def drifting(frames: int = 16, side: int = 6, channels: int = 24, seed: int = 0) -> vtc.VideoTokens:
    """A clip with a cut in its middle, patches that differ, and frames that drift."""
    gen = torch.Generator().manual_seed(seed)
    scene = torch.randn(2, side, side, channels, generator=gen)[torch.arange(frames) * 2 // frames]
    drift = 0.2 * torch.randn(frames, side, side, channels, generator=gen).cumsum(0)
    return vtc.VideoTokens(scene + drift, torch.rand(frames, side, side, generator=gen))


def coverage(tokens: vtc.VideoTokens, reduced: vtc.Reduction) -> float:
    return vtc.fidelity(tokens, reduced)["coverage"]


# --- the second writing ------------------------------------------------------------------------------------------


def test_the_combinations_are_all_there_are() -> None:
    hints = {name: hint for name, (hint, _) in get_method("lftr").options.items()}
    literals = {name: typing.get_args(h) for name, h in hints.items() if typing.get_origin(h) is typing.Literal}
    assert literals.pop("joint") == ("significance", "coverage")
    assert literals == CHOICES | {"allocation": ("auto", *CHOICES["allocation"])}
    assert len(COMBINATIONS) == 192


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "ratios"),
    [
        ((6, 3, 2), {"ratio": 4, "temporal_ratio": 2}),
        ((6, 3, 2), {"ratio": 3, "spatial_ratio": 1.5}),
        ((6, 2, 3), {"ratio": 1.7, "temporal_ratio": 1.3}),
        ((5, 2, 2), {"temporal_ratio": 2.5}),  # time alone
        ((5, 2, 2), {"spatial_ratio": 2}),  # space alone
        ((7, 2, 3), {"temporal_ratio": 2, "spatial_ratio": 3}),
        ((1, 3, 3), {"ratio": 2.3, "temporal_ratio": 1}),  # T = 1
        ((6, 1, 1), {"ratio": 2, "temporal_ratio": 2}),  # N = 1
        ((5, 1, 3), {"ratio": 3.7, "temporal_ratio": 1.2}),  # a single row
        ((4, 3, 3), {"ratio": 36, "spatial_ratio": 9}),  # K = 1
        ((4, 2, 2), {"ratio": 1, "temporal_ratio": 1}),  # K = M
    ],
)
def test_every_combination_is_what_its_description_says(grid, ratios) -> None:
    tokens = noise(grid, seed=sum(grid))
    for options in COMBINATIONS:
        same_as_reference(tokens, ratios, options)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_shape_and_split_is_what_its_description_says(data) -> None:
    grid = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4)))
    frames, patches = grid[0], grid[1] * grid[2]
    along, across = data.draw(st.floats(1, frames)), data.draw(st.floats(1, patches))
    fits = st.floats(max(along, across), frames * patches)
    ratios = data.draw(
        st.one_of(
            st.just({"temporal_ratio": along}),
            st.just({"spatial_ratio": across}),
            st.just({"temporal_ratio": along, "spatial_ratio": across}),
            fits.map(lambda ratio: {"ratio": ratio, "temporal_ratio": along}),
            fits.map(lambda ratio: {"ratio": ratio, "spatial_ratio": across}),
        )
    )
    tokens = noise(grid, seed=data.draw(st.integers(0, 10_000)))
    for options in data.draw(st.lists(st.sampled_from(COMBINATIONS), min_size=4, max_size=4)):
        same_as_reference(tokens, ratios, options)


# Vectors of +-1 in four channels have cosines that are multiples of 1/2 without any rounding, so ties are ties.
PLUS = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1], [-1, -1, -1, -1]])


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "temporal_ratio"), [(2, 2), (5, 2.5), (2, 1), (20, 5), (1, 1)])
@pytest.mark.parametrize("vector", [PLUS[1], torch.zeros(4)], ids=["constant", "zero"])
def test_ties_go_to_the_earlier_frame_and_the_lower_patch(vector, ratio, temporal_ratio) -> None:
    tokens = vtc.VideoTokens(vector.expand(5, 2, 2, 4).clone(), torch.ones(5, 2, 2))
    for options in COMBINATIONS:
        same_as_reference(tokens, {"ratio": ratio, "temporal_ratio": temporal_ratio}, options)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "temporal_ratio"), [(2, 2), (3, 2), (1.5, 1.5)])
def test_ties_within_a_clip_that_stands_still_in_part(ratio, temporal_ratio) -> None:
    a, b = PLUS[[0, 1, 1, 2]].view(2, 2, 4), PLUS[[3, 1, 0, 2]].view(2, 2, 4)
    tokens = vtc.VideoTokens(torch.stack([a, a, b, b, b, a]), torch.ones(6, 2, 2))
    for options in COMBINATIONS:
        same_as_reference(tokens, {"ratio": ratio, "temporal_ratio": temporal_ratio}, options)


def test_a_zero_patch_is_merged_into_a_zero_patch() -> None:
    values = torch.zeros(1, 1, 4, 3)
    values[0, 0, 0], values[0, 0, 1] = torch.tensor([1.0, 0, 0]), torch.tensor([0, -1.0, 0])
    tokens = vtc.VideoTokens(values, torch.tensor([3.0, 4, 2, 1]).view(1, 1, 4))
    reduced = vtc.reduce(tokens, "lftr", ratio=4 / 3, significance="attention", dropped="merge", **COVERAGE)
    assert reduced.assign.tolist() == [0, 1, 2, 2]


def test_an_example_by_hand() -> None:
    """Two patches, four frames at 0, 0, 90 and 180 degrees: d = inf, 0, 1, 1, and T' = 2 cuts before frame 2."""
    angle = torch.tensor([0.0, 0.0, torch.pi / 2, torch.pi])
    values = torch.stack([angle.cos(), angle.sin()], 1)[:, None, None].expand(4, 1, 2, 2).clone()
    reduced = vtc.reduce(vtc.VideoTokens(values), "lftr", temporal_ratio=2)
    assert reduced.anchor.tolist() == [0, 1, 4, 5]
    assert reduced.assign.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    # Frame 0 counts as much as the largest finite d, 1; frame 1 has no difference and so no weight.
    torch.testing.assert_close(reduced.weight, torch.tensor([1.0, 1, 0, 0, 0.5, 0.5, 0.5, 0.5]), atol=1e-6, rtol=0)
    torch.testing.assert_close(reduced.tokens[2], torch.tensor([-0.5, 0.5]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("granularity", CHOICES["granularity"])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_optimal_segments_are_optimal_even_for_features_far_from_zero(granularity, offset) -> None:
    """Against every cut there is; an offset changes no deviation, but it swallows the digits of a careless sum."""
    for seed in range(6):
        gen = torch.Generator().manual_seed(seed)
        values = torch.randn(7, 2, 2, 8, generator=gen) + offset
        x = values.double().view(7, 4, 8).numpy()
        tokens = vtc.VideoTokens(values)
        reduced = vtc.reduce(tokens, "lftr", temporal_ratio=7 / 3, segments="optimal", granularity=granularity)
        assign = reduced.assign.view(7, 4).numpy()
        for columns in [[0, 1, 2, 3]] if granularity == "frame" else [[0], [1], [2], [3]]:
            starts = [0, *(t for t in range(1, 7) if assign[t, columns[0]] != assign[t - 1, columns[0]])]
            part = x[:, columns]
            best = reference.cut_frames(part, np.zeros((7, len(columns))), 3, "optimal")
            assert len(starts) == 3
            assert reference.deviation(part, starts) <= reference.deviation(part, [s[0] for s in best]) * (1 + 1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
def test_what_stays_does_not_depend_on_the_scale_of_the_features(scale) -> None:
    tokens = drifting()
    scaled = vtc.VideoTokens(tokens.values * scale)
    for options in AXES:
        if options.get("significance") == "attention":
            continue
        want, got = (vtc.reduce(each, "lftr", ratio=9, temporal_ratio=3, **options) for each in (tokens, scaled))
        assert torch.equal(got.anchor, want.anchor) and torch.equal(got.assign, want.assign)
    for options in JOINTLY:
        if options["significance"] == "attention":
            continue
        want, got = (vtc.reduce(each, "lftr", ratio=9, **options) for each in (tokens, scaled))
        assert torch.equal(got.anchor, want.anchor) and torch.equal(got.assign, want.assign)
    assert coverage(scaled, vtc.reduce(scaled, "lftr", ratio=9)) == pytest.approx(
        coverage(tokens, vtc.reduce(tokens, "lftr", ratio=9)), abs=1e-4
    )


# --- one significance in time and space ---


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)), st.integers(0, 10_000), st.data())
def test_the_joint_significance_is_what_its_description_says(grid, seed, data) -> None:
    still = noise((1, *grid[1:]), seed=seed)
    moving = noise(grid, seed=seed + 1)
    tokens = vtc.VideoTokens(
        still.values + data.draw(st.sampled_from([0.0, 0.2, 1.0])) * moving.values, moving.saliency
    )
    budget = data.draw(st.integers(1, tokens.total))
    for options in JOINTLY:
        got = vtc.reduce(tokens, "lftr", ratio=tokens.total / budget, **options)
        want = reference.joint(tokens.values.numpy(), tokens.saliency.numpy(), budget, **options)
        np.testing.assert_array_equal(got.anchor, want["anchor"], str(options))
        np.testing.assert_array_equal(got.assign, want["assign"], str(options))
        np.testing.assert_allclose(got.weight, want["weight"], atol=1e-4)


def test_what_differs_in_space_and_time_stays() -> None:
    """A dull scene in which one patch is bright, another appears late and the rest only flickers."""
    gen = torch.Generator().manual_seed(0)
    values = torch.ones(6, 5, 5, 16) + 0.01 * torch.randn(6, 5, 5, 16, generator=gen)
    values[:, 1, 1] += 4 * torch.randn(16, generator=gen)
    values[4:, 3, 3] += 4 * torch.randn(16, generator=gen)
    kept = vtc.reduce(vtc.VideoTokens(values), "lftr", ratio=150 / 8).kept
    assert kept[:, 1, 1].all() and kept[4:, 3, 3].all()


@pytest.mark.parametrize("name", ["segments", "granularity", "order"])
def test_an_option_of_the_stages_calls_for_them(name) -> None:
    tokens, options = drifting(), {name: CHOICES[name][1]}
    got, want = (vtc.reduce(tokens, "lftr", ratio=7, **options, **more) for more in ({}, COVERAGE))
    assert torch.equal(got.assign, want.assign) and got.notes == want.notes and "automatic split" in got.notes[0]


def test_blocks_change_nothing(monkeypatch) -> None:
    tokens = drifting()
    want = vtc.reduce(tokens, "lftr", ratio=5)
    monkeypatch.setattr("vtc_lab.reducers.ops._BLOCK", tokens.values[:3].numel())
    got = vtc.reduce(tokens, "lftr", ratio=5)
    assert torch.equal(got.assign, want.assign) and torch.equal(got.tokens, want.tokens)


@pytest.mark.parametrize("vector", [PLUS[1], torch.zeros(4)], ids=["constant", "zero"])
def test_ties_in_significance_go_to_the_earlier_frame_and_the_lower_patch(vector) -> None:
    tokens = vtc.VideoTokens(vector.expand(5, 2, 2, 4).clone(), torch.ones(5, 2, 2))
    for options in JOINTLY:
        reduced = vtc.reduce(tokens, "lftr", ratio=4, **options)
        wanted = [0, 4, 8, 12, 16] if options["allocation"] == "per-frame" else [0, 1, 2, 3, 4]
        assert reduced.anchor.tolist() == wanted, options


# --- budgets and splits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", AXES, ids=lambda options: "-".join(options.values()) or "default")
def test_budgets_are_exact(options) -> None:
    tokens = noise((7, 3, 5), seed=1)
    for ratio in [1, 1.01, 1.5, 2, 3, 7, 8, 15, 15.1, 31.7, 104, 105]:
        budget = max(1, round(105 / ratio))
        assert len(vtc.reduce(tokens, "lftr", ratio=ratio, **COVERAGE, **options)) == budget
        along, across = min(ratio, 2.5), min(ratio, 3)
        assert len(vtc.reduce(tokens, "lftr", ratio=ratio, temporal_ratio=along, **options)) == budget
        assert len(vtc.reduce(tokens, "lftr", ratio=ratio, spatial_ratio=across, **options)) == budget


def test_select_alters_no_token_and_merge_does() -> None:
    tokens = drifting()
    source = tokens.values.flatten(0, 2)
    for options in ({"temporal": "select"}, {}, {"temporal": "select", "dropped": "merge"}):
        reduced = vtc.reduce(tokens, "lftr", ratio=8, temporal_ratio=4, **options)
        assert torch.equal(reduced.tokens, source[reduced.anchor]) == (options == {"temporal": "select"})


@pytest.mark.parametrize("ratio", [1, 2, 3.1, 16])
def test_time_alone_keeps_whole_frames(ratio) -> None:
    tokens = drifting()
    reduced = vtc.reduce(tokens, "lftr", temporal_ratio=ratio)
    per_frame = reduced.kept.flatten(1).sum(1)
    assert set(per_frame.tolist()) <= {0, 36}
    assert int((per_frame > 0).sum()) == round(16 / ratio)
    assert (reduced.assign >= 0).all()  # merged, none removed


@pytest.mark.parametrize("ratio", [1, 2, 3.1, 36])
def test_space_alone_prunes_every_frame_alike(ratio) -> None:
    tokens = drifting()
    reduced = vtc.reduce(tokens, "lftr", spatial_ratio=ratio)
    per_frame = reduced.kept.flatten(1).sum(1)
    assert len(reduced) == round(16 * 36 / ratio)
    assert per_frame.min() == 36 // ratio and per_frame.max() - per_frame.min() <= 1
    assert torch.equal(reduced.tokens, tokens.values.flatten(0, 2)[reduced.anchor])


def test_global_allocation_gives_busy_frames_more() -> None:
    """Half of the frames are flat, the others are noise: equal shares see no difference, global ones do."""
    values = torch.ones(8, 4, 4, 12) + 0.01 * torch.randn(8, 4, 4, 12, generator=torch.Generator().manual_seed(0))
    values[::2] = torch.randn(4, 4, 4, 12, generator=torch.Generator().manual_seed(1))
    tokens = vtc.VideoTokens(values)
    reduced = [vtc.reduce(tokens, "lftr", spatial_ratio=2, allocation=each) for each in CHOICES["allocation"]]
    equal, shared = (each.kept.flatten(1).sum(1) for each in reduced)
    assert equal.tolist() == [8] * 8
    assert shared.tolist() == [16, 0] * 4


@pytest.mark.parametrize("options", AXES, ids=lambda options: "-".join(options.values()) or "default")
def test_the_automatic_split_is_the_split_it_names(options) -> None:
    tokens = drifting(side=4)
    auto = vtc.reduce(tokens, "lftr", ratio=7, **COVERAGE, **options)
    count, frames = map(int, re.search(r"automatic split: (\d+) of (\d+) frames", " ".join(auto.notes)).groups())
    assert frames == 16
    fixed = vtc.reduce(tokens, "lftr", ratio=7, temporal_ratio=min(7, 16 / count), **options)
    assert torch.equal(auto.anchor, fixed.anchor) and torch.equal(auto.assign, fixed.assign)
    assert torch.equal(auto.tokens, fixed.tokens)


@pytest.fixture(scope="module")
def real_tokens() -> dict[str, vtc.VideoTokens]:
    """16 frames of each clip that comes with the project, by both encoders."""
    encoders = [vtc.load_encoder("pixels"), vtc.load_encoder("efficientnet-lite0")]
    clips = {path.stem: vtc.read_clip(path, frames=16) for path in vtc.find_clips()}
    return {f"{name}, {encoder.name}": encoder.encode(clip) for name, clip in clips.items() for encoder in encoders}


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [4, 16])
def test_the_automatic_split_is_near_the_best_there_is(real_tokens, ratio) -> None:
    assert len(real_tokens) >= 10
    for name, tokens in real_tokens.items():
        auto = coverage(tokens, vtc.reduce(tokens, "lftr", ratio=ratio, **COVERAGE))
        counts = range(-(-16 // ratio), 17)
        fixed = [vtc.reduce(tokens, "lftr", ratio=ratio, temporal_ratio=16 / count) for count in counts]
        covered = [coverage(tokens, each) for each in fixed]
        assert len({int(each.kept.flatten(1).any(1).sum()) for each in fixed}) == len(counts)  # all T' were tried
        assert auto >= max(covered) - 0.02, name
        assert auto <= max(covered) + 1e-6, name


# --- min_fidelity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temporal_ratio": 2}, {"dropped": "merge"}, {"order": "spatial-first"}])
def test_min_fidelity_is_reached_and_one_token_less_does_not_reach_it(options) -> None:
    for seed in range(3):
        tokens = drifting(side=4, seed=seed)
        target = 0.8 if "temporal_ratio" in options else 0.9
        reduced = vtc.reduce(tokens, "lftr", min_fidelity=target, **options)
        assert 1 < len(reduced) < tokens.total
        assert coverage(tokens, reduced) >= target - 1e-6
        less = vtc.reduce(tokens, "lftr", ratio=tokens.total / (len(reduced) - 1), **COVERAGE, **options)
        assert coverage(tokens, less) < target - 1e-6
        noted = re.search(r"coverage (\S+) reaches min_fidelity \S+ with (\d+) of", " ".join(reduced.notes))
        assert float(noted[1]) == pytest.approx(coverage(tokens, reduced), abs=1e-4)
        assert int(noted[2]) == len(reduced)


def test_a_higher_fidelity_costs_no_fewer_tokens() -> None:
    tokens = drifting(side=4)
    targets = (0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99, 1)
    counts = [len(vtc.reduce(tokens, "lftr", min_fidelity=target)) for target in targets]
    assert counts == sorted(counts)
    assert counts[0] <= 2 and counts[-1] == tokens.total and len(set(counts)) > 4


@pytest.mark.parametrize("frames", [8, 9])
def test_a_clip_that_stands_still_needs_one_frame(frames) -> None:
    frame = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    still = vtc.VideoTokens(frame.expand(frames, 4, 4, 8).clone())
    assert len(vtc.reduce(still, "lftr", min_fidelity=1)) == 16
    black = vtc.VideoTokens(torch.zeros(frames, 4, 4, 8))
    assert len(vtc.reduce(black, "lftr", min_fidelity=1)) == 1


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["no budget", "ratio", "temporal_ratio", "spatial_ratio", "min_fidelity"]),
        ({"temporal_ratio": 0.9}, ["temporal_ratio", "0.9", "6"]),
        ({"temporal_ratio": 7}, ["temporal_ratio", "7", "6"]),
        ({"temporal_ratio": float("nan")}, ["temporal_ratio", "nan"]),
        ({"temporal_ratio": "2"}, ["temporal_ratio", "'2'"]),
        ({"temporal_ratio": True}, ["temporal_ratio", "True"]),
        ({"spatial_ratio": 0}, ["spatial_ratio", "0", "16"]),
        ({"spatial_ratio": 17}, ["spatial_ratio", "17", "16"]),
        ({"spatial_ratio": float("inf")}, ["spatial_ratio", "inf"]),
        ({"ratio": 2, "temporal_ratio": 5}, ["temporal_ratio", "5", "2"]),
        ({"ratio": 2, "spatial_ratio": 8}, ["spatial_ratio", "8", "2"]),
        ({"ratio": 4, "temporal_ratio": 2, "spatial_ratio": 2}, ["ratio", "temporal_ratio", "spatial_ratio"]),
        ({"min_fidelity": 1.5}, ["min_fidelity", "1.5"]),
        ({"min_fidelity": -0.1}, ["min_fidelity", "-0.1"]),
        ({"min_fidelity": float("nan")}, ["min_fidelity", "nan"]),
        ({"min_fidelity": "high"}, ["min_fidelity", "'high'"]),
        ({"min_fidelity": True}, ["min_fidelity", "True"]),
        ({"min_fidelity": 0.9, "ratio": 2}, ["min_fidelity", "ratio"]),
        ({"min_fidelity": 0.9, "spatial_ratio": 2}, ["min_fidelity", "spatial_ratio"]),
        ({"min_fidelity": 0.9, "temporal_ratio": 0}, ["temporal_ratio", "0"]),
        ({"min_fidelity": 0.999, "temporal_ratio": 6}, ["min_fidelity", "0.999", "temporal_ratio", "6"]),
        ({"ratio": 2, "significance": "attention"}, ["attention", "saliency", "saliency=True"]),
        ({"ratio": 2, "segments": None}, ["segments", "None", "greedy"]),
        ({"ratio": 2, "order": 3}, ["order", "3", "temporal-first"]),
        ({"ratio": 2, "joint": "both"}, ["joint", "'both'", "significance"]),
    ],
)
def test_bad_options_are_named_in_one_sentence(options, words) -> None:
    tokens = vtc.VideoTokens(noise((6, 4, 4)).values)
    with pytest.raises(vtc.VTCError) as caught:
        vtc.reduce(tokens, "lftr", **options)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and not re.search(r"\.\s", message), message


class Launches(TorchDispatchMode):
    """Counts the operations that start work on a device: all but views and new memory."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and not func._opname.startswith(("empty", "new_empty", "_local_scalar"))
        return func(*args, **(kwargs or {}))


def test_significance_and_selection_start_few_kernels_however_many_frames_there_are(monkeypatch) -> None:
    monkeypatch.setattr("vtc_lab.reducers.ops._BLOCK", 1 << 26)  # one block, as away from the CPU
    counts = []
    for frames in (8, 32):
        tokens = vtc.VideoTokens(torch.randn(frames, 14, 14, 8))
        with Launches() as launches:
            top(joint_significance(tokens, "distinct")[1].flatten(), tokens.total // 4)
        counts.append(launches.count)
    assert counts[0] == counts[1] <= 60
