"""One start of one program on a simulated machine: its clocks, its threads, its life and death.

States::

    running ── pause ──► paused ── resume ──► running
    either  ── kill  ──► dead
"""

import contextvars
import sys
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from tests.simulation.world.loop import CURRENT, Scheduled, SimLoop

T = TypeVar("T")


class Killed(BaseException):
    """The process dies here, in the middle of a call. No exception for its code to handle."""


# A wall clock of the simulation begins here: 2026-01-01.
_WALL_MS = 1_767_225_600_000


class Process:
    """``name`` tells starts of one node apart, ``host`` is where it runs."""

    def __init__(
        self,
        loop: SimLoop,
        name: str,
        host: str,
        random: Random,
        *,
        rate: float = 1.0,
        wall_offset_ms: int = 0,
    ) -> None:
        self.loop = loop
        self.name = name
        self.host = host
        self.random = random
        # Seconds that its monotonic clock counts in one second of the simulator.
        self.rate = rate
        # How far its wall clock is ahead of the simulator's; jumps.
        self.wall_offset_ms = wall_offset_ms
        self.alive = True
        self.paused = False
        self.tasks: list[Any] = []
        self._started_at = loop.now
        # Its monotonic clock began at some other moment than those of others.
        self._base_s = random.uniform(10, 100_000)
        # What is never run because the process died; kept, so that nothing is finalised early.
        self._backlog: list[Scheduled] = []
        self._on_death: list[Callable[[], None]] = []
        self._on_burial: list[Callable[[], None]] = []
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, self)

    # Clock (see ``runtime.ports.Clock``, and the SDK's)

    def local_s(self, now: float) -> float:
        """Its monotonic clock at a time of the simulator, seconds."""
        return self._base_s + (now - self._started_at) * self.rate

    def monotonic_ms(self) -> int:
        """See ``Clock``."""
        return int(self.local_s(self.loop.now) * 1000)

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return _WALL_MS + int(self.loop.now * 1000) + self.wall_offset_ms

    def wall_s(self) -> float:
        """See the SDK's ``Clock``."""
        return self.wall_ms() / 1000

    # Running

    def may_run(self, scheduled: Scheduled) -> bool:
        """Asked by the loop; keeps what may not run."""
        if self.alive and not self.paused:
            return True
        self._backlog.append(scheduled)
        return False

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call on behalf of the process, now."""
        if CURRENT.get() is self:
            return function(*args)
        return self.context.copy().run(function, *args)

    def call_soon(self, function: Callable[..., object], *args: Any) -> Scheduled:
        """Call on its event loop."""
        return self.loop.call_soon(function, *args, context=self.context.copy())

    def call_in(self, delay_s: float, function: Callable[..., object], *args: Any) -> Scheduled:
        """Call on its event loop after so many seconds of the simulator."""
        return self.loop.call_in(delay_s, function, *args, context=self.context.copy())

    def spawn(self, work: Coroutine[Any, Any, T]) -> Any:
        """Start a task of the process."""
        return self.run(self.loop.create_task, work)

    # Life

    def on_death(self, callback: Callable[[], None]) -> None:
        """Call when it dies, as the operating system would clean up after it."""
        self._on_death.append(callback)

    def on_burial(self, callback: Callable[[], None]) -> None:
        """Call after the simulation."""
        self._on_burial.append(callback)

    def pause(self) -> None:
        """Stop it as SIGSTOP does."""
        self.paused = True

    def resume(self) -> None:
        """Let it go on; its timers that came meanwhile are late."""
        self.paused = False
        backlog, self._backlog = self._backlog, []
        if self.alive:
            self.loop.resume(backlog)

    def kill(self) -> None:
        """End it without a word: no code of it runs any more."""
        if not self.alive:
            return
        self.alive = False
        for callback in self._on_death:
            # What follows happens to the world, even where the process brought it about.
            contextvars.Context().run(callback)

    def bury(self) -> None:
        """Take its tasks apart, after the simulation; what they do then is without effect."""
        self.alive = False
        hook = sys.unraisablehook
        sys.unraisablehook = lambda _: None
        try:
            for callback in self._on_burial:
                callback()
            for task in self.tasks:
                if not task.done():
                    task._log_destroy_pending = False
                    try:
                        task.get_coro().close()
                    except BaseException:  # noqa: BLE001 - nobody is left to care
                        continue
            self.tasks.clear()
            self._backlog.clear()
        finally:
            sys.unraisablehook = hook
