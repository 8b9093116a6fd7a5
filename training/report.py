"""Measures the shipped model on the shipped test set and writes report.md, its curves and accuracy.json.

    python training/report.py --work runs/toy

Everything is read as a user reads it: clips by `vtc.read_sample_clip`, the model by `vtc.load_model`. `--results` keeps
the answers in an SQLite file, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import vtc_lab as vtc
from vtc_lab.figures.style import BASELINES
from vtc_lab.toy.questions import ANSWERS, NEED_TIME

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "data" / "models" / "shapes-onevision-3m"
FRESH = range(5_000, 5_100)  # test seeds that are not shipped
PEERS = 80  # clips of the test set on which every method is measured at 4x; the ceiling and chance have all of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="the folder in which train.py left its log")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    samples = vtc.read_samples()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        told = {"executor": executor, "results": given.results, "progress": print}
        shipped = calibration(samples, **told)
        fresh = calibration([sample for seed in FRESH for sample in made(seed)], **told)
        first = set(list(dict.fromkeys(sample["clip"] for sample in samples))[:PEERS])
        every = [name for name in vtc.methods().index if name not in BASELINES]
        peers = vtc.sweep(vtc.load_model(), [s for s in samples if s["clip"] in first], every, [1, 4], **told)
        ways = {"full": shipped[shipped.ratio == 1].drop_duplicates("sample")}
        for way, changed in (("blind", others(samples)), ("middle", alone(samples))):
            ways[way] = vtc.sweep(vtc.load_model(), changed, ["uniform"], [1], **told)
    table = {
        kind: {"questions": len(rows), "prior": 1 / len(ANSWERS[kind])}
        | {way: float(some[some.kind == kind].right.astype(float).mean()) for way, some in ways.items()}
        for kind, rows in ways["full"].groupby("kind", sort=False)
    }
    count = sum(row["questions"] for row in table.values())
    prior = sum(row["questions"] * row["prior"] for row in table.values()) / count
    whole = {way: float(some.right.astype(float).mean()) for way, some in ways.items()}
    table["all"] = {"questions": count, "prior": prior} | whole
    log = [json.loads(line) for line in (given.work / "log.jsonl").read_text().splitlines()]
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    (HERE / "accuracy.json").write_text(json.dumps({"weights": weights, "accuracy": table}, indent=1) + "\n")
    (HERE / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    kinds = ways["full"].assign(label=ways["full"].kind, ratio=1)
    lines = calibrated(shipped, fresh) + calibrated(peers)
    (HERE / "report.md").write_text(text(table, vtc.bootstrap_interval(kinds), log, weights, lines))
    curves(log).savefig(HERE / "curves.png", dpi=120)


def calibration(samples: list[dict], **told) -> pd.DataFrame:  # noqa: ANN003
    """Answers with everything, of the ceiling and of chance."""
    return vtc.sweep(vtc.load_model(), samples, ["oracle", "random"], [1, 2, 4, 8, 16], **told)


def made(seed: int) -> list[dict]:
    clip, samples = vtc.make_clip(seed)
    read = np.linspace(0, len(clip) - 1, min(16, len(clip))).round().astype(int)
    part = vtc.Clip(clip.frames[read], clip.times[read], clip.path)
    return [sample | {"clip": part} for sample in samples]


def others(samples: list[dict]) -> list[dict]:
    """The same questions about the clip that follows."""
    names = list(dict.fromkeys(sample["clip"] for sample in samples))
    after = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [blank(sample) | {"clip": after[sample["clip"]]} for sample in samples]


def alone(samples: list[dict]) -> list[dict]:
    """The same questions about the middle frame."""
    clips = {}
    for sample in samples:
        if sample["clip"] not in clips:
            clip = vtc.read_clip(sample["clip"], frames=sample["frames"])
            middle = len(clip) // 2
            clips[sample["clip"]] = clip[middle : middle + 1]
    return [blank(sample) | {"clip": clips[sample["clip"]]} for sample in samples]


def blank(sample: dict) -> dict:
    return {key: value for key, value in sample.items() if key not in ("evidence", "frames")}


def calibrated(shipped: pd.DataFrame, fresh: pd.DataFrame | None = None) -> list[str]:
    """A line for each method and ratio: the accuracy kept, as shipped and on fresh clips, and the evidence kept."""
    lines = []
    everything = [kept_share(shipped), {} if fresh is None else kept_share(fresh)]
    loss = vtc.compare(shipped)
    for row in loss.sort_values(["ratio", "difference"], ascending=[True, False]).itertuples():
        known, also = (entry.get((row.label, row.ratio)) for entry in everything)
        words = "" if also is None else f"{also:.1%}"
        recall = shipped[(shipped.label == row.label) & (shipped.ratio == row.ratio)].recall.mean()
        interval = f"{100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        lacking = "" if row.n == row.of else f", {row.n} of {row.of} questions"
        lines.append(f"| {row.label} | {row.ratio:g}x | {interval}{lacking} | {known:.1%} | {words} | {recall:.1%} |")
    return lines


def kept_share(table: pd.DataFrame) -> dict[tuple[str, float], float]:
    """Accuracy relative to the full prompt's on the same questions."""
    table = table.assign(right=table.right.astype(float))
    full = table[table.ratio == 1].drop_duplicates("sample").set_index("sample").right
    some = table[(table.ratio > 1) & (table.status == "ok")]
    each = some.assign(full=some["sample"].map(full)).groupby(["label", "ratio"])[["right", "full"]].mean()
    return (each.right / each.full).to_dict()


def text(table: dict, bounds: pd.DataFrame, log: list[dict], weights: str, calibrated: list[str]) -> str:
    rows = []
    bounds = bounds.set_index("label")
    for kind, row in table.items():
        part = bounds.loc[kind] if kind in bounds.index else None
        between = "" if part is None else f"{part.low:.1%} to {part.high:.1%}"
        rows.append(
            f"| {kind} | {row['questions']} | {row['prior']:.1%} | {row['full']:.1%} | {between} "
            f"| {row['blind']:.1%} | {row['middle']:.1%} | {'yes' if kind in NEED_TIME else ''} |"
        )
    stages, before = [], 0.0
    for line, following in zip(log, [*log[1:], {"stage": None}], strict=True):
        if line["stage"] != following["stage"]:
            minutes = (line["seconds"] - before) / 60
            stages.append(f"| {line['stage']} | {line['step']} | {minutes:.0f} | {line['loss']:.3f} |")
            before = line["seconds"]
    return (
        (HERE / "report_template.md")
        .read_text()
        .format(
            weights=weights[:16],
            rows="\n".join(rows),
            stages="\n".join(stages),
            minutes=before / 60,
            calibrated="\n".join(calibrated),
            fresh=len(FRESH),
            peers=PEERS,
        )
    )


def curves(log: list[dict]) -> Figure:
    """Accuracy while training, on clips of which most were asked about before, with other tokens."""
    figure = Figure(figsize=(6.875, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("shape", "colour", "dot")), (right, [f"{kind}@384" for kind in ANSWERS])):
        for name in names:
            points = [(line["seconds"] / 60, line[name]) for line in log if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.removesuffix("@384"), linewidth=1)
        axes.set(xlabel="minutes", ylabel="accuracy", ylim=(0, 1.02))
        axes.legend(fontsize=6)
    left.set_title("tower: what a patch shows", fontsize=9)
    right.set_title("answers from 384 tokens", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
