"""The baselines, the registry, methods of the user's own, and the input that `reduce` refuses.

The promises of every method are in test_conformance.py.
"""

from __future__ import annotations

import typing
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_conformance import assert_contract, make

import vtc_lab as vtc
from vtc_lab.reducers.ops import attention, sinks

# --- the baselines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 33])
def test_uniform_keeps_the_frames_of_a_linspace(frames) -> None:
    tokens = make((frames, 2, 3))
    for count in range(1, frames + 1):
        reduced = vtc.reduce(tokens, "uniform", ratio=frames / count)
        per_frame = reduced.kept.flatten(1).sum(1)
        assert sorted(set(per_frame.tolist()) - {0}) == [6]  # whole frames
        chosen = per_frame.nonzero().flatten().numpy()
        spaced = np.linspace(0, frames - 1, count)
        assert len(chosen) == count and (np.abs(chosen - spaced) < 1).all()
        assert chosen[0] == 0 and (count == 1 or chosen[-1] == frames - 1)
        if count > 1 and (frames - 1) % (count - 1) == 0:
            assert chosen.tolist() == spaced.astype(int).tolist()


def test_uniform_shares_out_the_last_fraction_of_a_frame() -> None:
    reduced = vtc.reduce(make((9, 4, 4)), "uniform", ratio=144 / 40)
    per_frame = reduced.kept.flatten(1).sum(1)
    assert sorted(per_frame[per_frame > 0].tolist()) == [13, 13, 14]


@pytest.mark.parametrize(
    ("grid", "cells"),
    [((5, 8, 8), (4, 4)), ((3, 8, 8), (2, 2)), ((4, 12, 6), (4, 2)), ((2, 6, 6), (1, 1)), ((2, 9, 9), (3, 3))],
)
def test_pool_over_space_is_adaptive_average_pooling(grid, cells) -> None:
    tokens = make(grid)
    want = torch.nn.functional.adaptive_avg_pool2d(tokens.values.permute(0, 3, 1, 2), cells).permute(0, 2, 3, 1)
    ratio = grid[1] * grid[2] / (cells[0] * cells[1])
    reduced = vtc.reduce(tokens, "pool", ratio=ratio)
    torch.testing.assert_close(reduced.tokens, want.reshape(-1, 16))
    grown = want.repeat_interleave(grid[1] // cells[0], 1).repeat_interleave(grid[2] // cells[1], 2)
    torch.testing.assert_close(reduced.reconstruct(), grown)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 12])
