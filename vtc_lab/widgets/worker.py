"""Work of a widget beside the kernel's own thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable


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
        self._lock = threading.Lock()
        self._latest: Callable[[], None] | None = None
        self._jobs: deque[Callable[[], None]] = deque()

    def request(self, job: Callable[[], None]) -> None:
        """Run a job soon, in the place of one that was requested before and has not begun."""
        with self._lock:
            self._latest = job
            self._start()

    def queue(self, job: Callable[[], None]) -> None:
        """Run a job soon, whatever else is asked for."""
        with self._lock:
            self._jobs.append(job)
            self._start()

    def _start(self) -> None:
        if self.idle.is_set():  # a thread lives while there is work, so an unused widget holds none
            self.idle.clear()
            threading.Thread(target=self._run, daemon=True, name="vtc-worker").start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._latest is not None:
                    job, self._latest = self._latest, None
                elif self._jobs:
                    job = self._jobs.popleft()
                else:
                    self.idle.set()
                    return
            job()
