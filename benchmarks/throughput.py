"""Questions per second on the bundled test set under each ratio, relative to no reduction.

Every setting is timed on the same clips in turn, in one process, in an order that changes from clip to clip; a clip is
read once, and its encoding, reduction, prefill and decoding are timed. `--clips` takes the first few.
"""

import argparse
import itertools
import platform
import random

import pandas as pd
import torch

import vtc_lab as vtc

RATIOS = (1, 2, 4, 8, 16)


def times(model, samples: list[dict], method: str) -> pd.DataFrame:
    """Seconds for a clip's questions under each ratio; settings interleaved."""
    rows, order = [], random.Random(0)
    for source, group in itertools.groupby(samples, key=lambda sample: sample["clip"]):
        questions = [sample["question"] for sample in group]
        clip = vtc.read_clip(source)
        model.encode(clip)
        settings = list(RATIOS)
        order.shuffle(settings)
        for ratio in settings:
            tokens = model.encode(clip)
            reduced = None if ratio == 1 else vtc.reduce(tokens, method, ratio=ratio)
            made = model.ask(questions, clip, reduced)[0].seconds
            answering = (made["prefill"] + made["decode"]) * len(questions) + made["reduce"]
            rows.append((ratio, len(questions), answering, answering + made["encode"]))
    return pd.DataFrame(rows, columns=["ratio", "questions", "answering", "with_encoding"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--method", default="lftr")
    given = parser.parse_args()
    samples = vtc.read_samples()
    clips = set(list(dict.fromkeys(sample["clip"] for sample in samples))[: given.clips])
    timed = times(vtc.load_model(), [sample for sample in samples if sample["clip"] in clips], given.method)
    rate = timed.groupby("ratio").sum()
    rate = pd.DataFrame({name: rate.questions / rate[name] for name in ("answering", "with_encoding")})
    print(
        f"{given.method}, questions per second relative to 1x, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    print((rate / rate.loc[1]).round(2).to_string())


if __name__ == "__main__":
    main()
