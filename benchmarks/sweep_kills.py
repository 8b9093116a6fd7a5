"""A sweep into a file, killed with SIGKILL at random moments, against the same sweep left alone.

Every attempt is a process of its own, forked from this one. Ends with status 1 if the tables differ in anything but
times, if a result was computed twice, or if the file is damaged. `--together` also lets two processes fill one file.
"""

import argparse
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pandas as pd

import vtc_lab as vtc
from vtc_lab.sweeps.store import TABLE, read_results

METHODS = ("lftr", ("lftr", {"temporal": "select"}), "uniform", "random", "pool")
RATIOS = (1, 4, 16)


def attempt(model, samples: list[dict], path: Path) -> int:
    """Start the sweep in a process of its own and return its number."""
    child = os.fork()
    if not child:
        status = 1
        try:
            vtc.sweep(model, samples, METHODS, RATIOS, seeds=(0, 1), results=path)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def finished(model, samples: list[dict], path: Path) -> tuple[float, float]:
    """Let one attempt run to its end; the seconds until its first result, and those that it took."""
    start, first = time.perf_counter(), 0.0
    child = attempt(model, samples, path)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if not first and results_in(path):
            first = time.perf_counter() - start
        time.sleep(0.01)
    assert ended[1] == 0, "the sweep failed"
    return first, time.perf_counter() - start


def results_in(path: Path) -> int:
    """How many results are in a file that a sweep may just be making."""
    try:
        return look(path)[0] if path.exists() and path.stat().st_size else 0
    except sqlite3.OperationalError:  # the table is not there yet
        return 0


def without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[name for name in table if name.endswith("_s")])


def look(path: Path) -> tuple[int, int, str]:
    """Results in the file, how often any of them was computed at most, and what SQLite says of the file."""
    with sqlite3.connect(path) as connection:
        count, most = connection.execute(f"SELECT count(*), max(computed) FROM {TABLE}").fetchone()
        return count, most, connection.execute("PRAGMA integrity_check").fetchone()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true")
    arguments = parser.parse_args()
    samples = vtc.read_samples()
    names = list(dict.fromkeys(sample["clip"] for sample in samples))[: arguments.clips]
    samples = [sample for sample in samples if sample["clip"] in names]
    model, draw = vtc.load_model(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder, "alone.db"), Path(folder, "killed.db")
        first, took = finished(model, samples, alone)
        total, counts = look(alone)[0], [0]
        print(f"left alone: {took:.1f} s, the first of {total} results after {first:.1f} s")
        for number in range(arguments.kills):
            child = attempt(model, samples, killed)
            # Before its first result as well as after it; all kills together not through the sweep.
            time.sleep(draw.uniform(0.7 * first, first + (took - first) / arguments.kills))
            assert os.waitpid(child, os.WNOHANG) == (0, 0), f"attempt {number + 1} came to its end before it was killed"
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts.append(results_in(killed))
            print(f"killed {number + 1}: {counts[-1]} results")
        assert any(0 < count < total for count in counts), "no kill came in the middle; nothing was tried"
        finished(model, samples, killed)
        files = [killed]
        if arguments.together:
            files.append(Path(folder, "together.db"))
            both = [attempt(model, samples, files[-1]) for _ in range(2)]
            assert all(os.waitpid(child, 0)[1] == 0 for child in both), "one of two sweeps into one file failed"
        expected = without_times(read_results(alone))
        assert expected.equals(without_times(read_results(alone))) and set(expected.status) == {"ok"}
        for path in files:
            count, most, said = look(path)
            print(f"{path.stem}: {count} results, each computed {most} times at most, integrity: {said}")
            pd.testing.assert_frame_equal(without_times(read_results(path)), expected)
            again = vtc.sweep(model, samples, METHODS, RATIOS, seeds=(0, 1), results=path)
            assert len(again) == len(expected) and said == "ok" and (most == 1 or path is not killed)
    print("the same tables")


if __name__ == "__main__":
    sys.exit(main())
