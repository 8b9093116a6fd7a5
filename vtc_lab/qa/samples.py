"""The `Sample`, a question about a video, and reading samples from your own files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict

from vtc_lab.clips.reading import ROOT, resolve
from vtc_lab.qa.records import Record, records
from vtc_lab.tokens import Clip, VTCError

BUNDLED = ROOT / "data" / "shapes_qa" / "qa.jsonl"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASK = "Answer with the option's letter from the given choices directly."
_TABLES = (".csv", ".tsv")


class Part(TypedDict, total=False):
    """A video, or a part of one; see `read_sample_clip`."""

    clip: Required[str | Clip]  # an absolute path, or frames that were read before
    tried: list[str]  # every path that was looked for, where no clip is at any of them
    start: float | None  # seconds; None for the start of the video
    end: float | None  # seconds; None for its end
    picture_rate: float  # pictures a second, where the clip is a folder of numbered pictures


class Question(TypedDict, total=False):
    """A question about a video, and its right answer."""

    question: Required[str]  # what the model is asked; with options, they are in it
    answer: Required[str | None]  # with options a letter; None where the benchmark keeps it secret
    candidates: Sequence[str] | None  # the closed list of answers, letters with options; None for open answers
    rule: str  # how the answer is scored, see `score`; "exact" if there is none
    also: list[str]  # other right answers
    frames: int  # of the clip, and for each thing asked about the (frame, patch) pairs that show it: only where the
    evidence: list[list[tuple[int, int]]]  # clip is of the generated world
    stem: str  # with options, the question alone
    options: list[str]  # the texts of the options, in the order of their letters


class Sample(Part, Question, total=False):
    """One question about one video: a dict with at least `clip`, `question` and `answer`."""

    id: str  # the benchmark's own name of the question
    kind: str  # the type of question by which the benchmark reports
    group: str  # the length of the video, where the benchmark reports by it


Samples = Iterator[Sample]


def read_samples(path: str | Path | None = None) -> list[Sample]:
    """Read samples from a file with one JSON object per line, or from a CSV.

    Parameters
    ----------
    path : the .jsonl or .csv file, whose clips are given relative to it; None for the bundled test set.

    Returns
    -------
    List of `Sample`, with every field that the file has; `clip` is an absolute path.

    Examples
    --------
    >>> sorted(read_samples()[0])
    ['answer', 'candidates', 'clip', 'evidence', 'frames', 'kind', 'question']
    """
    return list(read_plain(resolve(BUNDLED if path is None else path)))


def read_plain(file: Path, home: Path | None = None) -> Iterator[Sample]:
    """Read samples of a .jsonl or .csv file, whose clips are relative to `home`, by default the file's own folder.

    Each entry has clip, question and answer. It may have `start`, `end`, `candidates`, and `options`, of which the
    answer is then the letter or the text. In a CSV, lists are written as JSON, and empty cells are left out.

    >>> next(read_plain(Path("tests/fixtures/plain/qa.csv")))["answer"]
    'yes'
    """
    table = file.suffix.lower() in _TABLES
    for record in records(file):
        if table:
            record = Record(record.place, {name: value for name, value in record.fields.items() if value})
        missing = [name for name in ("clip", "question", "answer") if record.get(name) is None]
        if missing or not isinstance(record.fields["clip"], str):
            reason = f"without {', '.join(missing)}" if missing else f"with clip {record.fields['clip']!r:.60}"
            raise VTCError(f"{record.place} is no sample, {reason}; it needs clip (a path), question and answer")
        sample: Any = record.fields | {"clip": str((home or file.parent) / record.fields["clip"])}
        sample |= {name: record.number(name) for name in ("start", "end") if record.get(name) is not None}
        if record.get("candidates") is not None:
            sample["candidates"] = record.texts("candidates")
        if "options" in sample:
            texts = record.texts("options")
            sample |= choice(record, texts, position(record, texts))
        yield sample


def choice(record: Record, options: list[str], right: float | None) -> Question:
    """Return a multiple-choice question; `right` is the position of the answer, None where that is kept secret."""
    if not 2 <= len(options) <= len(LETTERS):
        raise VTCError(f"{record.place} has the options {options!r:.80}; give 2 to {len(LETTERS)}")
    if right is not None and right not in range(len(options)):
        raise VTCError(
            f"{record.place} has answer {right!r}; with {len(options)} options it is 0 to {len(options) - 1}"
        )
    letters, stem = list(LETTERS[: len(options)]), record.text("question")
    lines = [stem, *(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)), _ASK]
    return {
        "question": "\n".join(lines),
        "answer": None if right is None else letters[int(right)],
        "candidates": letters,
        "rule": "letter",
        "stem": stem,
        "options": options,
    }


def open_question(record: Record, answer: Record | None = None, also: str | None = None) -> Question:
    """Return a question with an open answer, which may stand in another record, and its alternative if it has one."""
    right = (answer or record).text("answer")
    asked: Question = {"question": record.text("question"), "answer": right, "candidates": None, "rule": "exact"}
    return {**asked, "also": [also]} if also else asked


def position(record: Record, options: list[str], given: Sequence[str] = ("letter", "text")) -> int:
    """Return which option the answer is, given as its letter or as its text."""
    answer, texts = record.text("answer").strip(), [option.strip() for option in options]
    found = {texts.index(answer)} if "text" in given and texts.count(answer) == 1 else set()
    if "letter" in given and len(answer) == 1 and answer in LETTERS[: len(options)]:
        found.add(LETTERS.index(answer))
    if len(found) != 1:
        raise VTCError(f"{record.place} has answer {answer!r:.60}, which is not one of the options {texts!r:.120}")
    return found.pop()
