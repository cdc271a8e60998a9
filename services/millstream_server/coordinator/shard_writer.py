"""Writes one shard's batches in order, a few at a time, until the fate of each is known.

A batch keeps its bytes, sequence included, however often it is sent; so the log itself tells a
repeat from a new batch (invariant 21), and an indeterminate answer is settled by sending again
(invariant 28). A definite refusal ends the writer: nothing is sent after a batch that is missing.
It is over only when every batch under way has been answered, so that none can land later, behind
the back of whoever writes the same epoch next.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.log_ports import (
    LogUnavailable,
    ShardLog,
    WriteAnswer,
    WriteLink,
)

_log = structlog.get_logger()

# The leader may answer otherwise to the same batch later; nothing is decided.
_TRANSIENT = frozenset(
    {
        "NOT_LEADER",
        "LEADER_NOT_AVAILABLE",
        "FENCED_LEADER_EPOCH",
        "UNKNOWN_LEADER_EPOCH",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "UNKNOWN_TOPIC",
        "UNKNOWN_PARTITION",
        "INTERNAL",
        "INTERNAL_TOPIC",
        "THROTTLED",
        "TIMED_OUT",
        "NODE_SHUTTING_DOWN",
        "STORAGE_ERROR",
        "DISK_FULL",
        "LOG_DAMAGED",
        "UNAVAILABLE",
    }
)


# What a stored batch is answered with, the second one when it was stored too long ago.
_STORED = frozenset({"", "DUPLICATE_SEQUENCE"})


class WriteRefused(Exception):
    """The log refused a batch for good: the shard must be dropped. ``reason`` as in the table."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(slots=True)
class _Write:
    number: int
    batch: bytes
    stored: Callable[[], None]
    sent: bool = False
    answered: bool = False


@dataclass(slots=True)
class _Progress:
    """How far one link came."""

    # Writes at the head of the queue that were sent on this link.
    sent: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    # Ends the link when the leader does not answer.
    watchdog: asyncio.TimerHandle | None = None


class ShardWriter:
    """The writer of one shard under one epoch."""

    def __init__(self, log: ShardLog, config: CoordinatorConfig, shard: int) -> None:
        self._log = log
        self._config = config
        self._shard = shard
        self._writes: deque[_Write] = deque()
        self._number = 0
        self._refused: WriteRefused | None = None
        self._progress: _Progress | None = None
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Batches whose fate is not known yet."""
        return len(self._writes)

    @property
    def waiting_bytes(self) -> int:
        """Their bytes."""
        return sum(len(write.batch) for write in self._writes)

    def append(self, batch: bytes, stored: Callable[[], None]) -> None:
        """Queue a batch; ``stored`` is called when it and all before it are stored."""
        self._number += 1
        self._writes.append(_Write(self._number, batch, stored))
        self._idle.clear()
        self._work.set()
        if self._progress is not None:
            self._progress.wake.set()

    async def flushed(self) -> None:
        """Wait until the fate of everything queued so far is known."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled. Raises WriteRefused once the fate of everything is known."""
        delay_ms = self._config.log_retry_ms
        while True:
            await self._work.wait()
            before = self._number - len(self._writes)
            try:
                link = await self._log.connect()
                try:
                    await self._drive(link)
                finally:
                    link.abort()
            except LogUnavailable as error:
                if self._number - len(self._writes) > before:
                    delay_ms = self._config.log_retry_ms
                if self._writes:
                    _log.info("shard log away", shard=self._shard, reason=str(error))
                    await asyncio.sleep(delay_ms / 1000)
                    delay_ms = min(2 * delay_ms, self._config.log_retry_ms_max)

    async def _drive(self, link: WriteLink) -> None:
        """Use one link until it breaks. Raises LogUnavailable or WriteRefused."""
        progress = self._progress = _Progress()
        sending = asyncio.ensure_future(self._send_all(link, progress))
        receiving = asyncio.ensure_future(self._receive_all(link, progress))
        try:
            await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            for task in (receiving, sending):
                if task.done():
                    task.result()
        finally:
            self._progress = None
            self._watch(link, progress, answered=True, last=True)
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _send_all(self, link: WriteLink, progress: _Progress) -> None:
        limit = self._config.writes_in_flight_max
        while True:
            progress.wake.clear()
            while progress.sent < min(limit, len(self._writes)):
                write = self._writes[progress.sent]
                progress.sent += 1
                if not write.answered:
                    write.sent = True
                    self._watch(link, progress)
                    await link.send(write.number, write.batch)
            await progress.wake.wait()

    async def _receive_all(self, link: WriteLink, progress: _Progress) -> None:
        while True:
            for answer in await link.receive():
                self._take(answer, progress)
            self._watch(link, progress, answered=True)
            progress.wake.set()

    def _watch(
        self, link: WriteLink, progress: _Progress, *, answered: bool = False, last: bool = False
    ) -> None:
        """Give the leader some time for its next answer while batches are under way."""
        if answered and progress.watchdog is not None:
            progress.watchdog.cancel()
            progress.watchdog = None
        if progress.watchdog is None and self._writes and not last:
            timeout_s = self._config.write_timeout_ms / 1000
            progress.watchdog = asyncio.get_running_loop().call_later(timeout_s, link.abort)

    def _take(self, answer: WriteAnswer, progress: _Progress) -> None:
        """Take in an answer. Raises LogUnavailable to send again, WriteRefused at the very end."""
        index = answer.number - self._writes[0].number if self._writes else -1
        if not 0 <= index < len(self._writes):
            return  # answered on an earlier link already
        if answer.reason in _TRANSIENT:
            raise LogUnavailable(f"{answer.reason}: {answer.message}")
        if answer.reason not in _STORED and self._refused is None:
            if any(not write.answered for write in list(self._writes)[:index]):
                # Perhaps it only came too early, because one before it was turned away.
                raise LogUnavailable(f"{answer.reason}: behind a batch that is not stored yet")
            self._refused = WriteRefused(answer.reason, answer.message)
            while not self._writes[-1].sent:
                self._writes.pop()
        self._writes[index].answered = True
        while self._writes and self._writes[0].answered:
            write = self._writes.popleft()
            progress.sent -= 1
            if self._refused is None:
                write.stored()
        if not self._writes:
            self._work.clear()
            self._idle.set()
            if self._refused is not None:
                raise self._refused
