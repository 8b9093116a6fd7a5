"""Video-QA samples as dicts: clip, question, answer, kind, and candidates where the answers are a closed list."""

from __future__ import annotations

import json
from pathlib import Path

from vtc_lab.tokens import VTCError
from vtc_lab.video import ROOT, resolve

BUNDLED = ROOT / "data" / "shapes_qa" / "qa.jsonl"


def read_samples(path: str | Path | None = None) -> list[dict[str, object]]:
    """Read samples from a file with one JSON object a line.

    Parameters
    ----------
    path : the file, whose clips are given relative to it; None for the bundled test set.

    Returns
    -------
    List of dicts with at least `clip` (now an absolute path), `question` and `answer`.

    Raises
    ------
    VTCError
        If the file is missing, or a line is not such an object; it names the line.

    Examples
    --------
    >>> sorted(read_samples()[0])
    ['answer', 'candidates', 'clip', 'kind', 'question']
    """
    file = resolve(BUNDLED if path is None else path)
    samples = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise VTCError(f"{file.name} is no UTF-8 text; give a file with one JSON object a line") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            samples.append({**sample, "clip": str(file.parent / sample["clip"])})
            _ = sample["question"], sample["answer"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise VTCError(
                f"line {number} of {file.name} is no sample ({error}); "
                "it needs a JSON object with clip, question and answer"
            ) from error
    return samples
