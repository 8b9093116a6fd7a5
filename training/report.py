"""Measures the shipped model on the shipped test set and writes report.md, its curves and accuracy.json.

    python training/report.py --work runs/toy

Everything is read as a user reads it: clips through decord, the model and its processor through
`from_pretrained`, answers from `generate`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import vtc_lab.models.torchvision_ops  # noqa: F401  (before transformers)

import decord
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import multiprocessing
from transformers import AutoModelForImageTextToText, AutoProcessor

from vtc_lab.toy.questions import ANSWERS, NEED_TIME

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "data" / "models" / "shapes-onevision-2m"
DATA = HERE.parent / "data" / "shapes_qa"
WAYS = ("full", "blind", "middle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="the folder in which train.py left its log")
    work = parser.parse_args().work
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        right = dict(zip(WAYS, pool.map(measure, WAYS, chunksize=1), strict=True))
    table = {
        kind: {"questions": len(right["full"][kind]), "prior": 1 / len(answers)}
        | {way: float(np.mean(right[way][kind])) for way in WAYS}
        for kind, answers in ANSWERS.items()
    }
    total = {way: float(np.mean(np.concatenate(list(right[way].values())))) for way in WAYS}
    count = sum(row["questions"] for row in table.values())
    prior = sum(row["questions"] * row["prior"] for row in table.values()) / count
    table["all"] = {"questions": count, "prior": prior} | total
    log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    (HERE / "accuracy.json").write_text(json.dumps({"weights": weights, "accuracy": table}, indent=1) + "\n")
    (HERE / "report.md").write_text(text(table, log, weights))
    curves(log).savefig(HERE / "curves.png", dpi=150)


@torch.no_grad()
def measure(way: str) -> dict[str, list[bool]]:
    """Right or wrong for each question of each kind, with all frames, those of the next clip, or the middle one."""
    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(MODEL).eval()
    processor = AutoProcessor.from_pretrained(MODEL)
    by_clip: dict[str, list[dict]] = {}
    for line in (DATA / "qa.jsonl").read_text().splitlines():
        sample = json.loads(line)
        by_clip.setdefault(sample["clip"], []).append(sample)
    names = list(by_clip)
    right: dict[str, list[bool]] = {kind: [] for kind in ANSWERS}
    for i, (name, samples) in enumerate(by_clip.items()):
        reader = decord.VideoReader(
            str(DATA / (names[(i + 1) % len(names)] if way == "blind" else name)), num_threads=1
        )
        frames = reader.get_batch(range(len(reader))).asnumpy()
        if way == "middle":
            frames = frames[len(frames) // 2][None]
        for sample, answer in zip(samples, answers(model, processor, frames, samples), strict=True):
            right[sample["kind"]].append(answer == sample["answer"])
    return right


def answers(model, processor, frames: np.ndarray, samples: list[dict]) -> list[str]:  # noqa: ANN001
    """Generated answers; the clip is encoded once, and only questions of one length go together: nothing is padded."""
    prompts = [prompt(processor, sample["question"]) for sample in samples]
    given, vision = [""] * len(samples), None
    for length in {len(words.split()) for words in prompts}:
        batch = [i for i, words in enumerate(prompts) if len(words.split()) == length]
        inputs = processor(text=[prompts[i] for i in batch], videos=[frames] * len(batch), return_tensors="pt")
        pixels = inputs.pop("pixel_values_videos")
        if vision is None:
            vision = model.model.get_video_features(pixels[:1], return_dict=True)
        shared = type(vision)(pooler_output=vision.pooler_output.expand(len(batch), -1, -1))
        out = model.generate(**inputs, mm_encoder_outputs={"video": shared}, max_new_tokens=2, do_sample=False)
        told = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, answer in zip(batch, told, strict=True):
            given[i] = answer.strip()
    return given


def prompt(processor, question: str) -> str:  # noqa: ANN001
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return centre - half, centre + half


def text(table: dict, log: list[dict], weights: str) -> str:
    rows = []
    for kind, row in table.items():
        low, high = interval(row["full"], row["questions"])
        rows.append(
            f"| {kind} | {row['questions']} | {row['prior']:.1%} | {row['full']:.1%} | {low:.1%} to {high:.1%} "
            f"| {row['blind']:.1%} | {row['middle']:.1%} | {'yes' if kind in NEED_TIME else ''} |"
        )
    stages, before = [], 0.0
    for line, following in zip(log, [*log[1:], {"stage": None}], strict=True):
        if line["stage"] != following["stage"]:
            minutes = (line["seconds"] - before) / 60
            stages.append(f"| {line['stage']} | {line['step']} | {minutes:.0f} | {line['loss']:.3f} |")
            before = line["seconds"]
    return REPORT.format(weights=weights[:16], rows="\n".join(rows), stages="\n".join(stages), minutes=before / 60)


REPORT = """# The bundled model: how it was trained and what it reaches

The world is generated and the model is a toy; its numbers say nothing about real video. Weights sha256 {weights}.

## Accuracy on the shipped test set, nothing compressed

Measured by `training/report.py` on `data/shapes_qa` through decord and `from_pretrained`; an answer counts if
the generated word is the right one. *Blind* shows the frames of the next clip, *middle frame* only that one.

| kind | questions | prior | accuracy | 95 % interval | blind | middle frame | needs time |
|---|---|---|---|---|---|---|---|
{rows}

## Training

`training/train.py`, in {minutes:.0f} minutes on two CPU cores shared with other work. Loss is the mean over the
last 50 steps of a stage, with its auxiliary losses in it.

| stage | up to its step | minutes | loss |
|---|---|---|---|
{stages}

![Accuracy on fresh training clips](curves.png)

The table is what really happened to these weights; `train.py` is the schedule that came out of it and has not been
run again from its start. What was found on the way, and is in `train.py` from the first step on:

- The tower's tokens did not tell where they are (a linear read-out of row and column was about as far off as their
  mean), and directions stayed at chance. Row and column among the dense labels mended it: hence the second tower stage.
- Looking up an object by its colour stayed at chance for 1,400 steps on single frames. Guiding two heads of one
  layer to look from a name at its object (an auxiliary loss, as all of these) mended it within 300 steps.
- Order stayed at chance until the word that names an object was asked what the clip tells about that object
  (heading, rank, birth, fate; from step 450 of "8 to 16 frames" on); 300 steps later it was at 95 %.
- In all stages but the last, a third of the visual tokens enter the language model: those of cells with something
  in them, and others at random. So the model has met clips with tokens missing. This may make it kinder to
  pruning than a model that never has; accuracy under compression must be read with that in mind.

The first 400 steps of the tower had batches of 64 clips, later ones of 16; the steps that `train.py` gives the tower
show it as many frames as it saw here. Some steps were repeated where a stage was taken up from its checkpoint.
"""


def curves(log: list[dict]) -> Figure:
    """Accuracy on clips as they were first seen, so these are not training accuracies in the usual sense."""
    figure = Figure(figsize=(6.875, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("shape", "colour", "dot")), (right, [f"{kind}@8" for kind in ANSWERS])):
        for name in names:
            points = [(line["seconds"] / 60, line[name]) for line in log if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.removesuffix("@8"), linewidth=1)
        axes.set(xlabel="minutes", ylabel="accuracy", ylim=(0, 1.02))
        axes.legend(fontsize=6)
    left.set_title("tower: what a patch shows", fontsize=9)
    right.set_title("answers on clips of 8 frames", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