def test_pool_over_time_is_the_mean_of_each_window(window) -> None:
    tokens = make((12, 2, 3))
    reduced = vtc.reduce(tokens, "pool", ratio=window, over="time")
    means = tokens.values.view(12 // window, window, 2, 3, 16).mean(1)
    torch.testing.assert_close(reduced.reconstruct(), means.repeat_interleave(window, 0))


def test_pool_pools_the_other_axis_below_one_token_each() -> None:
    tokens = make((12, 2, 3))
    over_space = vtc.reduce(tokens, "pool", ratio=72 / 4)
    torch.testing.assert_close(over_space.tokens, tokens.values.view(4, 18, 16).mean(1))
    over_time = vtc.reduce(tokens, "pool", ratio=72 / 3, over="time")
    torch.testing.assert_close(over_time.tokens, tokens.values.mean((0, 1)))


@pytest.mark.parametrize(
    ("grid", "cells"), [((5, 8, 8), (4, 4)), ((2, 4, 8), (2, 4)), ((2, 9, 9), (3, 3)), ((3, 12, 6), (4, 2))]
)
def test_downscale_to_a_grid_is_adaptive_average_pooling(grid, cells) -> None:
    tokens = make(grid)
    want = torch.nn.functional.adaptive_avg_pool2d(tokens.values.permute(0, 3, 1, 2), cells).permute(0, 2, 3, 1)
    reduced = vtc.reduce(tokens, "downscale", ratio=grid[1] * grid[2] / (cells[0] * cells[1]))
    grown = want.repeat_interleave(grid[1] // cells[0], 1).repeat_interleave(grid[2] // cells[1], 2)
    torch.testing.assert_close(reduced.reconstruct(), grown)


@pytest.mark.parametrize("grid", [(6, 4, 4), (5, 3, 7), (4, 6, 1)])
def test_downscale_keeps_to_whole_grids_but_for_one_frame(grid) -> None:
    tokens = make(grid)
    for budget in range(grid[0], tokens.total + 1):
        cell = vtc.reduce(tokens, "downscale", ratio=tokens.total / budget).assign.view(grid)
        whole = [
            {tuple(row.tolist()) for row in frame.diff(dim=1) != 0} for frame in cell
        ]  # where the columns of each row end
        assert sum(len(ends) > 1 for ends in whole) <= 1
        sizes = sorted(len(frame.unique()) for frame in cell)
        assert len({*sizes}) <= 3 and sum(sizes) == budget


@pytest.mark.parametrize("name", ["random", "random-per-frame"])
def test_random_is_even_and_differs_from_seed_to_seed(name) -> None:
    tokens = make((4, 4, 4))
    drawn = torch.stack([vtc.reduce(tokens, name, ratio=4, seed=seed).kept for seed in range(-200, 200)])
    assert len({each.numpy().tobytes() for each in drawn}) == 400
    times = drawn.sum(0)  # 100 of 400 on average, standard deviation 8.7
    assert times.min() > 100 - 5 * 8.7 and times.max() < 100 + 5 * 8.7
    if name == "random-per-frame":
        assert drawn.flatten(2).sum(2).eq(4).all()
    else:
        assert drawn.flatten(2).sum(2).float().std() > 1


# --- a method of one's own ---------------------------------------------------------------------------------------


def test_a_method_of_the_users_own_works() -> None:
    @vtc.method(paper="mine", year=2026, kind="merges", ours="the offset")
    def every_other(
        tokens: vtc.VideoTokens, budget: int, *, start: typing.Literal["first", "last"] = "first", power: float = 1.0
    ) -> vtc.Reduction:
        anchor = torch.arange(budget) if start == "first" else torch.arange(tokens.total - budget, tokens.total)
        group = torch.arange(tokens.total) % budget
        merged = vtc.merge(tokens, group, torch.ones(tokens.total) ** power, anchor)
        return replace(merged, notes=(start,))

    row = vtc.methods().loc["every-other"]
    assert (row["paper"], row["year"], row["kind"], row["ours"]) == ("mine", 2026, "merges", "the offset")
    assert row["options"] == "start='first'|'last', power=1.0"
    tokens = make((4, 2, 2))
    reduced = vtc.reduce(tokens, "every-other", ratio=2, power=np.float32(2))
    assert_contract(tokens, reduced, 8)
    assert reduced.options == {"ratio": 2, "start": "first", "power": 2} and reduced.notes == ("first",)
    with pytest.raises(vtc.VTCError, match="'firts'.*'first'"):
        vtc.reduce(tokens, "every-other", ratio=2, start="firts")
    with pytest.raises(vtc.VTCError, match="needs a ratio"):
        vtc.reduce(tokens, "every-other")

    @vtc.method(name="every-other")
    def replaced(tokens: vtc.VideoTokens, budget: int) -> vtc.Reduction:
        return vtc.prune(tokens, torch.arange(budget))

    assert (vtc.reduce(tokens, "every-other", ratio=2).assign[8:] == -1).all()


def spoilt(**changes) -> typing.Callable[[vtc.VideoTokens, int], object]:
    """A method whose otherwise good result has some fields changed."""

    def run(tokens: vtc.VideoTokens, budget: int) -> object:
        good = vtc.prune(tokens, torch.arange(budget) * 2)
        return replace(good, **{name: change(getattr(good, name)) for name, change in changes.items()})

    return run


def swapped(anchor: torch.Tensor) -> torch.Tensor:
    return anchor[[1, 0, *range(2, len(anchor))]]


def moved(first: float) -> typing.Callable[[torch.Tensor], torch.Tensor]:
    return lambda field: torch.cat([torch.tensor([first], dtype=field.dtype), field[1:]])


@pytest.mark.parametrize(
    ("run", "complaint"),
    [
        (lambda tokens, budget: vtc.prune(tokens, torch.arange(budget + 1)), "returned 9 tokens for a budget of 8"),
        (lambda tokens, budget: None, "NoneType.*must return a Reduction"),
        (lambda tokens, budget: tokens.values, "Tensor.*must return a Reduction"),
        (lambda tokens, budget: vtc.prune(tokens[:2], torch.arange(budget)), r"\(2, 2, 4\).*\(4, 2, 4\)"),
        (spoilt(anchor=swapped), "strictly increasing"),
        (spoilt(anchor=lambda anchor: anchor + 1), "member of its own output"),
        (spoilt(anchor=moved(-1)), "inside the grid"),
        (spoilt(anchor=lambda anchor: anchor.int()), "anchor must be"),
        (spoilt(anchor=lambda anchor: anchor[1:]), "anchor must be"),
        (spoilt(assign=lambda assign: assign + 1), "inside the grid"),
        (spoilt(assign=lambda assign: assign[1:]), "assign must be"),
        (spoilt(weight=moved(-0.1)), "weights"),
        (spoilt(weight=moved(float("nan"))), "weights"),
        (spoilt(weight=lambda weight: weight + 1), "0 where dropped"),
        (spoilt(weight=lambda weight: weight.double()), "weight must be"),
        (spoilt(weight=moved(float("inf"))), "1 non-finite numbers in its weights"),
        (spoilt(tokens=lambda tokens: tokens / 0), "non-finite numbers in its tokens"),
        (spoilt(tokens=lambda tokens: tokens.half()), "float16.*float32"),
        (spoilt(tokens=lambda tokens: tokens[:, 1:]), "channels"),
        (spoilt(tokens=lambda tokens: tokens[None]), "tokens must be"),
    ],
)
def test_a_method_that_breaks_the_contract_is_named(run, complaint) -> None:
    vtc.method(name="mine")(run)
    with pytest.raises(vtc.VTCError, match=complaint) as caught:
        vtc.reduce(make((4, 2, 4)), "mine", ratio=4)
    assert "'mine'" in str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda tokens: tokens.values.div_(tokens.values.norm()),
        lambda tokens: tokens.values.data.mul_(2),
        lambda tokens: tokens.values.numpy().fill(1),
        lambda tokens: tokens.values[3, 1, 3].zero_(),
        lambda tokens: tokens.saliency.clamp_(max=0.5),
    ],
)
def test_a_method_that_writes_into_its_input_is_refused(write) -> None:
    @vtc.method(name="mine")
    def writes(tokens: vtc.VideoTokens, budget: int) -> vtc.Reduction:
        write(tokens)
        return vtc.prune(tokens, torch.arange(budget))

    for made in (torch.no_grad, torch.inference_mode):
        with made():
            tokens = make((4, 2, 4))
        with pytest.raises(vtc.VTCError, match="^method 'mine' wrote into the tokens"), made():
            vtc.reduce(tokens, "mine", ratio=4)


