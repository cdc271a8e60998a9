"""Threads of a process, without threads: a job happens at one moment, and is told at a later one.

Between the two moments the process may die. Then the disk is taken back to any point that nobody
has heard of (``DiskHistory.roll_back``): the thread was in the middle of its job.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from millstream_server.runtime.ports import T
from tests.fakes.memory_files import MemoryFiles
from tests.simulation.world.process import Process


class Speed:
    """How long jobs take, seconds; changed by faults."""

    def __init__(self) -> None:
        self.start_s = (0.000_02, 0.000_2)
        self.work_s = (0.000_1, 0.002)
        # Slow disk: added to every job.
        self.extra_s = 0.0


class SimExecutor:
    """See ``runtime.ports.Executor``. One job at a time, in order."""

    def __init__(self, process: Process, disk: MemoryFiles, speed: Speed) -> None:
        self._process = process
        self._disk = disk
        self._speed = speed
        self._jobs: deque[tuple[Callable[[], Any], Callable[..., None]]] = deque()
        self._pending = 0
        self._busy = False

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """See ``Executor``."""
        self._pending += 1
        self._jobs.append((job, done))
        self._start()

    def post(self, callback: Callable[[], object]) -> None:
        """See ``Executor``: from within a job to the event loop."""
        delay = self._process.random.uniform(*self._speed.start_s)
        self._process.call_in(delay, self._told, self._disk.history.mark(), callback)

    def pending(self) -> int:
        """See ``Executor``."""
        return self._pending

    def close(self) -> None:
        """See ``Executor``."""
        while self._jobs:
            self._run_one()

    def _start(self) -> None:
        if not self._busy and self._jobs:
            self._busy = True
            self._process.call_in(self._process.random.uniform(*self._speed.start_s), self._run)

    def _run(self) -> None:
        if self._jobs:
            self._run_one()
        else:
            self._busy = False

    def _run_one(self) -> None:
        job, done = self._jobs.popleft()
        result, error = None, None
        with self._disk.history.in_background():
            try:
                result = job()
            except Exception as caught:  # noqa: BLE001 - handed to the submitter, who decides
                error = caught
        low, high = self._speed.work_s
        delay = self._process.random.uniform(low, high) + self._speed.extra_s
        self._process.call_in(delay, self._finished, self._disk.history.mark(), done, result, error)

    def _told(self, mark: int, callback: Callable[[], object]) -> None:
        self._disk.history.settle(mark)
        callback()

    def _finished(
        self, mark: int, done: Callable[..., None], result: Any, error: BaseException | None
    ) -> None:
        self._disk.history.settle(mark)
        self._pending -= 1
        self._busy = False
        self._start()
        done(result, error)
