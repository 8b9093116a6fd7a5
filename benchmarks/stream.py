"""Reduce an hour of video as a stream, 2 frames a second, and print the time it took and the memory after each tenth.

`python benchmarks/stream.py [--frames 7200]`; the frames are made on the fly, 14x14 tokens of 896 channels with a cut
every 40 frames, and the time that making them takes is not counted.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import vtc_lab as vtc


def frames(count: int, spent: list[float]) -> Iterator[torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    for number in range(count):
        start = time.perf_counter()
        if not number % 40:
            scene = torch.randn(14, 14, 896, generator=noise)
        made = scene + 0.1 * torch.randn(14, 14, 896, generator=noise)
        spent[0] += time.perf_counter() - start
        yield made


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frames", type=int, default=7200)
count = parser.parse_args().frames
for method in ("lftr", "dtd", "evs", "stc"):
    start, making, kept, memory = time.perf_counter(), [0.0], 0, []
    for number, reduced in enumerate(vtc.reduce_stream(frames(count, making), method, ratio=8), start=1):
        kept += len(reduced)
        if not number % max(1, count // 10):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)
    seconds = time.perf_counter() - start - making[0]
    print(f"{method}: {seconds:.1f} s, {kept} of {count * 196} tokens, MB after each tenth {memory}", flush=True)
