"""Annotation files as records. JSON is loaded whole; JSON lines, CSV and Parquet are read one record at a time."""

import ast
import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from vtc_lab.clips.reading import unfit
from vtc_lab.tokens import VTCError

_BUFFER = 1 << 16  # bytes of a Parquet file read at once


class Record(NamedTuple):
    """One entry of an annotation file; `place` is where it stands ("line 3 of val.csv"), for errors."""

    place: str
    fields: dict[str, Any]

    def need(self, *names: str) -> Any:
        """Return the value of a field, or of the first of several that is there, where releases name it differently."""
        value = self.get(*names)
        if value is None:
            there, wanted = ", ".join(map(str, self.fields)) or "nothing", " or ".join(map(repr, names))
            raise VTCError(f"{self.place} has no {wanted}, only {there:.200}; give a file in the benchmark's layout")
        return value

    def get(self, *names: str) -> Any:
        """Return the value of the first of these fields that is there, or None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def text(self, *names: str) -> str:
        """Return the value of a field as text."""
        return str(self.need(*names))

    def number(self, name: str) -> float:
        """Return the value of a field as a number, also where a CSV has it as text."""
        value = self.need(name)
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise VTCError(f"{self.place} has {name} {value!r:.40}; it must be a number") from error

    def texts(self, *names: str) -> list[str]:
        """Return the value of a field as a list of texts, also where an export to CSV has made it one text.

        >>> Record("here", {"options": "['A. red' 'B. blue']"}).texts("options")
        ['A. red', 'B. blue']
        """
        value = self.need(*names)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:  # written by Python, or by NumPy, which leaves the commas out
                quoted = re.findall(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", value)
                value = [ast.literal_eval(text) for text in quoted]
        if not isinstance(value, list) or not value:
            raise VTCError(
                f"{self.place} has {names[0]} {self.need(*names)!r:.60}; it must be a list, in CSV written as JSON"
            )
        return [str(entry) for entry in value]


def files(root: Path, *patterns: str) -> list[Path]:
    """Return what matches the first pattern that anything matches, such as the shards of a table."""
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    raise VTCError(f"annotations are missing; looked for {', '.join(str(root / pattern) for pattern in patterns)}")


def shards(folder: str, split: str) -> tuple[str, ...]:
    """Return where the hub has the Parquet files of a split: as they were uploaded, or converted by the hub."""
    return f"{folder}/{split}-*.parquet", f"{folder}/{split}/*.parquet"


def records(*paths: Path) -> Iterator[Record]:
    """Read annotation files record by record.

    They are .json (an array of objects), .jsonl (an object a line), .csv or .tsv (a header, then a row a line; between
    commas, or tabs if the header has one) or .parquet (a row a record; needs pyarrow).
    """
    kinds = {".json": _from_array, ".jsonl": _from_lines, ".parquet": _from_parquet}
    kinds |= {".csv": _from_csv, ".tsv": _from_csv}
    for path in paths:
        suffix = path.suffix.lower()
        if suffix not in kinds:
            raise VTCError(f"{path.name} is of no kind that can be read; give a file ending in {', '.join(kinds)}")
        with _readable(path):
            for place, fields in kinds[suffix](path):
                if not isinstance(fields, dict):
                    raise VTCError(f"{place} of {path.name} is {fields!r:.60}; it must be a JSON object")
                yield Record(f"{place} of {path.name}", fields)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that is one object, such as a table of answers by question; empty if there is no such file."""
    return _load(path, dict, "a JSON object") if path.exists() else {}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into one sentence."""
    try:
        if words := unfit(path):
            raise VTCError(words)
        yield
    except VTCError:
        raise
    except UnicodeDecodeError as error:
        raise VTCError(f"{path.name} is not valid UTF-8; save it as UTF-8") from error
    except (ValueError, OSError) as error:
        raise VTCError(f"{path.name} cannot be read ({error}); mend that, or fetch it again") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VTCError(f"{where} is not valid JSON ({error}); fix it, or fetch the file again") from error


def _load(path: Path, kind: type, called: str) -> Any:
    with _readable(path):
        content = _parsed(path.read_text(encoding="utf-8-sig"), path.name)
    if not isinstance(content, kind):
        raise VTCError(f"{path.name} is a {type(content).__name__}; it must be {called}")
    return content


def _from_array(path: Path) -> Iterator[tuple[str, object]]:
    entries = _load(path, list, "a JSON array of objects")
    return ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))


def _from_lines(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number}", _parsed(line, f"line {number} of {path.name}")


def _from_csv(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        tabs = "\t" in file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter="\t" if tabs else ",")
        try:
            for row in reader:
                if None in row:
                    raise VTCError(
                        f"line {reader.line_num} of {path.name} has more cells than the header; quote its commas"
                    )
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise VTCError(f"{path.name} cannot be read after line {reader.line_num} ({error}); mend that") from error


def _from_parquet(path: Path) -> Iterator[tuple[str, object]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise VTCError(f"{path.name} needs pyarrow; install it, or give the table as .jsonl or .csv") from error
    number = count(1)
    # A group of rows can be the whole table, so it is not read at once.
    with ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield f"row {next(number)}", row
