"""Progress leaves by itself only where no records tell it."""

from collections.abc import Callable
from typing import Any

import pytest

from millstream_server.broker.unheard_progress import UnheardProgress


class Timers:
    """Runs no timer by itself."""

    def __init__(self) -> None:
        self.running: dict[Any, Callable[[], None]] = {}
        self.delays_s: list[float] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        """A handle that can be cancelled."""
        self.delays_s.append(delay_s)
        timers = self

        class Handle:
            def cancel(self) -> None:
                timers.running.pop(self, None)

        handle = Handle()
        self.running[handle] = callback
        return handle

    def elapse(self) -> None:
        """The time of every timer is over."""
        running, self.running = self.running, {}
        for callback in running.values():
            callback()


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def woken() -> list[bool]:
    return []


@pytest.fixture
def progress(timers: Timers, woken: list[bool]) -> UnheardProgress[str]:
    return UnheardProgress(timers.call_later, lambda: woken.append(True))


def test_one_timer_serves_all_that_are_stale(
    progress: UnheardProgress[str], timers: Timers, woken: list[bool]
) -> None:
    for name in ("a", "b", "a"):
        progress.note(name, 0.005)
    assert timers.delays_s == [0.005]
    assert not progress.due
    timers.elapse()
    assert (progress.due, woken) == (True, [True])
    assert progress.take() == ["a", "b"]
    assert not progress.due
    assert progress.take() == []


def test_nobody_is_woken_for_what_records_told(
    progress: UnheardProgress[str], timers: Timers, woken: list[bool]
) -> None:
    progress.note("a", 0.005)
    progress.note("b", 0.005)
    progress.heard("a")
    assert timers.running
    progress.heard("b")
    assert not timers.running
    progress.heard("c")
    timers.elapse()
    assert not woken
    # It begins anew.
    progress.note("a", 0.005)
    timers.elapse()
    assert woken


def test_what_becomes_stale_while_it_is_due_goes_along(
    progress: UnheardProgress[str], timers: Timers
) -> None:
    progress.note("a", 0.005)
    timers.elapse()
    progress.note("b", 0.005)
    assert not timers.running
    assert progress.take() == ["a", "b"]


def test_closed_it_wakes_nobody(
    progress: UnheardProgress[str], timers: Timers, woken: list[bool]
) -> None:
    progress.note("a", 0.005)
    progress.close()
    timers.elapse()
    assert not woken
