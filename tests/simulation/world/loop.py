"""An asyncio event loop in virtual time: no threads, no selectors, one seed gives one run.

Everything that happens belongs to a ``Process`` or, with none, to the simulator itself. What is
scheduled from within a process belongs to it; a process that died runs no more, and one that is
paused runs its backlog when it goes on. Time passes only when nothing is left to do now.
"""

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.world.process import Process

#: The process on whose behalf code runs; unset for the simulator itself.
CURRENT: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)


class Deadlock(Exception):
    """Something is waited for, and nothing will ever happen again."""


class Scheduled:
    """A call that is to be made; see ``asyncio.Handle``."""

    __slots__ = ("_cancelled", "args", "at", "callback", "context", "number", "process")

    def __init__(
        self,
        number: int,
        at: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        process: "Process | None",
    ) -> None:
        self.number = number
        # Virtual seconds of the simulator.
        self.at = at
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.process = process
        self._cancelled = False

    def cancel(self) -> None:
        """See ``asyncio.Handle``."""
        self._cancelled = True
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        """See ``asyncio.Handle``."""
        return self._cancelled

    def when(self) -> float:
        """See ``asyncio.TimerHandle``: by the clock of the process."""
        return self.at if self.process is None else self.process.local_s(self.at)


class SimLoop(asyncio.AbstractEventLoop):
    """``now`` is the simulator's time in seconds; ``time()`` is that of the current process."""

    def __init__(self) -> None:
        self.now = 0.0
        # Calls made so far, and a number that two equal runs have in common.
        self.events = 0
        self.trace = 0
        # What broke that nobody caught: message, exception, name of the process.
        self.failures: list[tuple[str, BaseException | None, str]] = []
        # Called after every event with the process that it belonged to.
        self.after_event: Callable[[Process | None], None] | None = None
        self._ready: deque[Scheduled] = deque()
        self._later: list[tuple[float, int, Scheduled]] = []
        self._number = 0
        self._stopping = False
        self._running = False
        self._closed = False

    # Running

    def run_until(self, at: float) -> None:
        """Let everything happen that is due up to a time, then be at that time."""
        with self._run():
            while self._ready or (self._later and self._later[0][0] <= at):
                self._step()
                if self._stopping:
                    return
        self.now = max(self.now, at)

    def run_until_complete(self, future: Any) -> Any:
        """See ``asyncio``. Raises Deadlock."""
        task = future
        if asyncio.iscoroutine(future):
            with self._run():
                task = self.create_task(future)
        with self._run():
            while not task.done():
                if not self._ready and not self._later:
                    raise Deadlock(f"at {self.now:.3f} s nothing is left that could happen")
                self._step()
        return task.result()

    def run_forever(self) -> None:
        """Until ``stop``. Raises Deadlock."""
        with self._run():
            while not self._stopping:
                if not self._ready and not self._later:
                    raise Deadlock(f"at {self.now:.3f} s nothing is left that could happen")
                self._step()

    @contextmanager
    def _run(self) -> Generator[None, None, None]:
        if self._running:
            raise RuntimeError("the loop runs already")
        self._running, self._stopping = True, False
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._end_generator)
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            self._running = False

    def _end_generator(self, generator: Any) -> None:
        self.call_soon(self.create_task, generator.aclose())

    def _step(self) -> None:
        ready = self._ready
        if not ready:
            at, _, scheduled = heappop(self._later)
            if scheduled._cancelled:
                return
            if at > self.now:
                self.now = at
            ready.append(scheduled)
        scheduled = ready.popleft()
        callback = scheduled.callback
        if callback is None:
            return
        process = scheduled.process
        if process is not None and not process.may_run(scheduled):
            return
        self.events += 1
        self.trace = hash((self.trace, self.now, scheduled.number))
        try:
            scheduled.context.run(callback, *scheduled.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001 - as asyncio does
            self.call_exception_handler({"message": f"{callback!r} raised", "exception": error})
        except BaseException:
            # ``Killed``: whoever raised it has ended the process.
            if process is None or process.alive:
                raise
        if self.after_event is not None:
            self.after_event(process)

    def note(self, *numbers: float) -> None:
        """Make something visible in the trace."""
        self.trace = hash((self.trace, *numbers))

    # Scheduling

    def _schedule(
        self,
        at: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> Scheduled:
        if context is None:
            context = contextvars.copy_context()
        self._number += 1
        return Scheduled(self._number, at, callback, args, context, context.get(CURRENT))

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Scheduled:
        """See ``asyncio``."""
        scheduled = self._schedule(self.now, callback, args, context)
        self._ready.append(scheduled)
        return scheduled

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Scheduled:
        """See ``asyncio``. The delay is by the clock of the current process."""
        process = CURRENT.get()
        if process is not None:
            delay /= process.rate
        return self.call_in(delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Scheduled:
        """See ``asyncio``. The time is that of the current process."""
        return self.call_later(when - self.time(), callback, *args, context=context)

    def call_in(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Scheduled:
        """Call after so many seconds of the simulator."""
        at = self.now + delay if delay > 0 else self.now
        scheduled = self._schedule(at, callback, args, context)
        heappush(self._later, (at, scheduled.number, scheduled))
        return scheduled

    def resume(self, backlog: list[Scheduled]) -> None:
        """Run what a paused process could not."""
        self._ready.extend(backlog)

    # The rest of what asyncio asks of a loop

    def time(self) -> float:
        """Seconds by the monotonic clock of the current process."""
        process = CURRENT.get()
        return self.now if process is None else process.local_s(self.now)

    def create_future(self) -> "asyncio.Future[Any]":
        """See ``asyncio``."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> "asyncio.Task[Any]":
        """See ``asyncio``."""
        # A name of its own: that of asyncio counts tasks of the whole process.
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        process = CURRENT.get()
        if process is not None:
            process.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """See ``asyncio``: a thread that takes a millisecond."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - handed to who waits
                future.set_exception(error)

        self.call_in(0.001, run)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember what went wrong; the checks find it."""
        process = CURRENT.get()
        self.failures.append(
            (
                str(context.get("message")),
                context.get("exception"),
                process.name if process is not None else "simulator",
            )
        )

    def stop(self) -> None:
        """See ``asyncio``."""
        self._stopping = True

    def is_running(self) -> bool:
        """See ``asyncio``."""
        return self._running

    def is_closed(self) -> bool:
        """See ``asyncio``."""
        return self._closed

    def close(self) -> None:
        """Forget all that was scheduled."""
        self._closed = True
        self._ready.clear()
        self._later.clear()

    def get_debug(self) -> bool:
        """See ``asyncio``."""
        return False
