"""Delivery receipts: what ``send`` returns at once, and what tells the record's fate later.

A receipt is a tuple of its batch and its place in it; nothing else is made per record. Whatever
waiting needs is made only when somebody waits.
"""

import asyncio
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

from millstream._errors import MillstreamError, TimedOutError
from millstream._producer.batch import Batch, RecordMetadata


class _Place(NamedTuple):
    batch: Batch
    place: int


class Receipt(_Place):
    """The delivery of one record sent by ``Producer``."""

    __slots__ = ()

    def done(self) -> bool:
        """True once the record is acknowledged or has failed."""
        return self.batch.done

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait up to ``timeout`` seconds (None: for ever) and return where the record went.

        Raises the error of the delivery, or TimedOutError when the wait ends first; then the
        delivery goes on. Ctrl-C ends the wait at once.
        """
        wait_for((self.batch,), timeout)
        return self.batch.result_of(self.place)

    def exception(self, timeout: float | None = None) -> MillstreamError | None:
        """Wait as ``result``; return the error of the delivery, or None if it succeeded."""
        wait_for((self.batch,), timeout)
        return self.batch.error_of(self.place)


class AsyncReceipt(_Place):
    """The delivery of one record sent by ``AsyncProducer``: await it to learn where it went."""

    __slots__ = ()

    def done(self) -> bool:
        """True once the record is acknowledged or has failed."""
        return self.batch.done

    def result(self) -> RecordMetadata:
        """Where the record went, if that is known already; await the receipt to wait for it.

        Raises the error of the delivery, or asyncio.InvalidStateError when it is not done.
        """
        if not self.batch.done:
            raise asyncio.InvalidStateError("the record is not delivered yet; await the receipt")
        return self.batch.result_of(self.place)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        """Wait until the record is delivered. Cancelling the wait does not cancel the delivery."""
        if not self.batch.done:
            yield from settled(self.batch).__await__()
        return self.batch.result_of(self.place)


class _ManyPlaces:
    """The deliveries of one ``send_many``: runs of (batch, index there, positions in the call)."""

    __slots__ = ("count", "runs")

    def __init__(self) -> None:
        self.runs: list[tuple[Batch, int, Sequence[int]]] = []
        self.count = 0

    def __len__(self) -> int:
        """Number of records."""
        return self.count

    def done(self) -> bool:
        """True once every record is acknowledged or has failed."""
        return all(batch.done for batch, _, _ in self.runs)

    def _results(self) -> list[RecordMetadata]:
        out: list[Any] = [None] * self.count
        for batch, index, positions in self.runs:
            for position in positions:
                out[position] = batch.result_of(index)
                index += 1
        return out

    def errors(self) -> Iterator[tuple[int, MillstreamError]]:
        """(position in the call, error) of every record that has failed so far."""
        for batch, index, positions in self.runs:
            if batch.done and (batch.error is not None or batch.parts):
                for position in positions:
                    error = batch.error_of(index)
                    if error is not None:
                        yield position, error
                    index += 1


class Receipts(_ManyPlaces):
    """The deliveries of one ``Producer.send_many``."""

    __slots__ = ()

    def result(self, timeout: float | None = None) -> list[RecordMetadata]:
        """Wait for all records; where each went, in the order of the call.

        Raises the error of the first record that failed (see ``errors`` for all of them), or
        TimedOutError when ``timeout`` seconds pass first.
        """
        wait_for([batch for batch, _, _ in self.runs], timeout)
        return self._results()


class AsyncReceipts(_ManyPlaces):
    """The deliveries of one ``AsyncProducer.send_many``: await it to learn where they went."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, list[RecordMetadata]]:
        """Wait for all records. Raises the error of the first record that failed."""
        for batch, _, _ in self.runs:
            if not batch.done:
                yield from settled(batch).__await__()
        return self._results()


def wait_for(batches: Sequence[Batch], timeout: float | None) -> None:
    """Wait until all batches are done. Raises TimedOutError after ``timeout`` seconds."""
    pending = [batch for batch in batches if not batch.done]
    if not pending:
        return
    left = threading.Semaphore(0)
    for batch in pending:
        batch.add_waiter(lambda _: left.release())
    deadline = None if timeout is None else time.monotonic() + timeout
    while not all(batch.done for batch in pending):
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not left.acquire(timeout=left_s):
            raise TimedOutError("the delivery is not settled yet")


def settled(batch: Batch) -> "asyncio.Future[None]":
    """A future of the running loop that ends when the batch is done."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(_: Batch) -> None:
        if not future.done():
            future.set_result(None)

    batch.add_waiter(settle)
    return future
