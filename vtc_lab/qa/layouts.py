"""Helpers for finding the files of benchmarks, and the layout of your own samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vtc_lab.qa.clips import clip_finder
from vtc_lab.qa.samples import LETTERS, Sample, read_plain
from vtc_lab.tokens import VTCError

Samples = Iterator[Sample]


def plain(root: Path, clips: Path, split: str) -> Samples:
    """Find your own .jsonl or .csv."""
    file = root if root.is_file() else files(root, "qa.jsonl", "qa.csv")[0]
    home = file.parent if clips == root else clips
    find = clip_finder(home)
    return (
        {
            "id": str(number),
            "kind": "",
            "candidates": None,
            "rule": "exact",
            **sample,
            **find((str(sample["clip"]),), ("",), ("",)),
        }
        for number, sample in enumerate(read_plain(file, home), 1)
    )


def without_letters(options: list[str]) -> list[str]:
    """Return options without the "A. ", "B. " before them, if all have it.

    >>> without_letters(["A. red", "B. blue"]), without_letters(["A. Smith", "C. Jones"])
    (['red', 'blue'], ['A. Smith', 'C. Jones'])
    """
    marks = [re.match(rf"\(?{letter}[.):]\s*", text) for letter, text in zip(LETTERS, options, strict=False)]
    return [text[mark.end() :] for mark, text in zip(marks, options, strict=True) if mark] if all(marks) else options


def files(root: Path, *patterns: str) -> list[Path]:
    """Return what matches the first pattern that anything matches, such as the shards of a table.

    >>> [path.name for path in files(Path("tests/fixtures/plain"), "no.csv", "*.csv")]
    ['qa.csv']
    """
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    raise VTCError(f"annotations are missing; looked for {', '.join(str(root / pattern) for pattern in patterns)}")


def shards(folder: str, split: str) -> tuple[str, ...]:
    """Return where the hub has the Parquet files of a split: as they were uploaded, or converted by the hub.

    >>> shards("MC", "test")
    ('MC/test-*.parquet', 'MC/test/*.parquet')
    """
    return f"{folder}/{split}-*.parquet", f"{folder}/{split}/*.parquet"
