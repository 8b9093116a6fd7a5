"""Work of a widget beside the kernel's own thread, and what to say when it fails."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable

from vtc_lab.tokens import VTCError


class Worker:
    """One thread that runs the latest request, and every queued job, one at a time.

    >>> worker, done = Worker(), []
    >>> worker.queue(lambda: done.append(1))
    >>> worker.idle.wait(10), done
    (True, [1])
    """

    def __init__(self) -> None:
        self.idle = threading.Event()
        self.idle.set()
        self._wake = threading.Condition()
        self._latest: Callable[[], None] | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    def request(self, job: Callable[[], None]) -> None:
        """Run a job soon; one that was requested before and has not begun is forgotten."""
        with self._wake:
            self._latest = job
            self._start()

    def queue(self, job: Callable[[], None]) -> None:
        """Run a job soon, whatever else is asked for."""
        with self._wake:
            self._jobs.append(job)
            self._start()

    def _start(self) -> None:
        self.idle.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="vtc-worker")
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._latest is None and not self._jobs:
                    self._thread = None  # a thread lives while there is work, so an unused widget holds none
                    self.idle.set()
                    return
                if self._latest is not None:
                    job, self._latest = self._latest, None
                else:
                    job = self._jobs.popleft()
            job()


def explain(error: Exception) -> tuple[str, str]:
    """The text and kind of message for an error; one that nobody foresaw comes with its traceback.

    >>> explain(VTCError("ratio is 0; it must be at least 1"))
    ('ratio is 0; it must be at least 1', 'error')
    """
    if isinstance(error, VTCError):
        return str(error), "error"
    return "This should not have happened; please report it:\n" + "".join(traceback.format_exception(error)), "error"
