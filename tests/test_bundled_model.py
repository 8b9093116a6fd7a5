"""The bundled model: small, offline, a plain Hugging Face checkpoint, and as good as its report says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "data" / "models" / "shapes-onevision-3m"
REPORT = json.loads((ROOT / "training" / "accuracy.json").read_text())
CLIPS = 16
# In a process of its own, which has no network from the first import on and runs in another folder.
ASK = f"""
import json, socket
def closed(*_, **__):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = closed
import torch
import vtc_lab as vtc
import torchvision.transforms.v2.functional
samples = vtc.read_samples()
clips = list(dict.fromkeys(sample["clip"] for sample in samples if sample["frames"] <= 12))[:{CLIPS}]
model, right = vtc.load_model(), []
for clip in clips:
    asked = [sample for sample in samples if sample["clip"] == clip]
    answers = model.ask([sample["question"] for sample in asked], vtc.read_sample_clip(asked[0]), max_new_tokens=4)
    right += [answer.text == sample["answer"] for answer, sample in zip(answers, asked)]
pixels = torch.zeros(1, 8, 3, 112, 112)
tokens = model.network.model.get_video_features(pixels, return_dict=True).pooler_output.shape[1]
kind = type(model.network).__name__
print(json.dumps({{"right": sum(right), "asked": len(right), "class": kind, "tokens": tokens}}))
"""


pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    run = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path_factory.mktemp("elsewhere")}
    done = subprocess.run([sys.executable, "-c", ASK], env={**os.environ, "PYTHONPATH": str(ROOT)}, **run)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_weights_are_small_safetensors_and_the_measured_ones() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest() == REPORT["weights"]


def test_it_is_the_standard_architecture_with_196_tokens_a_frame(told: dict) -> None:
    assert told["class"] == "LlavaOnevisionForConditionalGeneration"
    assert told["tokens"] == 8 * 196 + 1  # the newline token is the last


def test_it_answers_as_well_as_its_report_says_in_a_new_process_without_a_network(told: dict) -> None:
    claimed = REPORT["accuracy"]["all"]["full"]
    assert told["asked"] > 80
    # Three standard errors of a sample of this size.
    margin = 3 * (claimed * (1 - claimed) / told["asked"]) ** 0.5
    assert told["right"] / told["asked"] >= claimed - margin
