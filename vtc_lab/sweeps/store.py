"""Results of sweeps in an SQLite file: each is written once it is there, and found again by what it depends on."""

import json
import math
import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from vtc_lab.clips.reading import given_path
from vtc_lab.sweeps.jobs import Result
from vtc_lab.tokens import VTCError

_FACTS = ("sample", "model", "clip", "kind", "question", "answer", "method", "options", "label", "seed", "ratio")
COLUMNS = (*_FACTS, *Result._fields[:-1], "id", "group", "asked")
_TYPES = dict.fromkeys(COLUMNS, "float64")
_TYPES |= dict.fromkeys((*_FACTS[:-2], "said", "status", "error", "likeliest", "letter", "id", "group", "asked"), "str")
_TYPES |= dict.fromkeys(("kept", "total", "frames", "cache_bytes"), "Int64") | dict.fromkeys(
    ("right", "flipped"), "boolean"
)
_TYPES |= {"seed": "int64", "engaged": "bool"}
_QUOTED = [f'"{name}"' for name in (*COLUMNS, "again")]  # SQL has a word "group" of its own
_PATIENCE = 10  # seconds to wait for another process that is writing
TABLE = "results_6"  # another number whenever columns change: older tables in a file are left alone
_SCHEMA = f"""CREATE TABLE {TABLE} (
    key TEXT, place TEXT, computed INTEGER DEFAULT 1, {", ".join(_QUOTED)}, PRIMARY KEY (key, id))"""
_OLDER = re.compile(r"CREATE TABLE results\w* \(\s*key TEXT.*?, place TEXT,")
_READING = ("ro", "rw", "ro&immutable=1")  # what a killed process left half written only "rw" may put back
_GIVEN = "(SELECT value FROM json_each(?))"
_REFUSED = (sqlite3.Error, OSError, VTCError)
UNSAVED = "computed but not saved in "


def to_frame(rows: Iterable[Sequence[object]]) -> pd.DataFrame:
    """Return rows of COLUMNS as a DataFrame, which has all columns and their types even without a row."""
    values: list[Sequence] = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    columns = dict(zip(COLUMNS, values, strict=True))
    for name in ("right", "flipped"):  # SQLite has numbers for them
        columns[name] = [None if value is None or math.isnan(value) else bool(value) for value in columns[name]]
    return pd.DataFrame({name: pd.Series(column, dtype=_TYPES[name]) for name, column in columns.items()})


def read_results(path: str | os.PathLike) -> pd.DataFrame:
    """Return the results that sweeps have left in a file.

    Parameters
    ----------
    path : what was given to `sweep` as `results`; a sweep may be using it, and it may be read-only.

    Returns
    -------
    DataFrame with the columns of `sweep`, sorted by model, clip, question and setting. Where results differ only in
    what they were made with (other bytes of the same clip, other code, another version of a library, a changed model)
    the one that was written last. What does not decide an answer (kind, id, group) is as in the sweep that computed it.

    Examples
    --------
    >>> read_results("no.db")
    Traceback (most recent call last):
    ...
    vtc_lab.tokens.VTCError: no.db cannot be read (it is not there); give what a sweep had as results
    """
    # SQLite defines max(): the other columns are those of the row that has it.
    query = f"SELECT {', '.join(_QUOTED[:-1])}, max(rowid) FROM {TABLE} GROUP BY place"
    table = _framed(given_path(path), [row[:-1] for row in _fetch(given_path(path), query)])
    order = ["model", "clip", "question", "sample", "method", "options", "seed", "ratio", "asked"]
    return table.sort_values(order, kind="stable", ignore_index=True)


