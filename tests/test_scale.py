"""LFTR on long clips: memory near that of its input, and time that grows with the number of tokens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a process of its own, because a peak of memory cannot be taken back; the first length is therefore the longest.
# The clip has a cut every 16 frames.
MEASURE = """
import json, resource, sys, time
import torch
import vtc_lab as vtc

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

torch.set_num_threads(1)
lengths, dtype, options = json.loads(sys.argv[1])
gen = torch.Generator().manual_seed(0)
noise = torch.randn(31, 14, 14, 896, generator=gen)
values = torch.empty(lengths[0], 14, 14, 896, dtype=getattr(torch, dtype))
for t in range(lengths[0]):
    if t % 16 == 0:
        frame = torch.randn(14, 14, 896, generator=gen)
    frame += 0.2 * noise[t % 31]
    values[t] = frame
tokens = vtc.VideoTokens(values)
size = values.numel() * values.element_size()
vtc.reduce(tokens[:8], "lftr", ratio=8, **options)  # what torch sets up once
before, seconds = peak(), []
for length in lengths:
    best = float("inf")
    for _ in range(3 if len(lengths) > 1 else 1):
        start = time.process_time()
        reduced = vtc.reduce(tokens[:length], "lftr", ratio=8, **options)
        best = min(best, time.process_time() - start)
        assert len(reduced) == length * 196 // 8
    seconds.append(best)
print(json.dumps({"extra": (peak() - before) / size, "seconds": seconds}))
"""


def measure(lengths: list[int], dtype: str = "float32", options: dict | None = None) -> dict:
    arguments = [sys.executable, "-c", MEASURE, json.dumps([lengths, dtype, options or {}])]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("float32", {"dropped": "merge", "allocation": "global"}),
        ("float32", {"order": "spatial-first", "granularity": "patch"}),
        ("float16", {}),
    ],
)
def test_extra_memory_stays_below_that_of_the_input(dtype, options) -> None:
    """448 frames of 196 tokens with 896 channels: 300 MiB in single precision, 150 MiB in half."""
    assert measure([448], dtype, options)["extra"] < 1.0


@pytest.mark.slow
def test_time_grows_with_the_number_of_tokens_and_memory_stays_below_that_of_the_input() -> None:
    """Four times the frames within eight times the processor time, best of three; a square would be sixteen."""
    measured = measure([448, 112])
    long, short = measured["seconds"]
    assert long < 2 * 4 * short, (short, long)
    assert measured["extra"] < 1.0
