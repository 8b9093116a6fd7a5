"""Annotation files one record at a time: JSON arrays, JSON lines, CSV and Parquet, none of them loaded whole."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple, TextIO

from vtc_lab.clips.reading import lfs_pointer
from vtc_lab.tokens import VTCError

_CHUNK = 1 << 16  # characters read at once
_TAIL = 32  # a literal, escape or number that is cut off breaks off at most this far before the end of what was read


class Record(NamedTuple):
    """One entry of an annotation file; `place` is where it stands ("line 3 of val.csv"), for errors."""

    place: str
    fields: dict[str, object]

    def need(self, *names: str) -> object:
        """The value of a field, or of the first of several that is there, where releases name it differently.

        Raises
        ------
        VTCError
            If there is none; it names the place and what there is.

        Examples
        --------
        >>> Record("line 3 of val.csv", {"qid": 6}).need("qid")
        6
        """
        value = self.get(*names)
        if value is None:
            there = ", ".join(map(str, self.fields)) or "nothing"
            wanted = " or ".join(map(repr, names))
            raise VTCError(
                f"{self.place} has no {wanted}, only {there:.200}; give a file in the benchmark's own layout"
            )
        return value

    def get(self, *names: str) -> object:
        """The value of the first of these fields that is there, or None."""
        return next((self.fields[name] for name in names if self.fields.get(name) is not None), None)

    def text(self, *names: str) -> str:
        """The value of a field as text."""
        return str(self.need(*names))

    def number(self, name: str) -> float:
        """The value of a field as a number, also where a CSV has it as text."""
        value = self.need(name)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise VTCError(f"{self.place} has {name} {value!r:.40}; it must be a number") from error

    def texts(self, *names: str) -> list[str]:
        """The value of a field as a list of texts, also where an export to CSV has made it one text.

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


def records(path: Path) -> Iterator[Record]:
    """Read an annotation file record by record, whatever its size.

    Parameters
    ----------
    path : .json (an array of objects), .jsonl (an object a line), .csv or .tsv (a header, then a row a line; between
        commas, or tabs if the header has one) or .parquet (a row a record; needs pyarrow).

    Yields
    ------
    Record

    Raises
    ------
    VTCError
        If the file or one of its records cannot be read; it says which.

    Examples
    --------
    >>> from vtc_lab.qa.samples import BUNDLED
    >>> next(records(BUNDLED)).place
    'line 1 of qa.jsonl'
    """
    kinds = {".json": _from_array, ".jsonl": _from_lines, ".parquet": _from_parquet}
    kinds |= {".csv": _from_csv, ".tsv": _from_csv}
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise VTCError(f"{path.name} is of no kind that can be read; give a file ending in {', '.join(kinds)}")
    after = ""
    try:
        if pointer := lfs_pointer(path):
            raise VTCError(pointer)
        for place, fields in kinds[suffix](path):
            after = f" after {place}"
            if not isinstance(fields, dict):
                raise VTCError(f"{place} of {path.name} is {fields!r:.60}; it must be a JSON object")
            yield Record(f"{place} of {path.name}", fields)
    except VTCError:
        raise
    except UnicodeDecodeError as error:
        raise VTCError(f"{path.name} is no UTF-8 text; save it as UTF-8") from error
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        raise VTCError(f"{path.name} cannot be read{after} ({error}); mend that, or fetch it again") from error


def read_object(path: Path) -> dict[str, object]:
    """A small JSON file that is one object, such as a table of answers by question.

    Raises
    ------
    VTCError
        If it is something else.

    Examples
    --------
    >>> read_object(Path("data/models/shapes-onevision-2m/config.json"))["model_type"]
    'llava_onevision'
    """
    try:
        if pointer := lfs_pointer(path):
            raise VTCError(pointer)
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except VTCError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise VTCError(f"{path.name} cannot be read ({error}); it must be a JSON object") from error
    if not isinstance(content, dict):
        raise VTCError(f"{path.name} is a {type(content).__name__}; it must be a JSON object")
    return content


def stream_array(file: TextIO, chunk: int = _CHUNK) -> Iterator[object]:
    """The values of a JSON array, each decoded as soon as it has been read.

    Parameters
    ----------
    file : open text that is one JSON array.
    chunk : characters read at once; what is in memory is about this plus the longest value.

    Yields
    ------
    The values, as `json.loads` would give them.

    Raises
    ------
    ValueError
        If the text is no JSON array.

    Examples
    --------
    >>> import io
    >>> list(stream_array(io.StringIO('[{"a": 1}, 23]'), chunk=3))
    [{'a': 1}, 23]
    """
    scan = json.JSONDecoder().raw_decode
    text, at = "", 0

    def following() -> str:
        """The next character that is no space, "" at the end of the file."""
        nonlocal text, at
        while True:
            while at < len(text) and text[at] in " \t\r\n":
                at += 1
            if at < len(text):
                return text[at]
            text, at = file.read(chunk), 0
            if not text:
                return ""

    if following() != "[":
        raise ValueError("it is no JSON array")
    at += 1
    empty = following() == "]"
    at += empty
    while not empty:
        following()
        size = chunk
        while True:
            cut, value, end = None, None, len(text)
            try:
                value, end = scan(text, at)
            except json.JSONDecodeError as error:
                cut = error
                if not error.msg.startswith("Unterminated") and error.pos < len(text) - _TAIL:
                    raise
            if end < len(text) and (text[end] in ",] \t\r\n" or end < len(text) - _TAIL):
                break  # anywhere else a number could go on
            more = file.read(size)
            if not more:
                if cut:
                    raise cut
                break
            text, at, size = text[at:] + more, 0, size * 2  # doubling, so that a long value is not scanned too often
        yield value
        at = end
        separator = following()
        at += 1
        if separator == "]":
            break
        if separator != ",":
            raise ValueError(f"{separator!r} stands where , or ] should" if separator else "it ends within the array")
    if following():
        raise ValueError("there is more after the array")


def _from_array(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, value in enumerate(stream_array(file), 1):
            yield f"entry {number}", value


def _from_lines(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise VTCError(
                        f"line {number} of {path.name} is no JSON ({error}); give an object a line"
                    ) from error
                yield f"line {number}", value


def _from_csv(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        tabs = "\t" in file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter="\t" if tabs else ",")
        for row in reader:
            if None in row:
                raise VTCError(
                    f"line {reader.line_num} of {path.name} has more cells than the header; quote its commas"
                )
            yield f"line {reader.line_num}", row


def _from_parquet(path: Path) -> Iterator[tuple[str, object]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise VTCError(f"{path.name} needs pyarrow; install it, or give the table as .jsonl or .csv") from error
    number = count(1)
    # A group of rows can be the whole table, so it is not read at once.
    with ParquetFile(path, buffer_size=_CHUNK, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield f"row {next(number)}", row