@pytest.mark.parametrize("size", [1e18, 1e30, 1e-25])
@pytest.mark.parametrize(
    "name", ["lftr", "divprune", "dtd", "fastvid", "flashvid", "holitom", "sttm", "tome", "visionzip"]
)
def test_very_large_and_very_small_values_are_as_good_as_others(name, size) -> None:
    """Neither do their squares overflow into NaN nor do they vanish, so that all would be alike."""
    tokens = make((6, 4, 4), 32)
    scaled = vtc.VideoTokens(tokens.values * size, tokens.saliency)
    reduced, plain = vtc.reduce(scaled, name, ratio=3), vtc.reduce(tokens, name, ratio=3)
    if name not in ("fastvid", "flashvid", "holitom"):  # the density of peaks is not a matter of scale
        assert reduced.anchor.tolist() == plain.anchor.tolist()
    back = replace(reduced, tokens=reduced.tokens / size)
    covered = vtc.fidelity(scaled, reduced, ["coverage", "coverage_p5"])
    assert covered == pytest.approx(vtc.fidelity(tokens, back, ["coverage", "coverage_p5"]), abs=1e-4)
    assert covered["coverage"] < 0.99


@pytest.mark.parametrize(("what", "word", "right"), [("needs", "saliency", "attention"), ("kind", "merge", "merges")])
def test_needs_and_kind_are_one_of_two_words(what, word, right) -> None:
    with pytest.raises(vtc.VTCError, match=f"{what} of method 'mine' is '{word}'.*'{right}'"):
        vtc.method(name="mine", **{what: word})(lambda tokens, budget: vtc.prune(tokens, torch.arange(budget)))


