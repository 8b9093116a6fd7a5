"""What a sweep costs against evaluating each of its settings from the video file.

14 methods (option variants of LFTR fill up where fewer are registered) at 6 ratios, on the first clips of the bundled
test set. For each clip the whole sweep is timed and, before or after it in turn, a random sample of the settings, each
by itself: read the clip, encode it, reduce it, ask one question after the other. Then a sweep in this process is timed
in turn with the same one in two processes, of which one can encode while the other's language model works.
"""

import argparse
import itertools
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

import vtc_lab as vtc
from vtc_lab.reducers.registry import needs_saliency
from vtc_lab.sweeps.plan import settings_of, variants

RATIOS = (1, 2, 4, 8, 16, 32)
METHODS = ["lftr", "uniform", "random"]
MORE = variants(
    "lftr", segments=["greedy", "optimal"], temporal=["merge", "select"], significance=["distinct", "neighbours"]
)


def alone(model, samples: list[dict], setting) -> int:
    """Evaluate one setting as if it were the only one."""
    clip = vtc.read_clip(samples[0]["clip"])
    tokens = model.encode(clip, saliency=needs_saliency(setting.method, setting.options))
    try:
        reduced = vtc.reduce(tokens, setting.method, ratio=setting.ratio, **setting.options)
    except vtc.VTCError:
        return 0  # below the method's minimum
    answers = [model.ask(s["question"], clip, reduced, candidates=s["candidates"]) for s in samples]
    return sum(answer.entered == len(reduced) for answer in answers)


def timed(work, *given) -> float:
    start = time.perf_counter()
    work(*given)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--settings", type=int, default=6, help="evaluated alone, for each clip")
    parser.add_argument("--pairs", type=int, default=3, help="of a sweep in one process and in two")
    arguments = parser.parse_args()
    model, draw = vtc.load_model(), random.Random(0)
    methods = [*vtc.methods().index, *MORE[1:]][:14]
    settings = settings_of(methods, RATIOS, [0])
    groups = itertools.groupby(vtc.read_samples(), key=lambda sample: sample["clip"])
    groups = [list(group) for _, group in itertools.islice(groups, arguments.clips)]
    alone(model, groups[0], settings[-1])  # what only the first call costs
    together = single = 0.0
    for number, samples in enumerate(groups):
        some = draw.sample(settings, arguments.settings)
        steps = [
            lambda samples=samples: timed(vtc.sweep, model, samples, methods, RATIOS),
            lambda samples=samples, some=some: sum(timed(alone, model, samples, setting) for setting in some),
        ]
        first = number % 2
        took = {n: steps[n]() for n in (first, 1 - first)}
        together, single = together + took[0], single + took[1] * len(settings) / len(some)
    named = ", ".join(name if isinstance(name, str) else f"{name[0]} {name[1]}" for name in methods)
    questions = sum(map(len, groups))
    print(f"{len(methods)} methods x {len(RATIOS)} ratios, {questions} questions on {len(groups)} clips: {named}")
    print(f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}")
    print(f"sweep {together:.1f} s; each setting from the file {single:.1f} s (extrapolated from the sample)")
    print(f"the sweep costs {together / single:.3f} of it, 1/{single / together:.1f}")
    asked = [sample for samples in groups for sample in samples]
    with ProcessPoolExecutor(2, get_context("spawn")) as two:
        took = {None: 0.0, two: 0.0}
        for number in range(arguments.pairs + 1):
            for executor in took:
                spent = timed(lambda it=executor: vtc.sweep(model, asked, METHODS, [1, 4, 8], executor=it))
                took[executor] += spent if number else 0.0  # at first, both workers load the model
    print(f"{METHODS} at 1x, 4x and 8x: two processes are {took[None] / took[two]:.2f} times as fast as this one")


if __name__ == "__main__":
    main()
