"""Time of a stage inside the language model, against what its FLOPs promise, and the size of its cache.

The bundled model prefills a whole clip and a question without a stage, with one that keeps all, and with one that keeps
10 %, by default FastV after layer 2. The three take turns in one process; numbers are medians over `--turns` turns.
"""

import argparse
import contextlib
import random
import statistics
import time

import numpy as np
import torch

import vtc_lab as vtc
from vtc_lab.models.compression import put_back
from vtc_lab.models.prompt_clips import encode_prompt
from vtc_lab.models.prompts import ask_processor
from vtc_lab.reducers.inside import held, schedule
from vtc_lab.reducers.ops import prune

WAYS = {"no stage": None, "keeps all": 1.0, "10 %": 0.1}


@torch.no_grad()
def prefill(network, inputs, method: str, keep: float | None) -> float:
    """Seconds of one prefill."""
    with vtc.inside(network, method, keep=keep) if keep else contextlib.nullcontext():
        start = time.perf_counter()
        network(**inputs, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--method", default="fastv")
    given = parser.parse_args()
    model, (clip, samples) = vtc.load_model(), vtc.make_clip(7)
    network = model.network
    for frames in (16, 32):
        which = np.linspace(0, len(clip) - 1, frames).round().astype(int)
        longer = vtc.Clip(clip.frames[which], np.arange(frames) / 4)
        prompt = encode_prompt(network, ask_processor(model.processor, model.family, longer, samples[0]["question"]))
        entered = prompt.tokens[0].total
        inputs = put_back(network, prompt, [prune(prompt.tokens[0], torch.arange(entered))])
        total, depth = inputs["input_ids"].shape[1], len(network.get_decoder().layers)
        cut = held(entered, depth, schedule(given.method, depth, keep=0.1))
        costs = [
            vtc.stage_costs(network, prompt.tokens[0].grid, layers, text=total - entered, new_tokens=1)
            for layers in (entered, cut)
        ]
        promised, cache = vtc.ideal_speedup(*costs, {"prefill": 1}), costs[1].kv_bytes.sum() / costs[0].kv_bytes.sum()
        orders = [random.sample([*WAYS], 3) for _ in range(given.turns)]
        times = [{way: prefill(network, inputs, given.method, WAYS[way]) for way in order} for order in orders]
        ratio = {way: statistics.median(turn[way] / turn["no stage"] for turn in times) for way in WAYS}
        seconds = statistics.median(turn["no stage"] for turn in times)
        print(
            f"{frames} frames, {total} tokens: {seconds:.2f} s; keeping all takes {ratio['keeps all']:.3f} of it, "
            f"10 % is {1 / ratio['10 %']:.2f}x as fast; FLOPs promise {promised:.2f}x, so "
            f"{1 / ratio['10 %'] / promised:.2f} of that; the cache has {cache:.1%} of the full one"
        )


if __name__ == "__main__":
    main()
