"""Results of sweeps in an SQLite file: each is written once it is there, and found again by what it depends on."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import pandas as pd

from vtc_lab.sweeps.jobs import Result
from vtc_lab.tokens import VTCError

_FACTS = ("sample", "model", "clip", "kind", "question", "answer", "method", "options", "label", "seed", "ratio")
COLUMNS = (*_FACTS, *Result._fields[:-1], "id", "group", "asked")
_TYPES = dict.fromkeys(COLUMNS, "float64")
_TYPES |= dict.fromkeys((*_FACTS[:-2], "said", "status", "error", "likeliest", "id", "group", "asked"), "str")
_TYPES |= dict.fromkeys(("kept", "total", "frames"), "Int64") | dict.fromkeys(("right", "flipped"), "boolean")
_TYPES |= {"seed": "int64", "engaged": "bool"}
_QUOTED = [f'"{name}"' for name in (*COLUMNS, "again")]  # SQL has a word "group" of its own
_PATIENCE = 10  # seconds to wait for another process that is writing
TABLE = "results_3"  # another number whenever columns change: older tables in a file are left alone
_SCHEMA = f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    key TEXT PRIMARY KEY, place TEXT, computed INTEGER DEFAULT 1, {", ".join(_QUOTED)})"""
_STORED = {"key", "place", "computed", *COLUMNS, "again"}
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
    vtc_lab.tokens.VTCError: there is no file no.db; give what a sweep had as results
    """
    if not Path(path).expanduser().is_file():
        raise VTCError(f"there is no file {path}; give what a sweep had as results")
    # SQLite defines max(): the other columns are those of the row that has it.
    query = f"SELECT {', '.join(_QUOTED[:-1])}, max(rowid) FROM {TABLE} GROUP BY place"
    with closing(_connect(path, ("ro", "ro&immutable=1"))) as connection:
        table = to_frame(row[:-1] for row in _fetch(connection, path, query))
    order = ["model", "clip", "question", "sample", "method", "options", "seed", "ratio", "asked"]
    return table.sort_values(order, kind="stable", ignore_index=True)


class Store:
    """The file of a sweep; what it cannot take waits in memory and is tried again with what comes next."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.problem = path, ""
        self.waiting: dict[str, tuple] = {}  # by key, in memory alone
        self._connection = _connect(path, ("rwc", "ro&immutable=1"))

    def known(self, keys: Iterable[Iterable[str]]) -> dict[str, Result]:
        """Return the stored results of some keys, except failures that may be gone when they are tried again."""
        query = f"SELECT key, {', '.join(Result._fields)} FROM {TABLE} WHERE NOT again AND key IN "
        names = json.dumps(list(chain.from_iterable(keys)))
        rows = _fetch(self._connection, self.path, f"{query}(SELECT value FROM json_each(?))", [names])
        return {key: Result(*values) for key, *values in rows}

    def add(self, rows: Iterable[tuple[str, str, Sequence[object]]]) -> None:
        """Write (key, place, values of COLUMNS, again) in one transaction, with what waits; `problem` says why not."""
        self.waiting |= {row[0]: row for row in rows}
        marks = ", ".join("?" * (len(_QUOTED) + 2))
        changes = ", ".join(f"{name} = excluded.{name}" for name in _QUOTED)
        try:
            with self._connection as connection:
                # Fail fast after the first busy timeout.
                connection.execute(f"PRAGMA busy_timeout = {100 if self.problem else 1000 * _PATIENCE:.0f}")
                connection.execute("BEGIN IMMEDIATE")
                seen = [(key,) for key in self.waiting]
                connection.executemany(f"UPDATE {TABLE} SET computed = computed + 1 WHERE key = ?", seen)
                # Of two runs that did the same, the result of the first stays.
                connection.executemany(
                    f"INSERT INTO {TABLE} (key, place, {', '.join(_QUOTED)}) VALUES ({marks}) "
                    f"ON CONFLICT (key) DO UPDATE SET {changes} WHERE {TABLE}.again",
                    [(key, place, *values) for key, place, values in self.waiting.values()],
                )
        except sqlite3.Error as error:
            self.problem = f"{UNSAVED}{self.path} ({error}); make room there or allow writing, and run again"
        else:
            self.waiting, self.problem = {}, ""

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def _connect(path: str | os.PathLike, modes: Sequence[str]) -> sqlite3.Connection:
    """Return a connection to a file that holds results, in the first mode that it allows."""
    place, reason = Path(path).expanduser().absolute(), ""
    for mode in modes:
        if "immutable" in mode and Path(f"{place}-wal").exists():
            continue  # this mode would not see what has not been moved from there into the file
        try:
            connection = sqlite3.connect(f"{place.as_uri()}?mode={mode}", _PATIENCE, isolation_level=None, uri=True)
        except sqlite3.Error as error:
            reason = reason or str(error)
            continue
        try:
            if mode == "rwc":
                _prepare(connection)
            if {row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})")} == _STORED:
                return connection
            reason = "it holds no results, or those of another version"
        except sqlite3.Error as error:
            reason = reason or str(error)
        connection.close()
    raise VTCError(f"{path} cannot hold the results of a sweep ({reason}); give another file, or one that is not there")


def _fetch(connection: sqlite3.Connection, path: str | os.PathLike, query: str, values: Sequence[str] = ()) -> list:
    try:
        return connection.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise VTCError(f"{path} cannot be read ({error}); give another file, or make it anew") from error


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table, and let others read while one writes."""
    deadline = time.monotonic() + _PATIENCE
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:  # where another process does the same at this moment SQLite does not wait, whatever the timeout
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                break  # a file system that does not know it
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.execute("PRAGMA synchronous = NORMAL")  # survives a killed process; after a power cut the last may lack
    connection.execute(_SCHEMA)
