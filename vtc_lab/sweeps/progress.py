"""Progress of a sweep, and the bar that shows it in a notebook."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

T = TypeVar("T")
_PAUSE = 0.2  # seconds at least from one picture of the bar to the next


@dataclass(frozen=True)
class Progress:
    """Settings of clips done and in total, the seconds left (NaN at first), and the table so far."""

    done: int
    total: int
    seconds_left: float
    table: Callable[[], pd.DataFrame]

    def __str__(self) -> str:
        left = f", about {_duration(self.seconds_left)} left" if self.seconds_left > 0 else ""  # NaN is not
        return f"{self.done} of {self.total} settings of clips{left}"


def seconds_left(started: float, done: int, total: int) -> float:
    """Return the seconds that the rest takes at the pace since `time.perf_counter()` was `started`; NaN at first."""
    return (time.perf_counter() - started) / done * (total - done) if done else math.nan


def notebook_bar() -> Callable[[Progress], None] | None:
    """Return a function that shows progress below the cell that runs, None where no notebook's cell runs."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel") or threading.current_thread() is not threading.main_thread():
        return None
    from IPython.display import display

    name, last = f"vtc-progress-{time.monotonic_ns()}", -math.inf

    def show(progress: Progress) -> None:
        nonlocal last
        if progress.done < progress.total and time.monotonic() - last < _PAUSE:
            return
        bar = f'<progress value="{progress.done}" max="{progress.total}"></progress> {progress}'
        display({"text/plain": str(progress), "text/html": bar}, raw=True, display_id=name, update=last > 0)
        last = time.monotonic()

    return show


def with_bar(items: Sequence[T]) -> Iterator[T]:
    """Yield items, and show in a notebook how many are done."""
    show, started, total = notebook_bar() or (lambda _: None), time.perf_counter(), len(items)
    for done, item in enumerate(items):
        show(Progress(done, total, seconds_left(started, done, total), pd.DataFrame))
        yield item
    show(Progress(total, total, 0, pd.DataFrame))


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