@pytest.mark.parametrize(
    ("group", "weight", "anchor", "complaint"),
    [
        (torch.zeros(5).long(), torch.ones(5), [0], r"\(5,\).*\(16,\)"),
        (torch.zeros(16).long(), torch.ones(16), [], r"\(0,\).*\(K,\)"),
        (torch.full((16,), 2), torch.ones(16), [0], "2 to 2.*0 to 0"),
        (torch.zeros(16), torch.ones(16), [0], "whole numbers"),
    ],
)
def test_merge_refuses_what_is_no_grouping(group, weight, anchor, complaint) -> None:
    with pytest.raises(vtc.VTCError, match=complaint):
        vtc.merge(make((4, 2, 2)), group, weight, anchor)
    assert vtc.merge(make((4, 2, 2)), [0] * 16, [1.0] * 16, [3]).anchor.tolist() == [3]


def test_tokens_that_carry_gradients_are_reduced_without_them() -> None:
    values = make((4, 3, 3)).values.requires_grad_()
    for name in vtc.methods().index:
        reduced = vtc.reduce(vtc.VideoTokens(values, torch.rand(4, 3, 3)), name, ratio=2)
        assert not reduced.tokens.requires_grad


def test_a_function_that_cannot_be_a_method_is_refused() -> None:
    with pytest.raises(vtc.VTCError, match=r"'no-budget'.*\(tokens\).*budget"):

        @vtc.method
        def no_budget(tokens: vtc.VideoTokens) -> vtc.Reduction:
            return vtc.prune(tokens, torch.arange(1))

    with pytest.raises(vtc.VTCError, match="'no-default'.*default"):

        @vtc.method
        def no_default(tokens: vtc.VideoTokens, budget: int, *, seed: int) -> vtc.Reduction:
            return vtc.prune(tokens, torch.arange(seed))

    assert not {"no-budget", "no-default"} & set(vtc.methods().index)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.99, 0, -1, 17, float("nan"), float("inf"), "2", True, [2], torch.tensor([2, 3])])
def test_a_bad_ratio_is_named(ratio) -> None:
    with pytest.raises(vtc.VTCError, match="^ratio is .*from 1 .* to 16") as caught:
        vtc.reduce(make((4, 2, 2)), "lftr", ratio=ratio)
    assert repr(ratio) in str(caught.value)


@pytest.mark.parametrize("ratio", [np.int64(4), np.float32(4), np.float64(4), 4])
def test_numbers_of_numpy_are_numbers(ratio) -> None:
    assert len(vtc.reduce(make((4, 2, 2)), "random", ratio=ratio, seed=np.int64(1))) == 4


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        ("lfrt", {}, "'lfrt'.*'lftr'"),
        ("unifrom", {}, "'unifrom'.*'uniform'"),
        (["lftr"], {}, r"\['lftr'\]"),
        ("random", {"sede": 1}, "'random'.*'sede'.*'seed'"),
        ("uniform", {"seed": 1}, "'uniform'.*'seed'.*none"),
        ("random", {"seed": 1.5}, "seed is 1.5.*int"),
        ("random", {"seed": True}, "seed is True.*int"),
        ("random", {"seed": None}, "seed is None.*int"),
        ("pool", {"over": "spaces"}, "'spaces'.*'space'"),
        ("pool", {"ratio": None}, "'pool' needs a ratio"),
    ],
)
def test_a_bad_method_or_option_is_named_with_what_would_be_right(method, options, complaint) -> None:
    with pytest.raises(vtc.VTCError, match=complaint):
        vtc.reduce(make((4, 2, 2)), method, **{"ratio": 2, **options})


