"""The promises of every registered method, without exceptions: only its stated minimum budget counts.

A file in `vtc_lab/reducers/methods` is tested here without further ado; `mine` below stands for a method that a user
registers in a notebook. Values of options are drawn from their type hints, and numbers from the range that `Annotated`
gives them. Where a method can do without a ratio, its options that are off by default replace the budget, as in its
paper.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import typing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.reducers.inside import Stage
from vtc_lab.reducers.registry import get_method
from vtc_lab.tokens import MinimumBudgetError

METHODS = [*sorted(vtc.methods().index), "mine"]
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-6}
KINDS = ("noise", "constant", "zero", "still", "cuts")
PARTS = ("tokens", "anchor", "assign", "weight")

every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(autouse=True)
def a_method_of_the_users_own() -> None:
    register_mine()


def register_mine() -> None:
    def fewest(frames: int, patches: int, options: dict) -> int:
        return 2 if options["order"] == "last" and frames * patches > 1 else 1

    @vtc.method(needs="attention", kind="merges", minimum=("two tokens with order='last'", fewest))
    def mine(
        tokens: vtc.VideoTokens,
        budget: int | None = None,
        *,
        share: Annotated[float | None, 0, 1] = None,
        order: Literal["first", "last"] = "first",
        power: Annotated[float, 0, 4] = 1.0,
        weighted: bool = True,
    ) -> vtc.Reduction:
        if (budget is None) == (share is None):
            raise vtc.VTCError("mine was given both a ratio and a share or neither; give one of the two")
        count = budget or max(1, round(share * tokens.total))
        start = 0 if order == "first" else tokens.total - count
        place = torch.arange(tokens.total, device=tokens.values.device)
        weight = tokens.saliency.flatten() ** power if weighted else torch.ones_like(place)
        return vtc.merge(tokens, (place - start) % count, weight, place[start : start + count])


# --- clips, options and budgets ----------------------------------------------------------------------------------


def make(grid=(8, 4, 4), channels=16, dtype=torch.float32, seed=0, kind="noise") -> vtc.VideoTokens:
    gen = torch.Generator().manual_seed(seed)
    values, saliency = torch.randn(*grid, channels, generator=gen).to(dtype), torch.rand(grid, generator=gen)
    if kind == "constant":
        values, saliency = values[:1, :1, :1].expand_as(values), torch.ones(grid)
    elif kind == "zero":
        values, saliency = torch.zeros_like(values), torch.zeros(grid)
    elif kind == "still":
        values = values[:1].expand_as(values)
    elif kind == "cuts":  # still between cuts
        values = values[torch.arange(grid[0]) // 3 * 3]
    return vtc.VideoTokens(values, saliency)


@st.composite
def sources(draw) -> vtc.VideoTokens:
    grid = draw(st.tuples(st.integers(1, 10), st.integers(1, 4), st.integers(1, 4)))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    return make(grid, draw(st.integers(1, 9)), dtype, draw(st.integers(0, 9999)), draw(st.sampled_from(KINDS)))


def legal(name: str, option: str) -> st.SearchStrategy | None:
    """The values of an option other than None; no strategy if they depend on the clip."""
    hint = get_method(name).options[option][0]
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if option in get_method(name).ranges:
        return (st.integers if hint is int else st.floats)(*get_method(name).ranges[option])
    return {bool: st.booleans(), int: st.integers(-(2**63) + 1, 2**63 - 1)}.get(hint)


def instead_of_a_ratio(name: str) -> dict[str, st.SearchStrategy]:
    """The options that replace the budget, each with its values."""
    method = get_method(name)
    off = [o for o, (_, default) in method.options.items() if not method.needs_ratio and default in (None, False)]
    return {o: legal(name, o).filter(lambda value: value is not False) for o in off if legal(name, o) is not None}


def choices(name: str) -> st.SearchStrategy[dict]:
    """Some of the other options, each with one of its values."""
    others = set(get_method(name).options) - set(instead_of_a_ratio(name))
    drawn = {option: legal(name, option) for option in sorted(others) if legal(name, option) is not None}
    return st.fixed_dictionaries({}, optional=drawn)


def each_choice(name: str) -> list[dict]:
    """The defaults, and by itself each named choice, each flag, and both ends of each range."""
    found = [{}]
    for option, (hint, _) in get_method(name).options.items():
        if option in instead_of_a_ratio(name):
            continue
        values = {Literal: typing.get_args(hint)}.get(typing.get_origin(hint), (True, False) if hint is bool else ())
        found += [{option: value} for value in (*values, *get_method(name).ranges.get(option, ()))]
    return found


def settings_of(name: str, options: dict) -> dict:
    return {**{option: default for option, (_, default) in get_method(name).options.items()}, **options}


def least(name: str, tokens: vtc.VideoTokens, options: dict) -> int:
    """The method's minimum budget in tokens."""
    return get_method(name).least(len(tokens), tokens.total // len(tokens), settings_of(name, options))


def reduce_to(budget: int, tokens: vtc.VideoTokens, name: str, options: dict) -> vtc.Reduction:
    return vtc.reduce(tokens, name, ratio=tokens.total / budget, **options)


# --- the contract ------------------------------------------------------------------------------------------------


def assert_contract(tokens: vtc.VideoTokens, reduced: vtc.Reduction, budget: int) -> None:
    frames, channels, total = len(tokens), tokens.values.shape[-1], tokens.total
    anchor, assign, weight = reduced.anchor, reduced.assign, reduced.weight
    assert reduced.grid == tokens.grid
    assert reduced.tokens.shape == (budget, channels) and reduced.tokens.dtype == tokens.values.dtype
    assert anchor.shape == (budget,) and assign.shape == weight.shape == (total,)
    assert anchor.dtype == assign.dtype == torch.long and weight.dtype == torch.float32
    assert anchor.min() >= 0 and anchor.max() < total and (anchor.diff() > 0).all()
    assert assign.min() >= -1 and assign.max() == budget - 1
    assert assign[anchor].tolist() == list(range(budget))
    assert weight.isfinite().all() and (weight >= 0).all() and (weight[assign < 0] == 0).all()

    source, sums = tokens.values.double().reshape(total, channels), torch.zeros(budget, channels, dtype=torch.double)
    sums.index_add_(0, assign.clamp(min=0), weight.double()[:, None] * source)  # dropped tokens weigh nothing
    close = ROUNDING[tokens.values.dtype]
    torch.testing.assert_close(reduced.tokens.double(), sums, atol=close, rtol=close)
    if reduced.method and get_method(reduced.method).kind == "prunes":
        assert torch.equal(reduced.tokens, tokens.values.reshape(total, channels)[anchor])
        assert int((assign >= 0).sum()) == budget

    kept = torch.zeros(total, dtype=torch.bool)
    kept[anchor] = True
    assert torch.equal(reduced.kept, kept.view(tokens.grid))
    held = int(kept.view(frames, -1).any(1).sum())
    assert reduced.ledger == f"kept {budget} of {total} tokens, {total / budget:.1f}x, {held} of {frames} frames"
    assert reduced.reconstruct().shape == tokens.values.shape


def assert_sentence(caught: pytest.ExceptionInfo, *words: str) -> None:
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and ". " not in message and not message.endswith("."), message


@pytest.mark.slow
@every_method
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_contract_holds_at_any_budget_from_the_minimum_on(name, data) -> None:
    tokens, options = data.draw(sources()), data.draw(choices(name))
    low = least(name, tokens, options)
    ends = st.sampled_from([low, tokens.total])
    budget = data.draw(st.one_of(ends, st.integers(low, tokens.total)))
    before, saliency = tokens.values.clone(), tokens.saliency.clone()
    reduced = reduce_to(budget, tokens, name, options)
    assert_contract(tokens, reduced, budget)
    assert torch.equal(tokens.values, before) and torch.equal(tokens.saliency, saliency)
    assert reduced.method == name
    assert reduced.options == {"ratio": tokens.total / budget, **settings_of(name, options)}
    if budget == tokens.total:
        assert torch.equal(reduced.tokens, tokens.values.reshape(budget, -1))

    again = reduce_to(budget, vtc.VideoTokens(before, saliency), name, options)
    assert all(torch.equal(getattr(again, part), getattr(reduced, part)) for part in PARTS)
    assert again.notes == reduced.notes


@pytest.mark.slow
@every_method
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_contract_holds_where_an_option_replaces_the_budget(name, data) -> None:
    for option, values in instead_of_a_ratio(name).items():
        tokens, options = data.draw(sources()), {**data.draw(choices(name)), option: data.draw(values)}
        reduced = vtc.reduce(tokens, name, **options)
        assert_contract(tokens, reduced, len(reduced))
        assert reduced.options == {"ratio": None, **settings_of(name, options)}
        again = vtc.reduce(tokens, name, **options)
        assert all(torch.equal(getattr(again, part), getattr(reduced, part)) for part in PARTS)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("grid", [(1, 3, 3), (7, 1, 1), (1, 1, 1), (9, 1, 4), (5, 4, 1), (13, 2, 1)])
def test_one_frame_one_patch_one_row(name, grid) -> None:
    tokens = make(grid)
    for options in each_choice(name):
        low, high = least(name, tokens, options), tokens.total
        for budget in {*range(low, high + 1, 1 + high // 6), high - 1, high} - {*range(low)}:
            assert_contract(tokens, reduce_to(budget, tokens, name, options), budget)


@every_method
def test_ratio_1_is_the_identity_bit_for_bit(name) -> None:
    for dtype, options in itertools.product(ROUNDING, each_choice(name)):
        tokens = make((9, 3, 4), dtype=dtype)
        reduced = vtc.reduce(tokens, name, ratio=1, **options)
        assert torch.equal(reduced.reconstruct(), tokens.values), (dtype, options)
        assert reduced.assign.tolist() == reduced.anchor.tolist() == list(range(tokens.total)), options
        assert reduced.weight.eq(1).all() and reduced.kept.all(), options


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("kind", ["constant", "still", "zero"])
def test_a_clip_without_differences_is_kept_whole_by_what_stays(name, kind) -> None:
    tokens = make((9, 3, 3), kind=kind)
    for options in each_choice(name):
        low = least(name, tokens, options)
        for budget in {low, max(low, 7), max(low, 30), 80}:
            reduced = reduce_to(budget, tokens, name, options)
            assert_contract(tokens, reduced, budget)
            if kind != "still":
                assert vtc.fidelity(tokens, reduced)["coverage_p5"] == pytest.approx(1, abs=1e-5), options


@every_method
def test_a_budget_below_the_minimum_is_refused_with_the_minimum(name) -> None:
    tokens = make((9, 3, 4))
    for options in each_choice(name):
        low = least(name, tokens, options)
        for budget in {1, low - 1} - {low, 0}:
            with pytest.raises(MinimumBudgetError) as caught:
                reduce_to(budget, tokens, name, options)
            assert_sentence(caught, repr(name), get_method(name).minimum, f"{low} of {tokens.total} tokens")


@every_method
def test_a_budget_is_given_once(name) -> None:
    tokens = make((4, 3, 3))
    with pytest.raises(vtc.VTCError) as caught:
        vtc.reduce(tokens, name)
    assert_sentence(caught, name, "ratio")
    for option in instead_of_a_ratio(name):
        value = True if get_method(name).options[option][0] is bool else get_method(name).ranges[option][1]
        with pytest.raises(vtc.VTCError) as caught:
            vtc.reduce(tokens, name, ratio=1, **{option: value})
        assert_sentence(caught, name, option, "ratio")


# --- stages before the encoder -----------------------------------------------------------------------------------


@cache
def small(family: str) -> tuple:
    from tiny_checkpoints import checkpoint, frames  # transformers, which the process of `digests` does without

    return vtc.load_model(checkpoint(family)), vtc.Clip(frames(1), np.arange(6) / 2)


@every_method
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_at_every_stage_the_budget_is_exact_or_refused(name, family) -> None:
    model, clip = small(family)
    for stage, ratio in itertools.product(typing.get_args(Stage), (1, 1.5, 4)):
        try:
            reduced = vtc.reduce_clip(model.fresh(), clip, name, ratio, stage=stage)
        except MinimumBudgetError as error:
            assert get_method(name).minimum in str(error)
        except vtc.VTCError as error:
            salient = stage == "pixels" and get_method(name).needs == "attention"
            assert "\n" not in str(error) and (salient or (name, family, stage) == ("earlytom", "qwen2_5_vl", "both"))
            assert ("attention" if salient else "between its layers") in str(error)
        else:
            reduced.check()
            assert len(reduced) == max(1, round(reduced.total / ratio)) and reduced.tokens.isfinite().all()


# --- saliency ----------------------------------------------------------------------------------------------------


@every_method
def test_saliency_is_asked_for_or_not_looked_at(name) -> None:
    tokens = make((5, 3, 3))
    bare = vtc.VideoTokens(tokens.values)
    if get_method(name).needs == "attention":
        with pytest.raises(vtc.VTCError) as caught:
            vtc.reduce(bare, name, ratio=1.2)
        return assert_sentence(caught, repr(name), "saliency")
    with_it, without = vtc.reduce(tokens, name, ratio=1.2), vtc.reduce(bare, name, ratio=1.2)
    assert all(torch.equal(getattr(with_it, part), getattr(without, part)) for part in PARTS)


@every_method
def test_the_source_of_saliency_is_noted_where_it_was_used(name) -> None:
    tokens = replace(make((5, 3, 3)), saliency_source="attention of a test")
    for options in each_choice(name):
        noted = "saliency: attention of a test" in vtc.reduce(tokens, name, ratio=1.2, **options).notes
        assert noted == (get_method(name).needs == "attention" or "attention" in options.values())


# --- precision, device, process ----------------------------------------------------------------------------------


def assert_agree(got: vtc.Reduction, want: vtc.Reduction, tokens: vtc.VideoTokens, close: float) -> None:
    """The same up to near ties, which rounding may turn: nine of ten anchors, and the coverage of what stayed."""
    assert len(got) == len(want)
    assert len(np.intersect1d(got.anchor, want.anchor)) >= 0.9 * len(want), want.options
    if torch.equal(got.assign, want.assign):
        torch.testing.assert_close(got.tokens.to(want.tokens.dtype), want.tokens, atol=close, rtol=close)
    alike = [vtc.fidelity(tokens, replace(each, tokens=each.tokens.float()))["coverage"] for each in (got, want)]
    assert alike[0] == pytest.approx(alike[1], abs=0.01), want.options


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_agrees_with_single(name, dtype) -> None:
    half = make((8, 6, 6), 48, dtype)
    single = vtc.VideoTokens(half.values.float(), half.saliency)
    for options in each_choice(name):
        got, want = (reduce_to(max(48, least(name, half, options)), each, name, options) for each in (half, single))
        assert_agree(got, want, single, ROUNDING[dtype])


ON_CUDA = [*itertools.product(METHODS, ["noise", "cuts", "constant"])]
NO_CUDA = [pytest.param("every method", "every kind", marks=pytest.mark.skip(reason="needs a CUDA device"))]


@pytest.mark.parametrize(("name", "kind"), ON_CUDA if torch.cuda.is_available() else NO_CUDA)
def test_cuda_agrees_with_the_cpu(name, kind) -> None:
    tokens = make((8, 6, 6), 48, kind=kind)
    for options in each_choice(name):
        budget = max(48, least(name, tokens, options))
        want, got = reduce_to(budget, tokens, name, options), reduce_to(budget, tokens.to("cuda"), name, options)
        assert all(getattr(got, part).device.type == "cuda" for part in PARTS)
        assert_contract(tokens, got.to("cpu"), budget)
        assert_agree(got.to("cpu"), want, tokens, ROUNDING[torch.float32])
    for option in instead_of_a_ratio(name):
        value = True if get_method(name).options[option][0] is bool else 0.6
        want, got = vtc.reduce(tokens, name, **{option: value}), vtc.reduce(tokens.to("cuda"), name, **{option: value})
        assert len(got) == len(want)


def digests() -> list[str]:
    """One for all bits that each method gives for a clip."""
    register_mine()
    tokens, found = make((9, 3, 4), kind="cuts"), []
    for name in METHODS:
        reduced = reduce_to(max(40, least(name, tokens, {})), tokens, name, {})
        bits = b"".join(getattr(reduced, part).numpy().tobytes() for part in PARTS)
        found.append(f"{name} {hashlib.sha256(bits).hexdigest()}")
    return found


@pytest.mark.slow
def test_another_process_gives_the_same() -> None:
    script = "import test_conformance; print(*test_conformance.digests(), sep='\\n')"
    where = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", script], cwd=where, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == digests()
