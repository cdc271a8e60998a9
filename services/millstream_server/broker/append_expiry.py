"""Ends the waits of appends that will not be acknowledged here: too late, or leader no more."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from millstream_server.broker.refusal import Refusal
from millstream_server.cluster.metadata_plane import NodePlane
from millstream_server.runtime.ports import Clock

if TYPE_CHECKING:
    from millstream_server.broker.replica import Replica


class AppendExpiry:
    """Looks at the waiting appends of all partitions now and then.

    A leader that lost touch with both the controller and its followers has most likely been
    replaced. While its followers still answer it goes on, whatever became of the controller; but
    when its high watermark stands still, whoever waits is told, so that it can ask another broker.
    """

    def __init__(
        self,
        cluster: NodePlane,
        clock: Clock,
        *,
        interval_ms: int,
        stall_ms: int,
        call_later: Callable[..., asyncio.TimerHandle],
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._interval_s = interval_ms / 1000
        self._stall_ms = stall_ms
        self._call_later = call_later
        # With waiting appends: the high watermark seen last, and since when it stands there.
        self._expecting: dict[Replica, tuple[int, int]] = {}
        # Stood still while out of touch, at this high watermark.
        self._stalled: dict[Replica, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, replica: "Replica") -> None:
        """An append of the replica waits."""
        if replica not in self._expecting:
            mark = replica.state.high_watermark
            self._expecting[replica] = (mark, self._clock.monotonic_ms())
        if self._timer is None:
            self._arm()

    def check(self, replica: "Replica") -> None:
        """Refuse an append that would only wait."""
        if self._stalled.get(replica) is None:
            return
        if self._is_stalled(replica):
            raise Refusal("NOT_LEADER", _WHY)
        del self._stalled[replica]

    def _is_stalled(self, replica: "Replica") -> bool:
        still = replica.state.high_watermark == self._stalled[replica]
        return still and not self._cluster.in_session()

    def _arm(self) -> None:
        self._timer = self._call_later(self._interval_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now_ms = self._clock.monotonic_ms()
        in_session = self._cluster.in_session()
        for replica, (mark, since_ms) in tuple(self._expecting.items()):
            state = replica.state
            replica.deliver(state.expire(now_ms))
            if state.high_watermark != mark or in_session:
                self._expecting[replica] = (state.high_watermark, now_ms)
            elif now_ms - since_ms >= self._stall_ms:
                self._stalled[replica] = mark
                replica.deliver(state.fail_waiting(Refusal("NOT_LEADER", _WHY, indeterminate=True)))
            if not state.waiting:
                self._expecting.pop(replica, None)
        self._stalled = {
            replica: mark for replica, mark in self._stalled.items() if self._is_stalled(replica)
        }
        if self._expecting:
            self._arm()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_WHY = "this broker has lost touch with the controller and with its followers; it may be replaced"