def test_a_bare_tensor_is_refused() -> None:
    with pytest.raises(vtc.VTCError, match="Tensor.*VideoTokens"):
        vtc.reduce(torch.zeros(4, 2, 2, 8), "lftr", ratio=2)


@pytest.mark.parametrize("anchors", [[99], [-1], [1, 1], [], [0.5], [True]])
def test_prune_refuses_what_is_no_list_of_tokens(anchors) -> None:
    tokens = vtc.VideoTokens(torch.zeros(2, 2, 2, 3))
    with pytest.raises(vtc.VTCError, match="^[^\n]+$"):
        vtc.prune(tokens, anchors)
    assert vtc.prune(tokens, [7, 0]).anchor.tolist() == [0, 7]


def test_a_path_is_no_clip() -> None:
    for encoder in (vtc.load_encoder("pixels"), vtc.load_encoder("efficientnet-lite0")):
        with pytest.raises(vtc.VTCError, match="'a.mp4' is no Clip; read one with"):
            encoder.encode("a.mp4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_features_that_are_not_finite_are_refused_with_their_place(dtype, value) -> None:
    values = make((40, 4, 4), 2000).values.to(dtype)  # more than one working block
    values[33, 2, 1, 5] = values[33, 2, 3, 0] = float(value)
    with pytest.raises(vtc.VTCError, match=r"2 non-finite numbers.*\(33, 2, 1\)"):
        vtc.reduce(vtc.VideoTokens(values), "lftr", ratio=2)


def test_large_finite_half_precision_features_are_accepted() -> None:
    """Their sum overflows, they do not."""
    values = torch.full((4, 4, 4, 64), 60_000.0, dtype=torch.float16)
    assert len(vtc.reduce(vtc.VideoTokens(values), "lftr", ratio=2)) == 32


@pytest.mark.parametrize("name", ["visionzip", "fastvid", "holitom", "flashvid"])
def test_sink_takes_tokens_from_a_position_that_draws_attention_in_every_frame(name) -> None:
    gen = torch.Generator().manual_seed(0)
    saliency = torch.rand(8, 4, 4, generator=gen)
    saliency[:, 1, 2] = 5
    tokens = vtc.VideoTokens(torch.randn(8, 4, 4, 16, generator=gen), saliency)
    plain, same, less = (vtc.reduce(tokens, name, ratio=4, sink=sink).kept[:, 1, 2].sum() for sink in (0.0, 1e-9, 1.0))
    assert plain == same == 8 and less <= 2


def test_sinks_are_those_of_the_formula() -> None:
    saliency = torch.tensor([[[1.0, 2, 4]], [[3, 2, 0]]])
    tokens = vtc.VideoTokens(torch.ones(2, 1, 3, 2), saliency)
    assert sinks(tokens).tolist() == [0, 0, 0]  # each position is at 2 on average
    tokens = vtc.VideoTokens(torch.ones(1, 1, 3, 2), saliency[:1])
    middle = (2**1.1 - 1) / (4**1.1 - 1)
    assert sinks(tokens).tolist() == pytest.approx([0, middle, 1], abs=1e-5)
    unit = saliency[0, 0] / (saliency[0].mean() * 729)
    assert attention(tokens, 0.03)[0].tolist() == pytest.approx(
        (unit - 0.03 * torch.tensor([0, middle, 1])).tolist(), abs=1e-5
    )
