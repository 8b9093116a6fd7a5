"""Measure the cost of each fidelity measure: milliseconds on one core for 16 frames of 14x14 patches.

Prints the worst over methods and ratios of the median of several runs, for tokens of the bundled encoders and, with
`--wide`, for the 3584 channels of a 7B model. On one x86-64 core those that follow a slider (`vtc.list_measures`)
took 8 ms together at 112 channels and 50 ms at 768, cka alone 4 ms and 111 ms, psnr and ssim 352 ms at 640x272.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

import vtc_lab as vtc
from vtc_lab.measures import answer_fidelity, fidelity, list_measures
from vtc_lab.models.answers import Answer
from vtc_lab.pixels import pixel_fidelity, rebuild

METHODS, RATIOS = ("lftr", "uniform", "random", "pool"), (1, 2, 8, 32)


def cost(run: Callable[[], object], repeats: int = 7) -> float:
    """Median milliseconds of processor time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def token_costs(tokens: vtc.VideoTokens, reduced: vtc.Reduction, repeats: int = 7) -> dict[str, float]:
    """Milliseconds of each measure of tokens asked for alone, and of those that follow a slider together."""
    names = list_measures().query("of == 'tokens'").index
    alone = {name: cost(lambda name=name: fidelity(tokens, reduced, [name]), repeats) for name in names}
    return alone | {"all that follow a slider": cost(lambda: fidelity(tokens, reduced), repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wide", action="store_true", help="also 3584 channels: slower")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clip = vtc.read_clip("data/clips/bikes.mp4", frames=16)
    generator = torch.Generator().manual_seed(0)
    sources = [vtc.load_encoder(name).encode(clip).values for name in ("efficientnet-lite0", "pixels")]
    if arguments.wide:
        sources.append(torch.randn(16, 14, 14, 3584, generator=generator))
    print(f"{platform.machine()}, {platform.processor() or 'processor unnamed'}, one core")
    for values in sources:
        tokens = vtc.VideoTokens(values, torch.rand(values.shape[:3], generator=generator))
        worst: dict[str, float] = {}
        for method in METHODS:
            for ratio in RATIOS:
                reduced = vtc.reduce(tokens, method, ratio=ratio)
                for name, milliseconds in token_costs(tokens, reduced, 3 if arguments.wide else 7).items():
                    worst[name] = max(worst.get(name, 0), milliseconds)
        print(f"\ntokens {'x'.join(map(str, values.shape))}, worst of {len(METHODS)} methods at {RATIOS}")
        for name, milliseconds in worst.items():
            print(f"  {name:26s} {milliseconds:8.2f} ms")
    height, width = clip.frames.shape[1:3]
    print(f"\npixels, 16 frames of {width}x{height}, lftr at 8x")
    reduced = vtc.reduce(vtc.VideoTokens(sources[0]), "lftr", ratio=8)
    print(f"  {'psnr and ssim':26s} {cost(lambda: pixel_fidelity(clip, reduced), 3):8.2f} ms")
    print(f"  {'the rebuilt clip alone':26s} {cost(lambda: rebuild(clip, reduced), 3):8.2f} ms")
    answers = [Answer("", {}, logits, 1, 1, {}) for logits in torch.randn(2, 152_000, generator=generator)]
    print("\nanswers, 152,000 tokens of vocabulary, beside the pass through the model")
    print(f"  {'kl and tv':26s} {cost(lambda: answer_fidelity(*answers)):8.2f} ms")


if __name__ == "__main__":
    main()
