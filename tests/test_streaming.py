"""A stream keeps what the whole clip would, frame by frame, in the memory of a few frames."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.reducers.registry import get_method

PATCHES, CHANNELS = 8, 4


@st.composite
def clips(draw):
    """Whole numbers in a power of two of patches: sums are exact, and ties are many."""
    frames, seed, top = draw(st.integers(1, 12)), draw(st.integers(0, 10_000)), draw(st.integers(1, 4))
    made = torch.Generator().manual_seed(seed)
    return torch.randint(-top, top + 1, (frames, 2, 4, CHANNELS), generator=made).float()


def offline(values, method, budget, **options):
    """The method itself, without the limits that a ratio has."""
    return get_method(method).run(vtc.VideoTokens(values), budget, **options)


def demand_same(values, whole, *args, **options):
    parts = list(vtc.reduce_stream(iter(values), *args, **options))
    assert len(parts) == len(values)
    for t, part in enumerate(parts):
        wanted = whole[t : t + 1]
        assert part.grid == wanted.grid == (1, 2, 4)
        for name in ("tokens", "anchor", "assign", "weight"):
            assert torch.equal(getattr(part, name), getattr(wanted, name)), (t, name)


@settings(deadline=None, max_examples=40)
@given(clips(), st.floats(-1, 1))
def test_thresholds(values, tau):
    whole = offline(values, "dtd", None, tau=tau)
    demand_same(values, whole, "dtd", tau=tau)
    demand_same(values, offline(values, "evs", len(whole)), "evs", tau=tau)


@settings(deadline=None, max_examples=40)
@given(clips(), st.sampled_from([1, 2, 4, 8]), st.integers(1, 9))
def test_shares_of_each_frame(values, ratio, window):
    each, frames = PATCHES // ratio, len(values)
    demand_same(values, offline(values, "dtd", PATCHES + each * (frames - 1), scope="frame"), "dtd", ratio)
    demand_same(values, offline(values, "stc", each * frames, window=window), "stc", ratio, window=window)
    options = {"temporal": "select", "dropped": "prune"}
    whole = offline(values, "lftr", each * frames, allocation="per-frame", **options)
    demand_same(values, whole, "lftr", ratio, window=1)


@settings(deadline=None, max_examples=40)
@given(clips(), st.floats(1, 8))
def test_a_window_as_long_as_the_clip_ranks_all_of_it(values, ratio):
    budget = round(len(values) * PATCHES / ratio)
    options = {"temporal": "select", "dropped": "prune"}
    demand_same(values, offline(values, "lftr", budget, **options), "lftr", ratio, window=len(values))
    demand_same(values, offline(values, "evs", max(budget, PATCHES)), "evs", ratio, window=len(values))


@pytest.mark.parametrize("method", ["dtd", "evs", "lftr", "stc"])
def test_the_budget_is_met_at_the_end_of_each_window(method):
    values = torch.randn(30, 2, 4, CHANNELS)
    counts = [len(part) for part in vtc.reduce_stream(values, method, 3, window=10)]
    whole_first = PATCHES - 3 if method == "dtd" else 0  # beyond its share of the first frame
    assert sum(counts) == 80 + whole_first


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lftr", "stc"])
def test_memory_does_not_grow(method):
    """Frames live in memory of NumPy's, which tracemalloc counts, until nobody holds them."""
    side = 16

    def frames(count):
        made = np.random.default_rng(0)
        return (torch.from_numpy(made.standard_normal((side, side, 8), np.float32)) for _ in range(count))

    peaks = []
    for count in (50, 2000):
        tracemalloc.start()
        kept = sum(len(part) for part in vtc.reduce_stream(frames(count), method, 8))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert kept >= count * side * side // 8
    assert peaks[1] < peaks[0] + 3 * side * side * 8 * 4


def test_bad_streams_are_one_sentence():
    frame = torch.ones(2, 4, CHANNELS)
    for stream, word in (
        ([], "no frames"),
        ([frame, frame[:1]], "frame 1 of the stream is \\(1, 4, 4\\)"),
        ([frame, frame / 0 * 0], "frame 1 of the stream holds non-finite"),
        ([frame[0]], "must be a floating tensor"),
    ):
        with pytest.raises(vtc.VTCError, match=word):
            list(vtc.reduce_stream(stream, "lftr", 2))
    with pytest.raises(vtc.VTCError, match="ratio is 9; it must be a number from 1"):
        list(vtc.reduce_stream([frame], "lftr", 9))
    for arguments, word in (
        ({"method": "pool", "ratio": 2}, "method for a stream is 'pool'; there are"),
        ({"method": "stc", "tau": 0.5}, "not tau"),
        ({"method": "dtd", "tau": 0.5, "ratio": 2}, "not both"),
        ({"method": "lftr", "ratio": 2, "window": 0}, "window is 0"),
    ):
        with pytest.raises(vtc.VTCError, match=word):
            vtc.reduce_stream([frame], **arguments)
