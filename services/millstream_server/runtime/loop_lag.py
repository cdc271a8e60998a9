"""How late the event loop runs its timers: the first thing to look at when a Python service is
slow."""

import asyncio

from prometheus_client import CollectorRegistry, Gauge

_PERIOD_S = 1.0


class LoopLag:
    """Measures the event loop's lag once a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gauge = Gauge(
            "millstream_event_loop_lag_seconds",
            "How late the last timer of the event loop ran.",
            registry=registry,
        )
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure on the running loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _PERIOD_S

        def measure() -> None:
            nonlocal due
            now = loop.time()
            self._gauge.set(max(0.0, now - due))
            due = now + _PERIOD_S
            self._timer = loop.call_at(due, measure)

        self._timer = loop.call_at(due, measure)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
