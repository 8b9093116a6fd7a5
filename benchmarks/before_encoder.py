"""Compare what reducing before the encoder saves and costs, with the bundled model on its test set.

Prints the loss of accuracy in points against every token, with an interval over clips, then the questions per second
from file to answer against every token: each round asks one question about another clip under every setting, in an
order that changes from round to round.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd

import vtc_lab as vtc
from vtc_lab.reducers.ops import prune

STAGES = ("features", "both", "pixels")
NONE = ("none", "", 1.0)  # method, stage, ratio


def accuracy(model, clips, settings) -> pd.DataFrame:
    """Return a row for each question and setting; "pixels, whole" encodes whole frames all the same."""
    rows = []
    for number, (clip, samples) in enumerate(clips):
        full = model.encode(clip)
        reduced = {NONE: prune(full, np.arange(full.total))}
        for method, stage, ratio in settings:
            reduced[method, stage, ratio] = vtc.reduce_clip(model, clip, method, ratio, stage=stage)
            if stage == "pixels":
                reduced[method, "pixels, whole", ratio] = prune(full, reduced[method, stage, ratio].anchor)
        asked = [sample["question"] for sample in samples]
        for ratio in sorted({ratio for *_, ratio in reduced}):
            some = {setting: reduction for setting, reduction in reduced.items() if setting[2] == ratio}
            answers = model.ask_each(asked, clip, list(some.values()), candidates=[None] * len(asked))
            for setting, mine in zip(some, answers, strict=True):
                for sample, answer in zip(samples, mine, strict=True):
                    rows.append((number, *setting, sample["kind"], vtc.score(sample, answer)))
    return pd.DataFrame(rows, columns=["clip", "method", "stage", "ratio", "kind", "right"])


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of each setting in points, with its 95 % interval from resampled clips."""
    each = table.groupby(["method", "stage", "ratio", "clip"]).right.agg(["sum", "count"])
    full, draws = each.loc[NONE], np.random.default_rng(0)
    chosen = draws.integers(0, len(full), (2000, len(full)))
    rows = []
    for setting, mine in each.groupby(level=[0, 1, 2]):
        gain = mine["sum"].to_numpy() - full["sum"].to_numpy()
        some = 100 * gain[chosen].sum(1) / full["count"].to_numpy()[chosen].sum(1)
        low, high = np.percentile(some, [2.5, 97.5])
        rows.append((*setting, 100 * gain.sum() / full["count"].sum(), low, high))
    return pd.DataFrame(rows, columns=["method", "stage", "ratio", "points", "low", "high"])


def speed(model, paths, samples, settings, rounds: int) -> pd.DataFrame:
    """Return the median seconds of each setting, and how many times the questions per second, with its interval."""
    order, rows = np.random.default_rng(0), []
    for number in range(rounds + 1):
        path, question = paths[number % len(paths)], samples[number % len(paths)]
        for n in order.permutation(len(settings) + 3):
            method, stage, ratio = setting = settings[n] if n < len(settings) else NONE
            start, begun = time.perf_counter(), time.process_time()
            clip = vtc.read_clip(path)
            made = None if setting == NONE else vtc.reduce_clip(model, clip, method, ratio, stage=stage)
            answer = model.ask(question, clip, made)
            total, worked = time.perf_counter() - start, clip.seconds + time.process_time() - begun
            if number:
                rows.append((number, *setting, total, worked, *(answer.seconds[name] for name in PARTS)))
    table = pd.DataFrame(rows, columns=["round", "method", "stage", "ratio", "total", "worked", *PARTS])
    table = table.groupby(["round", "method", "stage", "ratio"]).median()
    full = table.xs(NONE, level=[1, 2, 3])
    found = table.groupby(level=[1, 2, 3]).median()
    found["by_work"] = (table.worked.unstack([1, 2, 3]).rdiv(full.worked, axis=0)).median()
    gain = table.total.unstack([1, 2, 3]).rdiv(full.total, axis=0)
    found["times"], found["low"], found["high"] = gain.median(), gain.quantile(0.25), gain.quantile(0.75)
    return found.reset_index()


PARTS = ["read", "encode", "reduce", "prefill", "decode"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=30, help="for accuracy; 0 to leave it out")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--validation", action="store_true", help="generate clips of the validation seeds instead")
    parser.add_argument("--rounds", type=int, default=9, help="for speed; 0 to leave it out")
    parser.add_argument("--ratios", nargs="+", type=float, default=[2, 4, 8, 16])
    parser.add_argument("--methods", nargs="+", default=["lftr"])
    parser.add_argument("--rows", type=Path, help="a CSV of answers, which later runs with other clips add to")
    given = parser.parse_args()
    model, test = vtc.load_model(), vtc.read_samples()
    grouped = [list(same) for _, same in itertools.groupby(test, key=lambda sample: sample["clip"])]
    settings = list(itertools.product(given.methods, STAGES, given.ratios))
    settings += [(method, "features", ratio) for method in ("uniform", "random") for ratio in given.ratios]
    numbers = range(given.first, given.first + given.clips)
    if given.clips:
        clips = (
            (vtc.make_clip(10_000 + n) for n in numbers)
            if given.validation
            else ((vtc.read_clip(grouped[n][0]["clip"]), grouped[n]) for n in numbers)
        )
        table = accuracy(model, clips, settings)
        table["clip"] += given.first
        if given.rows:
            table = pd.concat([pd.read_csv(given.rows, keep_default_na=False), table]) if given.rows.exists() else table
            table.to_csv(given.rows, index=False)
        print(table["clip"].nunique(), "clips", len(table.query("method == 'none'")), "questions")
        print(losses(table).round(2).to_string(index=False))
    if given.rounds:
        paths, asked = [each[0]["clip"] for each in grouped], [each[0]["question"] for each in grouped]
        timed = [setting for setting in settings if setting[0] in given.methods]
        print(speed(model, paths, asked, timed, given.rounds).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
