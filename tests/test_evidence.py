"""Evidence of the generated world: what it marks, how much of it a reduction leaves, and the ceiling that it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.reducers.registry import METHODS
from vtc_lab.toy.questions import questions, scene_of
from vtc_lab.toy.world import DOT, FLASH

SEEDS = range(10_000, 10_040)


def tokens_of(clip: vtc.Clip, channels: int = 6) -> vtc.VideoTokens:
    values = torch.randn(len(clip), 14, 14, channels, generator=torch.Generator().manual_seed(0))
    return vtc.VideoTokens(values, values[..., 0].abs())


def recall(reduction: vtc.Reduction, sample: dict) -> float:
    """Read the definition patch by patch."""
    shares = []
    for pairs in sample["evidence"]:
        needed = {t * 196 + patch for t, patch in pairs}
        stays = 0
        for source in needed:
            target = int(reduction.assign[source])
            members = [i for i in range(reduction.total) if int(reduction.assign[i]) == target]
            whole = sum(float(reduction.weight[i]) for i in members)
            part = sum(float(reduction.weight[i]) for i in members if i in needed)
            stays += target >= 0 and part >= 0.5 * whole - 1e-6
        shares.append(stays / len(needed))
    return min(shares)


@pytest.mark.parametrize("method", ["random", "pool", "tome", "framefusion", "visionzip"])
def test_recall_is_its_definition(method: str) -> None:
    clip, samples = vtc.make_clip(10_005, frames=8)
    reduced = vtc.reduce(tokens_of(clip), method, ratio=6)
    for sample in samples:
        assert vtc.evidence_recall(reduced, sample) == pytest.approx(recall(reduced, sample))


def test_evidence_is_where_the_pixels_are_and_when_they_tell() -> None:
    for seed in SEEDS:
        scene, rng = scene_of(seed)
        _, samples = vtc.make_clip(seed)
        kinds = {sample["kind"]: sample for sample in samples}
        assert set(kinds) == {kind for kind, *_ in questions(scene, rng)}
        for kind, sample in kinds.items():
            assert all(sample["evidence"]), sample
            owners = scene.owner.reshape(-1, 14, 8, 14, 8).transpose(0, 1, 3, 2, 4).reshape(len(scene.frames), 196, 64)
            for pairs in sample["evidence"]:
                shown = [set(owners[t, patch]) for t, patch in pairs]
                assert set.intersection(*shown), "one thing is in every patch"
                times = [t for t, _ in pairs]
                if kind == "state":
                    assert min(times) >= scene.middle
                if kind == "direction":
                    assert min(times) >= scene.cut
                if kind in ("event", "detail"):
                    assert (FLASH if kind == "event" else DOT) in set.intersection(*shown)


@settings(max_examples=20, deadline=None)
@given(st.integers(10_000, 11_000), st.floats(1, 40))
def test_the_oracle_keeps_all_evidence_that_fits_and_spreads_the_rest(seed: int, ratio: float) -> None:
    clip, samples = vtc.make_clip(seed)
    tokens = vtc.with_evidence(tokens_of(clip, 1), samples)
    reduced = vtc.reduce(tokens, "oracle", ratio=ratio)
    needed, kept = tokens.evidence.flatten(), reduced.kept.flatten()
    assert (needed & kept).sum() == min(needed.sum(), len(reduced))
    if needed.sum() <= len(reduced):
        assert {vtc.evidence_recall(reduced, sample) for sample in samples} == {1.0}
    others = np.diff((kept & ~needed)[~needed].nonzero().flatten().numpy())
    assert not len(others) or np.ptp(others) <= 1


def test_frames_that_were_not_read_are_no_evidence() -> None:
    clip, samples = vtc.make_clip(10_003, frames=32)
    read = np.linspace(0, 31, 16).round().astype(int)
    part = vtc.Clip(clip.frames[read], clip.times[read])
    tokens = vtc.with_evidence(tokens_of(part), samples[:1])
    whole = vtc.with_evidence(tokens_of(clip), samples[:1])
    assert torch.equal(tokens.evidence, whole.evidence[torch.from_numpy(read)])


def test_the_shipped_clips_are_read_in_the_frames_that_their_evidence_means() -> None:
    sample = next(sample for sample in vtc.read_samples() if sample["frames"] > 20)
    every = vtc.read_clip(sample["clip"], frames=sample["frames"])
    read = np.linspace(0, sample["frames"] - 1, 16).round().astype(int)
    assert np.array_equal(vtc.read_sample_clip(sample).frames, every.frames[read])


@pytest.mark.slow
def test_a_sweep_has_the_recall_of_each_row_and_runs_the_oracle() -> None:
    clip, samples = vtc.make_clip(10_007, frames=8)
    asked = [sample | {"clip": clip} for sample in samples[:3]]
    model = vtc.load_model()
    table = vtc.sweep(model, asked, ["oracle", "random"], [1, 4])
    assert set(table.status) == {"ok"}
    assert (table.recall[(table.method == "oracle") | (table.ratio == 1)] == 1).all()
    reduced = vtc.reduce(model.encode(clip), "random", ratio=4)
    rows = table[(table.method == "random") & (table.ratio == 4)]
    assert rows.recall.tolist() == [vtc.evidence_recall(reduced, sample) for sample in asked]
    plain = [{key: sample[key] for key in ("clip", "question", "answer", "candidates")} for sample in asked]
    table = vtc.sweep(model, plain[:1], ["oracle", "random"], [4])
    assert table.status.tolist() == ["error", "ok"] and table.recall.isna().all()
    assert "has no evidence" in table.error[0]


@pytest.mark.slow
def test_evidence_that_is_not_of_this_world_or_grid_leaves_the_recall_empty(monkeypatch) -> None:
    clip, samples = vtc.make_clip(10_007, frames=8)
    other = {key: samples[1][key] for key in ("question", "answer", "candidates")} | {"evidence": "page 3"}
    model = vtc.load_model()
    table = vtc.sweep(model, [sample | {"clip": clip} for sample in (samples[0], other)], ["random"], [4])
    assert set(table.status) == {"ok"} and table.recall.isna().tolist() == [False, True]
    monkeypatch.setattr("vtc_lab.toy.evidence._ROW", 27)  # as for a model with a grid of its own
    table = vtc.sweep(model, [samples[0] | {"clip": clip}], ["random"], [4])
    assert set(table.status) == {"ok"} and table.recall.isna().all()


def test_a_result_of_the_oracle_is_not_taken_for_that_of_other_questions(tmp_path) -> None:
    clip, samples = vtc.make_clip(10_007, frames=8)
    asked = [sample | {"clip": clip} for sample in samples[:4]]
    model, file = vtc.load_model(), tmp_path / "results.sqlite"
    few = vtc.sweep(model, asked[:1], ["oracle"], [16], results=file)
    many = vtc.sweep(model, asked, ["oracle"], [16], results=file)
    fresh = vtc.sweep(model, asked, ["oracle"], [16])
    assert many.recall.tolist() == fresh.recall.tolist() and len(few) == 1


def test_the_oracle_is_no_method_among_others_and_says_what_it_needs() -> None:
    assert "oracle" in METHODS and "oracle" not in vtc.methods().index
    clip, samples = vtc.make_clip(10_000, frames=8)
    tokens = tokens_of(clip)
    for wrong, call in {
        "with_evidence": lambda: vtc.reduce(tokens, "oracle", ratio=4),
        "has no evidence": lambda: vtc.evidence_recall(vtc.reduce(tokens, "pool", ratio=4), {"question": "why?"}),
        "14x14": lambda: vtc.with_evidence(vtc.VideoTokens(torch.randn(8, 7, 7, 2)), samples),
        "bool tensor of shape": lambda: vtc.VideoTokens(torch.randn(2, 2, 2, 2), evidence=torch.ones(2, 2, 2)),
    }.items():
        with pytest.raises(vtc.VTCError, match=wrong):
            call()
