"""The threads of a process, in virtual time: a job takes a while, then happens at one moment.

The writer of logs is different: when it tells the event loop what is written (``post``), its sync
is still to come. So some of its jobs run on a real thread that stops there and is let on when the
disk has taken its time; never more than one thread runs. Whoever dies in between never syncs.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from millstream_server.runtime.ports import T
from tests.simulation.world.process import Killed, Process

_WRITER = "log-writer"


class Speed:
    """How long the steps of jobs take, seconds; changed by faults."""

    def __init__(self) -> None:
        # Part of the writer's jobs that stop before their sync; those of the others take no time.
        # More would find little more where syncs are quick, and changing threads costs most.
        self.stopping = 0.35
        # Until a thread has time, and until the event loop hears of it; at times the loop is busy.
        self.start_s = (0.000_02, 0.000_2)
        self.busy = 0.05
        self.busy_s = (0.001, 0.02)
        # A sync.
        self.work_s = (0.000_1, 0.002)
        # Slow disk: added to every job.
        self.extra_s = 0.0


class SimExecutor:
    """See ``runtime.ports.Executor``. One job at a time, in order."""

    def __init__(self, process: Process, name: str, speed: Speed) -> None:
        self._process = process
        self._speed = speed
        self._jobs: deque[tuple[Callable[[], Any], Callable[..., None]]] = deque()
        self._pending = 0
        self._busy = False
        # What the event loop is yet to hear, in order.
        self._told: deque[Callable[[], None]] = deque()
        self._thread = _JobThread(process) if name == _WRITER else None

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """See ``Executor``."""
        self._pending += 1
        self._jobs.append((job, done))
        self._start()

    def post(self, callback: Callable[[], None]) -> None:
        """See ``Executor``: from within a job to the event loop."""
        self._tell(callback)
        if self._thread is not None and self._thread.running:
            self._thread.pause()

    def pending(self) -> int:
        """See ``Executor``."""
        return self._pending

    def close(self) -> None:
        """See ``Executor``."""
        if self._thread is not None:
            while self._thread.paused:
                self._thread.go_on()
            self._thread.end()
        jobs, self._jobs = self._jobs, deque()
        for job, done in jobs:
            self._tell(partial(done, *_outcome(job)))
        for _ in self._told:
            self._process.call_soon(self._hear)

    def _work_s(self) -> float:
        return self._process.random.uniform(*self._speed.work_s) + self._speed.extra_s

    def _start(self) -> None:
        if not self._busy and self._jobs:
            self._busy = True
            delay = self._process.random.uniform(*self._speed.start_s) + self._work_s()
            self._process.call_in(delay, self._run)

    def _run(self) -> None:
        if not self._jobs:  # closed meanwhile
            return
        job, done = self._jobs.popleft()
        if self._thread is None or self._process.random.random() >= self._speed.stopping:
            self._finished(done, *_outcome(job))
        else:
            self._thread.begin(job)
            self._look(done)

    def _look(self, done: Callable[..., None]) -> None:
        assert self._thread is not None
        if self._thread.paused:
            self._process.call_in(self._speed.start_s[1] + self._work_s(), self._go_on, done)
        else:
            self._finished(done, *self._thread.outcome)

    def _go_on(self, done: Callable[..., None]) -> None:
        assert self._thread is not None
        if self._thread.paused:  # not, if it was closed meanwhile
            self._thread.go_on()
        self._look(done)

    def _finished(
        self, done: Callable[..., None], result: Any, error: BaseException | None
    ) -> None:
        """The thread goes on before the event loop has heard."""

        def heard() -> None:
            self._pending -= 1
            done(result, error)

        self._tell(heard)
        self._busy = False
        self._start()

    def _tell(self, callback: Callable[[], None]) -> None:
        random, speed = self._process.random, self._speed
        busy = random.random() < speed.busy
        self._told.append(callback)
        self._process.call_in(
            random.uniform(*(speed.busy_s if busy else speed.start_s)), self._hear
        )

    def _hear(self) -> None:
        # Whoever is told later is not heard earlier.
        if self._told:
            self._told.popleft()()


def _outcome(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except Exception as error:  # noqa: BLE001 - handed to the submitter, who decides
        return None, error


class _JobThread:
    """A thread that runs only while ``begin`` or ``go_on`` waits for it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._mine, self._others = threading.Lock(), threading.Lock()
        self._mine.acquire()
        self._others.acquire()
        self._thread: threading.Thread | None = None
        self._job: Callable[[], Any] | None = None
        self._ending = False
        self.paused = False
        self.running = False
        self.outcome: tuple[Any, BaseException | None] = (None, None)
        self._killed: Killed | None = None
        process.on_burial(self.end)

    def begin(self, job: Callable[[], Any]) -> None:
        """Run a job until it is done or pauses."""
        self._job = job
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, daemon=True)
            self._thread.start()
        self._hand_over()

    def go_on(self) -> None:
        """Let a paused job run until it is done or pauses again."""
        self._hand_over()

    def _hand_over(self) -> None:
        self.running = True
        self._mine.release()
        self._others.acquire()
        self.running = False
        if self._killed is not None:
            killed, self._killed = self._killed, None
            raise killed

    def pause(self) -> None:
        """Called by the job: wait for ``go_on``. Raises Killed if it never comes."""
        self.paused = True
        self._others.release()
        self._mine.acquire()
        self.paused = False
        if self._ending:
            raise Killed

    def end(self) -> None:
        """End the thread; a paused job never goes on."""
        if self._thread is not None and not self._ending:
            self._ending = True
            self._mine.release()
            self._thread.join()

    def _main(self) -> None:
        while True:
            self._mine.acquire()
            if self._ending:
                return
            assert self._job is not None
            try:
                self.outcome = self._process.context.copy().run(_outcome, self._job)
            except Killed as killed:
                if self._ending:
                    return
                self._killed = killed
            self._job = None
            self._others.release()
