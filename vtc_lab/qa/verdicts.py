"""Verdicts of a judge, and the file that keeps them; several threads and processes may use it at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vtc_lab.tokens import VTCError

_PATIENCE = 60  # seconds to wait for another process that is writing
_COLUMNS = ("model", "question", "answer", "prediction", "correct", "score", "problem", "reply")
_SCHEMA = f"CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, {', '.join(_COLUMNS)})"


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one answer.

    Parameters
    ----------
    correct : yes or no; None where there is no verdict, which is not a no.
    score : 0 to 5, or None.
    problem : why there is no verdict, or why it could not be stored.
    reply : the judge's words.
    cached : whether it is from the cache.
    """

    correct: bool | None = None
    score: float | None = None
    problem: str = ""
    reply: str = field(default="", repr=False)
    cached: bool = False


@contextmanager
def opened(path: str | os.PathLike | None) -> Iterator[sqlite3.Connection]:
    """The file of verdicts, or a place in memory that is forgotten."""
    try:
        where = ":memory:" if path is None else Path(path).expanduser()
        connection = sqlite3.connect(where, timeout=_PATIENCE, isolation_level=None)
        with closing(connection):
            connection.execute(_SCHEMA)
            yield connection
    except sqlite3.Error as error:
        raise VTCError(f"{path} cannot hold verdicts ({error}); give another file, or one that is not there") from error


def stored(cache: sqlite3.Connection, place: str) -> Verdict | None:
    """The verdict at a place of an opened file, if there is one; an unreadable reply is none."""
    query = "SELECT correct, score, problem, reply FROM verdicts WHERE key = ? AND correct IS NOT NULL"
    row = cache.execute(query, [place]).fetchone()
    return Verdict(bool(row[0]), *row[1:], cached=True) if row else None


def store(cache: sqlite3.Connection, place: str, asked: tuple[str, ...], verdict: Verdict) -> Verdict:
    """The verdict, with a problem if the file does not take it: it has been paid for."""
    values = (place, *asked, verdict.correct, verdict.score, verdict.problem, verdict.reply)
    try:
        cache.execute(f"INSERT OR REPLACE INTO verdicts VALUES ({', '.join('?' * len(values))})", values)
    except sqlite3.Error as error:
        return replace(verdict, problem="; ".join(filter(None, [verdict.problem, f"not stored ({error})"])))
    return verdict
