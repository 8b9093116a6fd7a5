"""LFTR and the floor on the bundled test set: accuracy with intervals, and questions per second.

Prints the README's table. Intervals are 95 %, by bootstrap over clips (questions of one clip are not independent). For
speed, every setting is timed on the same clips in turn, in one process, in an order that changes from clip to clip; a
clip is read once, and its encoding, reduction, prefill and decoding are timed. `--clips` takes the first few.
"""

import argparse
import itertools
import platform
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import vtc_lab as vtc

METHODS = ("lftr", "uniform", "random", "random-per-frame", "pool")
RATIOS = (1, 2, 4, 8, 16)
IN_SPACE = {"temporal_ratio": 1, "significance": "neighbours"}  # picked from nine tried on the first 100 clips


def interval(right: pd.Series, clip: pd.Series, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of a mean, resampling whole clips."""
    groups = right.groupby(clip).agg(["sum", "count"]).to_numpy()
    rows = np.random.default_rng(0).integers(len(groups), size=(draws, len(groups)))
    sums = groups[rows].sum(1)
    return tuple(np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975]))


def speeds(model, samples: list[dict]) -> pd.DataFrame:
    """Seconds for a clip's questions under each LFTR ratio, stage by stage; settings interleaved."""
    rows, order = [], random.Random(0)
    for source, group in itertools.groupby(samples, key=lambda sample: sample["clip"]):
        questions = [sample["question"] for sample in group]
        clip = vtc.read_clip(source)
        model.encode(clip)
        settings = list(RATIOS)
        order.shuffle(settings)
        for ratio in settings:
            tokens = model.encode(clip)
            reduced = None if ratio == 1 else vtc.reduce(tokens, "lftr", ratio=ratio)
            answers = model.ask(questions, clip, reduced)
            made = answers[0].seconds
            answering = (made["prefill"] + made["decode"]) * len(questions) + made["reduce"]
            rows.append((source, ratio, len(questions), answering, answering + made["encode"]))
    return pd.DataFrame(rows, columns=["clip", "ratio", "questions", "answering", "with_encoding"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=10**6)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    samples = vtc.read_samples()
    names = list(dict.fromkeys(sample["clip"] for sample in samples))[: arguments.clips]
    samples = [sample for sample in samples if sample["clip"] in set(names)]
    model = vtc.load_model()
    told = {"progress": lambda done, total: print(f"\r{done}/{total}", end="")}
    table = vtc.sweep(model, samples, METHODS, RATIOS, **told)
    in_space = vtc.sweep(model, samples, ["lftr"], RATIOS, IN_SPACE, **told).assign(method="lftr, in space, neighbours")
    table = pd.concat([in_space, table], ignore_index=True)
    print(f"\n{len(samples)} questions on {len(names)} clips\n")
    print("| method | " + " | ".join(f"{ratio}x" for ratio in RATIOS) + " |")
    print("|---|" + "---|" * len(RATIOS))
    for method, ratio_rows in table.groupby("method", sort=False):
        cells = []
        for _, rows in ratio_rows.groupby("ratio"):
            low, high = interval(rows.right, rows["clip"])
            cells.append(f"{100 * rows.right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})")
        print(f"| {method} | {' | '.join(cells)} |")
    print("\nby kind, LFTR:\n")
    by_kind = 100 * table[table.method == "lftr"].pivot_table(index="kind", columns="ratio", values="right")
    print(by_kind.round(1).to_string())
    timed = speeds(model, samples)
    rate = timed.groupby("ratio")[["questions", "answering", "with_encoding"]].sum()
    rate = pd.DataFrame({name: rate.questions / rate[name] for name in ("answering", "with_encoding")})
    print(f"\nquestions per second relative to 1x, {torch.get_num_threads()} threads, {platform.machine()}:\n")
    print((rate / rate.loc[1]).round(2).to_string())
    if arguments.csv:
        table.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
