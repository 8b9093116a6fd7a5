"""What each method costs, with a copy of its input as the unit.

Every method reduces 32 and 128 frames of 196 tokens with 3,584 channels (a 7B model's) at 4x and 10x. Methods and
copies take turns in one process, the best of the rounds counts, and time is given in copies. Peak memory beyond the
input is that of a process of its own on a CPU, and the allocator's on a GPU; it is given in sizes of the input. The
last column is the exponent at which time grows with the number of frames. The clip has a new scene every 16 frames,
and its saliency is random.
"""

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

import vtc_lab as vtc
from vtc_lab.tokens import MinimumBudgetError

CHANNELS, SIDE = 3584, 14


def make_tokens(frames: int, device: str) -> vtc.VideoTokens:
    gen = torch.Generator().manual_seed(0)
    values = torch.empty(frames, SIDE, SIDE, CHANNELS)
    for t in range(frames):
        if t % 16 == 0:
            scene = torch.randn(SIDE, SIDE, CHANNELS, generator=gen)
        # Every patch changes at a pace of its own, so that thresholds find still and moving ones.
        scene = scene + 0.8 * torch.rand(SIDE, SIDE, 1, generator=gen) * torch.randn(
            SIDE, SIDE, CHANNELS, generator=gen
        )
        values[t] = scene
    return vtc.VideoTokens(values, torch.rand(frames, SIDE, SIDE, generator=gen)).to(device)


def reaches(method: str, ratio: float) -> bool:
    """Whether the ratio is above the method's minimum."""
    try:
        vtc.reduce(vtc.VideoTokens(torch.ones(32, SIDE, SIDE, 2), torch.ones(32, SIDE, SIDE)), method, ratio=ratio)
    except MinimumBudgetError:
        return False
    return True


def seconds(job, device: str) -> float:
    start = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times(frames: int, ratios: list[float], methods: list[str], rounds: int, device: str) -> dict[str, float]:
    """Best seconds of the copy ("copy") and of each (method, ratio), in turns."""
    tokens = make_tokens(frames, device)
    jobs = {(m, r): lambda m=m, r=r: vtc.reduce(tokens, m, ratio=r) for m in methods for r in ratios if reaches(m, r)}
    best = dict.fromkeys(["copy", *jobs], math.inf)
    for turn in range(rounds):
        for key, job in jobs.items():
            if turn and best[key] > 20:  # one round of the slowest is enough
                continue
            best["copy"] = min(best["copy"], seconds(tokens.values.clone, device))
            best[key] = min(best[key], seconds(job, device))
    return best


def peak(frames: int, method: str, ratio: float, device: str) -> float:
    """Most memory beyond the input that one reduction takes, in sizes of the input."""
    tokens = make_tokens(frames, device)
    size = tokens.values.numel() * tokens.values.element_size()
    vtc.reduce(tokens[:2], method, ratio=2)  # what torch sets up once
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        vtc.reduce(tokens, method, ratio=ratio)
        return (torch.cuda.max_memory_allocated() - before) / size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vtc.reduce(tokens, method, ratio=ratio)
    kilobytes = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * kilobytes / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--ratios", type=float, nargs="+", default=[4, 10])
    parser.add_argument("--methods", nargs="+", default=list(vtc.methods().index))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=3, metavar=("FRAMES", "METHOD", "RATIO"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(peak(int(given.peak[0]), given.peak[1], float(given.peak[2]), given.device))
        return
    machine = torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, {CHANNELS} channels")

    def memory(method: str) -> float:
        arguments = [str(max(given.frames)), method, str(given.ratios[0])]
        command = [sys.executable, __file__, "--device", given.device, "--peak", *arguments]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Before this process grows: a child's peak begins at its parent's.
    memories = {method: memory(method) for method in given.methods}
    best = {frames: times(frames, given.ratios, given.methods, given.rounds, given.device) for frames in given.frames}
    for frames in given.frames:
        print(f"a copy of {frames} frames takes {1000 * best[frames]['copy']:.1f} ms")
    heads = [f"{frames} at {ratio:g}x" for frames in given.frames for ratio in given.ratios]
    print(f"{'method':18s}" + "".join(f"{head:>14s}" for head in heads) + f"{'memory':>10s}{'grows':>8s}")
    results = []
    for method in given.methods:
        cells = [best[f].get((method, r), math.nan) / best[f]["copy"] for f in given.frames for r in given.ratios]
        first, last = (best[frames][method, given.ratios[0]] for frames in (given.frames[0], given.frames[-1]))
        spread = math.log(given.frames[-1] / given.frames[0]) if len(given.frames) > 1 else math.nan
        grows = math.log(last / first) / spread
        print(
            f"{method:18s}"
            + "".join("         minimum" if math.isnan(c) else f"{c:14.1f}" for c in cells)
            + f"{memories[method]:10.2f}{grows:8.2f}",
            flush=True,
        )
        results.append(
            {
                "method": method,
                "copies": dict(zip(heads, cells, strict=True)),
                "memory": memories[method],
                "grows": grows,
            }
        )
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
