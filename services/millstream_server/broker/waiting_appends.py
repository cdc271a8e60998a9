"""Appends that wait to be acknowledged, in the order of their offsets. Pure."""

from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from millstream_server.broker.refusal import Refusal


class Waiter:
    """An append that waits to be acknowledged. ``reply`` belongs to the owner."""

    __slots__ = ("acks_all", "deadline_ms", "last_offset", "leader_epoch", "reply")

    def __init__(
        self,
        last_offset: int,
        leader_epoch: int,
        acks_all: bool,
        deadline_ms: int,
        reply: Callable[["Waiter", Refusal | None], None],
    ) -> None:
        self.last_offset = last_offset
        self.leader_epoch = leader_epoch
        self.acks_all = acks_all
        self.deadline_ms = deadline_ms
        self.reply = reply


class Outcome(NamedTuple):
    """The end of a wait: acknowledged, or failed for a reason."""

    waiter: Waiter
    failure: Refusal | None


def _last_offset(waiter: Waiter) -> int:
    return waiter.last_offset


class WaitingAppends:
    """The waiting appends of one partition. Every one leaves by exactly one outcome, or is
    forgotten."""

    __slots__ = ("_for_all", "_for_leader")

    def __init__(self) -> None:
        # Ordered by last offset: for the high watermark, and for the leader's own end.
        self._for_all: deque[Waiter] = deque()
        self._for_leader: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._for_all) + len(self._for_leader)

    def add(self, waiter: Waiter) -> None:
        """Wait for one more."""
        waiting = self._for_all if waiter.acks_all else self._for_leader
        if not waiting or waiting[-1].last_offset <= waiter.last_offset:
            waiting.append(waiter)
        else:  # a repeated append may wait for an offset before the newest
            insort(waiting, waiter, key=_last_offset)

    def acknowledge(self, high_watermark: int, own_end: int) -> list[Outcome]:
        """What is decided by these ends."""
        outcomes: list[Outcome] = []
        for waiting, end in ((self._for_all, high_watermark), (self._for_leader, own_end)):
            while waiting and waiting[0].last_offset < end:
                outcomes.append(Outcome(waiting.popleft(), None))
        return outcomes

    def fail(self, failure: Refusal, *, only_for_all: bool = False) -> list[Outcome]:
        """Fail everything, or everything that waits for all in-sync replicas."""
        outcomes: list[Outcome] = []
        for waiting in (self._for_all,) if only_for_all else (self._for_all, self._for_leader):
            outcomes += [Outcome(waiter, failure) for waiter in waiting]
            waiting.clear()
        return outcomes

    def cut(self, end_offset: int, failure: Refusal) -> list[Outcome]:
        """Fail what waits for offsets that were taken back."""
        outcomes: list[Outcome] = []
        for waiting in (self._for_all, self._for_leader):
            while waiting and waiting[-1].last_offset >= end_offset:
                outcomes.append(Outcome(waiting.pop(), failure))
        return outcomes[::-1]

    def forget(self, waiter: Waiter) -> bool:
        """Wait no more for one append; False if it was decided already."""
        for waiting in (self._for_all, self._for_leader):
            if waiter in waiting:
                waiting.remove(waiter)
                return True
        return False

    def expire(self, now_ms: int) -> list[Outcome]:
        """Fail what waited beyond its deadline."""
        outcomes: list[Outcome] = []
        for waiting in (self._for_all, self._for_leader):
            late = [waiter for waiter in waiting if waiter.deadline_ms <= now_ms]
            if not late:
                continue
            kept = [waiter for waiter in waiting if waiter.deadline_ms > now_ms]
            waiting.clear()
            waiting.extend(kept)
            failure = Refusal(
                "TIMED_OUT", "the append was not acknowledged in time", indeterminate=True
            )
            outcomes += [Outcome(waiter, failure) for waiter in late]
        return outcomes
