"""Video-QA samples as dicts: clip, question, answer, kind, and candidates where the answers are a closed list."""

from __future__ import annotations

from pathlib import Path

from vtc_lab.clips.reading import ROOT, resolve
from vtc_lab.qa.layouts import read_plain

BUNDLED = ROOT / "data" / "shapes_qa" / "qa.jsonl"


def read_samples(path: str | Path | None = None) -> list[dict[str, object]]:
    """Read samples from a file with one JSON object a line, or from a CSV.

    Parameters
    ----------
    path : the .jsonl or .csv file, whose clips are given relative to it; None for the bundled test set.

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
    return list(read_plain(resolve(BUNDLED if path is None else path)))
