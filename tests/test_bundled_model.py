"""The bundled model: small, offline, a plain Hugging Face checkpoint, and as good as its report says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "data" / "models" / "shapes-onevision-2m"
REPORT = json.loads((ROOT / "training" / "accuracy.json").read_text())
CLIPS = 40
# In a process of its own: the network is off from the first import on.
ASK = f"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, {str(ROOT / "training")!r})
import decord, torch
import report
model = report.AutoModelForImageTextToText.from_pretrained(report.MODEL).eval()
processor = report.AutoProcessor.from_pretrained(report.MODEL)
samples = [json.loads(line) for line in (report.DATA / "qa.jsonl").read_text().splitlines()]
clips = list(dict.fromkeys(sample["clip"] for sample in samples))[:{CLIPS}]
right = []
for clip in clips:
    asked = [sample for sample in samples if sample["clip"] == clip]
    reader = decord.VideoReader(str(report.DATA / clip), num_threads=1)
    frames = reader.get_batch(range(len(reader))).asnumpy()
    with torch.no_grad():
        given = report.answers(model, processor, frames, asked)
    right += [answer == sample["answer"] for answer, sample in zip(given, asked)]
pixels = torch.zeros(1, 8, 3, 64, 64)
tokens = model.model.get_video_features(pixels, return_dict=True).pooler_output.shape[1]
print(json.dumps({{"right": sum(right), "asked": len(right), "class": type(model).__name__, "tokens": tokens}}))
"""


@pytest.fixture(scope="module")
def told() -> dict:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_weights_are_small_safetensors_and_the_measured_ones() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest() == REPORT["weights"]


def test_it_is_the_standard_architecture_with_64_tokens_a_frame(told: dict) -> None:
    assert told["class"] == "LlavaOnevisionForConditionalGeneration"
    assert told["tokens"] == 8 * 64 + 1  # the newline token is the last


def test_it_answers_as_well_as_its_report_says(told: dict) -> None:
    claimed = REPORT["accuracy"]["all"]["full"]
    assert told["asked"] > 200
    # Three standard errors of a sample of this size.
    margin = 3 * (claimed * (1 - claimed) / told["asked"]) ** 0.5
    assert told["right"] / told["asked"] >= claimed - margin