class Store:
    """The file of a sweep; what it cannot take waits in memory and is tried again with what comes next.

    Opened anew for each use, it is noticed if it was removed, cut or replaced; without WAL a network drive will do.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.problem = given_path(path), ""
        self.waiting: dict[tuple[str, str], tuple] = {}  # by key and id, in memory alone
        self.saved: set[tuple[str, str]] = set()  # by key and id, in the file
        try:
            _connect(self.path, (*_READING, "rwc")).close()
        except _REFUSED as error:
            words = f"{path} cannot hold the results of a sweep ({error}); give another file, or one that is not there"
            raise VTCError(words) from error

    def known(self, keys: Iterable[Iterable[str]]) -> dict[str, Result]:
        """Return the stored results of some keys, except failures that may be gone when they are tried again."""
        query = f"SELECT key, {', '.join(_QUOTED[:-1])} FROM {TABLE} WHERE NOT again AND key IN {_GIVEN}"
        rows = _fetch(self.path, query, list(chain.from_iterable(keys)))
        _framed(self.path, [values for _, *values in rows])
        self.saved = {(key, values[COLUMNS.index("id")]) for key, *values in rows}
        return {key: Result(*values[len(_FACTS) : -3]) for key, *values in rows}

    def add(self, rows: Iterable[tuple[str, str, Sequence[Any]]]) -> None:
        """Write (key, place, values of COLUMNS, again) in one transaction, with what waits; `problem` says why not."""
        self.waiting |= {(row[0], row[2][COLUMNS.index("id")]): row for row in rows}
        if not self.waiting:
            return
        marks = ", ".join("?" * (len(_QUOTED) + 2))
        changes = ", ".join(f"{name} = excluded.{name}" for name in _QUOTED)
        try:
            patience = 0.1 if self.problem else _PATIENCE  # fail fast after the first busy timeout
            with closing(_connect(self.path, ("rw",), patience)) as opened, opened as connection:
                connection.execute("BEGIN IMMEDIATE")
                again = f"UPDATE {TABLE} SET computed = computed + 1 WHERE key = ? AND id = ?"
                connection.executemany(again, list(self.waiting))
                # Of two runs that did the same, the result of the first stays.
                connection.executemany(
                    f"INSERT INTO {TABLE} (key, place, {', '.join(_QUOTED)}) VALUES ({marks}) "
                    f"ON CONFLICT (key, id) DO UPDATE SET {changes} WHERE {TABLE}.again",
                    [(key, place, *values) for key, place, values in self.waiting.values()],
                )
        except _REFUSED as error:
            self._say(error)
        else:
            self.saved |= self.waiting.keys()
            self.waiting, self.problem = {}, ""

    def unsaved(self, keys: Iterable[str]) -> set[str]:
        """Return which results are not in the file, for whatever was done to it meanwhile; `problem` says why."""
        lost, reason = set(keys), "it was removed, cut or replaced meanwhile"
        try:
            lost -= {key for (key,) in _fetch(self.path, f"SELECT key FROM {TABLE} WHERE key IN {_GIVEN}", list(lost))}
        except VTCError as error:
            reason = str(error.__cause__)
        if lost and not self.problem:
            self._say(reason)
        return lost | {key for key, _ in self.waiting}

    def _say(self, reason: object) -> None:
        self.problem = f"{UNSAVED}{self.path} ({reason}); make room there or allow writing, and run again"


def _connect(path: Path, modes: Sequence[str], patience: float = _PATIENCE) -> sqlite3.Connection:
    """Return a connection to a file that holds results, in the first mode that it allows; "rwc" makes it."""
    place, reason, new = path.absolute(), "it is not there", not path.exists()
    empty = new or not place.stat().st_size
    if not (new or place.is_file()):  # opening a pipe would wait for ever
        raise VTCError("it is a folder, a pipe or a device")
    for mode in modes if "rwc" in modes or not new else ():
        if "immutable" in mode and any(Path(f"{place}-{end}").exists() for end in ("wal", "journal")):
            continue  # this mode would not see what has not been moved from there into the file
        try:
            with ExitStack() as ending:
                connection = sqlite3.connect(f"{place.as_uri()}?mode={mode}", patience, isolation_level=None, uri=True)
                ending.callback(connection.close)
                tables = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")]
                fits = empty or any(map(_OLDER.match, tables))
                if mode == "rwc" and fits:
                    connection.execute(_SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS", 1))
                elif _SCHEMA not in tables:  # another program's file is not even opened for writing
                    kind = sqlite3.OperationalError if fits else VTCError
                    raise kind("it holds no results, or those of another version")
                ending.pop_all()
                return connection
        except sqlite3.Error as error:
            reason = str(error)
            if mode == "rwc" and new and "full" in reason and not place.stat().st_size:
                place.unlink()
    raise VTCError(reason)


def _framed(path: Path, rows: Sequence[Sequence[object]]) -> pd.DataFrame:
    try:
        return to_frame(rows)
    except (TypeError, ValueError, OverflowError) as error:
        raise VTCError(f"{path} holds values that no sweep has written ({error}); give another file") from error


def _fetch(path: Path, query: str, names: Sequence[str] = ()) -> list:
    """Return the rows of a query, in which `_GIVEN` are these names."""
    try:
        with closing(_connect(path, _READING)) as connection:
            return connection.execute(query, [json.dumps(names)] if _GIVEN in query else []).fetchall()
    except _REFUSED as error:
        raise VTCError(f"{path} cannot be read ({error}); give what a sweep had as results") from error
