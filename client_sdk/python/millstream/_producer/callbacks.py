"""Run the delivery callbacks of a batch, without a step of Python code per record of our own."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

from millstream._producer.batch import Batch, RecordMetadata

_log = logging.getLogger("millstream")


def _timestamps(batch: Batch, begin: int, end: int) -> Iterable[int]:
    if batch.append_timestamp_ms is not None or len(batch.tick_ms) == 1:
        return repeat(batch.timestamp_ms(begin), end - begin)
    return chain.from_iterable(
        repeat(stamp, min(until, end) - max(start, begin))
        for start, until, stamp in zip(
            batch.tick_starts, [*batch.tick_starts[1:], batch.count], batch.tick_ms, strict=True
        )
        if min(until, end) > max(start, begin)
    )


def _metadata(batch: Batch, begin: int, end: int) -> Iterator[RecordMetadata]:
    base = batch.base_offset
    offsets: Iterable[Any] = repeat(None) if base is None else range(base + begin, base + end)
    rows = zip(
        repeat(batch.topic),
        repeat(batch.partition),
        offsets,
        _timestamps(batch, begin, end),
        repeat(batch.durability),
        strict=False,
    )
    return map(tuple.__new__, repeat(RecordMetadata), rows)


def run_callbacks(batch: Batch) -> int:
    """Call back for every record of a done batch that asked for it; returns how many.

    A callback that raises is logged and the others go on.
    """
    count = 0
    ends = [*batch.callback_starts[1:], batch.count]
    for begin, end, callback in zip(batch.callback_starts, ends, batch.callbacks, strict=True):
        if callback is None or begin >= end:
            continue
        count += end - begin
        if batch.parts:
            indexes = range(begin, end)
            calls = map(callback, map(batch.error_of, indexes), map(batch.metadata, indexes))
        else:
            calls = map(callback, repeat(batch.error), _metadata(batch, begin, end))
        _exhaust(calls)
    return count


def _exhaust(calls: Iterator[object]) -> None:
    while True:
        try:
            deque(calls, maxlen=0)
        except Exception:  # noqa: BLE001 - whatever the application raises
            _log.exception("a delivery callback failed")
        else:
            return
