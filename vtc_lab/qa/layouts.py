"""What the readers of benchmarks share, finding files and samples of multiple choice; and anybody's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vtc_lab.qa.clips import clip_finder
from vtc_lab.qa.records import Record, read_object, records
from vtc_lab.tokens import VTCError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASK = "Answer with the option's letter from the given choices directly."
_TABLES = (".csv", ".tsv")

Samples = Iterator[dict[str, object]]


def plain(root: Path, clips: Path, split: str) -> Samples:
    """Anybody's own .jsonl or .csv."""
    file = root if root.is_file() else one_file(root, "qa.jsonl", "qa.csv")
    home = file.parent if clips == root else clips
    find = clip_finder(home)
    defaults = {"kind": "", "candidates": None, "rule": "exact"}
    return (
        defaults | {"id": str(number)} | sample | find([sample["clip"]], [""], [""])
        for number, sample in enumerate(read_plain(file, home), 1)
    )


def read_plain(file: Path, home: Path | None = None) -> Samples:
    """Samples of a .jsonl or .csv file with clip, question and answer, clips relative to it or to another folder.

    Yields
    ------
    Every field as it is, `clip` made absolute. With `options` (a list; in CSV written as JSON) the answer is a letter
    or one of them. There may also be `candidates`, written likewise, and `start` and `end`, which become numbers; an
    empty cell of a CSV gives nothing.

    Raises
    ------
    VTCError
        If an entry lacks one of the three, or a field is of another kind; it names the line.

    Examples
    --------
    >>> next(read_plain(Path("tests/fixtures/plain/qa.csv")))["answer"]
    'yes'
    """
    table = file.suffix.lower() in _TABLES
    for record in records(file):
        if table:
            record = Record(record.place, {name: value for name, value in record.fields.items() if value})
        missing = [name for name in ("clip", "question", "answer") if record.fields.get(name) is None]
        if missing or not isinstance(record.fields["clip"], str):
            reason = f"without {', '.join(missing)}" if missing else f"with clip {record.fields['clip']!r:.60}"
            raise VTCError(f"{record.place} is no sample, {reason}; it needs clip (a path), question and answer")
        sample = record.fields | {"clip": str((home or file.parent) / record.fields["clip"])}
        sample |= {name: record.number(name) for name in ("start", "end") if record.get(name) is not None}
        if record.get("candidates") is not None:
            sample["candidates"] = record.texts("candidates")
        if "options" in sample:
            texts = record.texts("options")
            sample |= choice(record, record.text("question"), texts, position(record, texts))
        yield sample


def choice(record: Record, question: str, options: list[str], right: float | None) -> dict[str, object]:
    """What a multiple-choice sample adds; `right` is the position of the answer, None where that is kept secret."""
    if not 2 <= len(options) <= len(LETTERS):
        raise VTCError(f"{record.place} has the options {options!r:.80}; give 2 to {len(LETTERS)}")
    if right is not None and right not in range(len(options)):
        raise VTCError(
            f"{record.place} has answer {right!r}; with {len(options)} options it is 0 to {len(options) - 1}"
        )
    letters = list(LETTERS[: len(options)])
    lines = [question, *(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)), _ASK]
    fields = {"question": "\n".join(lines), "answer": None if right is None else letters[int(right)]}
    return fields | {"candidates": letters, "rule": "letter", "stem": question, "options": options}


def position(record: Record, options: list[str], given: Sequence[str] = ("letter", "text")) -> int:
    """Which option the answer is, given as its letter or as its text."""
    answer, texts = record.text("answer").strip(), [option.strip() for option in options]
    found = {texts.index(answer)} if "text" in given and texts.count(answer) == 1 else set()
    if "letter" in given and len(answer) == 1 and answer in LETTERS[: len(options)]:
        found.add(LETTERS.index(answer))
    if len(found) != 1:
        raise VTCError(f"{record.place} has answer {answer!r:.60}, which is not one of the options {texts!r:.120}")
    return found.pop()


def without_letters(options: list[str]) -> list[str]:
    """Options without the "A. ", "B. " before them, if all have it.

    >>> without_letters(["A. red", "B. blue"]), without_letters(["A. Smith", "C. Jones"])
    (['red', 'blue'], ['A. Smith', 'C. Jones'])
    """
    marks = [re.match(rf"\(?{letter}[.):]\s*", text) for letter, text in zip(LETTERS, options, strict=False)]
    return [text[mark.end() :] for mark, text in zip(marks, options, strict=True)] if all(marks) else options


def table(path: Path) -> dict[str, object]:
    """A JSON object, empty if the file is not there."""
    return read_object(path) if path.is_file() else {}


def one_file(root: Path, *patterns: str) -> Path:
    """The first file that matches the first pattern that anything matches."""
    return files(root, *patterns)[0]


def files(root: Path, *patterns: str) -> list[Path]:
    """What matches the first pattern that anything matches, such as the shards of a table.

    Raises
    ------
    VTCError
        If there is nothing; it names every pattern.

    Examples
    --------
    >>> [path.name for path in files(Path("tests/fixtures/plain"), "no.csv", "*.csv")]
    ['qa.csv']
    """
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    raise VTCError(f"annotations are missing; looked for {', '.join(str(root / pattern) for pattern in patterns)}")


def shards(folder: str, split: str) -> tuple[str, ...]:
    """Where a dataset of the Hugging Face hub has the Parquet files of a split: uploaded, or converted by the hub.

    >>> shards("MC", "test")
    ('MC/test-*.parquet', 'MC/test/*.parquet')
    """
    return f"{folder}/{split}-*.parquet", f"{folder}/{split}/*.parquet"
