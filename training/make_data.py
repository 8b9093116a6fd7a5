"""Writes the shipped test set, data/shapes_qa: mp4 clips of the first test seeds, qa.jsonl and its card.

python training/make_data.py
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import av
import numpy as np

from vtc_lab.toy.questions import ANSWERS, FRAMES_PER_SECOND, NEED_TIME, SPLITS, make_clip

FOLDER = Path(__file__).resolve().parent.parent / "data" / "shapes_qa"
CLIPS = 400
CARD = """# shapes_qa: questions about generated clips

{clips} clips of 112x112 pixels and 8 to 32 frames at 4 frames a second, {questions} questions of {kinds} kinds,
{size:.1f} MB. Made by `training/make_data.py` from seeds {first} to {last} of `vtc.make_clip`; clip
`clips/00042.mp4` is `vtc.make_clip(42)`, compressed (H.264, 4:4:4, crf 17). The world is generated: shapes
that appear, move, stop, cross, hide, change and leave, before a camera that stands still, pans or cuts.

`qa.jsonl` has one object a line: `clip` (a path relative to the file), `question`, `answer`, `kind`,
`candidates` (the answers this kind can have), `frames` (of the clip) and `evidence`: for each thing that the question
is about, the [frame, patch] pairs that show what it asks for, patches numbered by rows of 14. An answer is one word.
Training draws its clips from seed {train} on, validation from {validation}; both are made as they are needed.

Within a kind, every answer is right equally often: questions beyond the rarest answer of their kind were
dropped at random. So a guess that knows only the kind is right as often as the column "prior" says. Kinds
that need time cannot be told from the middle frame: its contents are drawn independently of their answers.

| kind | questions | needs time | prior | each answer |
|---|---|---|---|---|
{table}

Licence: the same as the code that made it.
"""


def main() -> None:
    (FOLDER / "clips").mkdir(parents=True, exist_ok=True)
    for stale in (FOLDER / "clips").glob("*.mp4"):
        stale.unlink()
    samples = []
    for seed in SPLITS["test"][:CLIPS]:
        clip, asked = make_clip(seed)
        name = f"clips/{seed:05d}.mp4"
        write_video(FOLDER / name, clip.frames)
        samples += [sample | {"clip": name} for sample in asked]
    samples = balance(samples)
    (FOLDER / "qa.jsonl").write_text("".join(json.dumps(sample, separators=(",", ":")) + "\n" for sample in samples))
    (FOLDER / "README.md").write_text(card(samples))


def write_video(path: Path, frames: np.ndarray) -> None:
    """H.264 without chroma subsampling: in small pictures, halved colour would blur what is asked for."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.options = {"crf": "17", "preset": "slow", "x264-params": "threads=1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def balance(samples: list[dict]) -> list[dict]:
    """Drop samples at random until every answer of a kind is right equally often."""
    groups = defaultdict(list)
    for i, sample in enumerate(samples):
        groups[sample["kind"], sample["answer"]].append(i)
    rarest = {kind: min(len(groups[kind, answer]) for answer in answers) for kind, answers in ANSWERS.items()}
    draw = random.Random(0)
    kept = {i for (kind, _), group in sorted(groups.items()) for i in draw.sample(group, rarest[kind])}
    return [sample for i, sample in enumerate(samples) if i in kept]


def card(samples: list[dict]) -> str:
    counts = Counter((sample["kind"], sample["answer"]) for sample in samples)
    rows = []
    for kind, answers in ANSWERS.items():
        total = sum(counts[kind, answer] for answer in answers)
        most = max(counts[kind, answer] for answer in answers)
        each = ", ".join(f"{answer} {counts[kind, answer]}" for answer in answers)
        rows.append(f"| {kind} | {total} | {'yes' if kind in NEED_TIME else 'no'} | {most / total:.1%} | {each} |")
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 1e6
    return CARD.format(
        clips=CLIPS,
        questions=len(samples),
        kinds=len(ANSWERS),
        size=size,
        first=SPLITS["test"].start,
        last=CLIPS - 1,
        train=SPLITS["train"].start,
        validation=SPLITS["validation"].start,
        table="\n".join(rows),
    )


if __name__ == "__main__":
    main()
