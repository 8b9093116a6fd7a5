"""Ties fall the same way whatever the order of summation: a stand-in for another device, where that order differs."""

from __future__ import annotations

import pytest
import torch

import vtc_lab as vtc

BLIND = {"uniform", "random", "random-per-frame", "pool", "downscale"}
CASES = [(name, {}) for name in vtc.methods().index] + [("tome", {"scope": "frame"}), ("sttm", {"root": 0})]


def tokens_of(frames: torch.Tensor) -> vtc.VideoTokens:
    return vtc.VideoTokens(frames, torch.rand(frames.shape[:3], generator=torch.Generator().manual_seed(1)))


def assert_same(name: str, options: dict, one: vtc.VideoTokens, other: vtc.VideoTokens) -> None:
    for budget in (16, 24, 50) if name != "dycoke" else (32, 50):
        want, got = (vtc.reduce(each, name, ratio=one.total / budget, **options) for each in (one, other))
        assert torch.equal(got.anchor, want.anchor) and torch.equal(got.assign, want.assign), budget


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_noise_of_a_rounding_decides_nothing_between_equal_tokens(name, options) -> None:
    gen = torch.Generator().manual_seed(0)
    values = torch.randn(48, generator=gen).expand(6, 4, 4, 48).clone()
    noisy = values * (1 + 1e-7 * torch.randn(values.shape, generator=gen))
    assert_same(name, options, tokens_of(values), tokens_of(noisy))


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] not in BLIND], ids=str)
def test_the_order_of_channels_decides_nothing_between_frames_that_repeat(name, options) -> None:
    gen = torch.Generator().manual_seed(0)
    values = torch.randn(2, 4, 4, 48, generator=gen)[torch.tensor([0, 0, 0, 1, 1, 1])]
    assert_same(name, options, tokens_of(values), tokens_of(values[..., torch.randperm(48, generator=gen)]))
