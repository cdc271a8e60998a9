"""Cut a batch in two, when the broker finds it too large.

Both halves keep the sequences of their records, so the retry stays idempotent; the batch that was
cut is done when its halves are. Pure.
"""

from bisect import bisect_right

from millstream._producer.batch import Batch
from millstream.record import compress, decode_records, decompress, encode_records
from millstream.record.batch import SEQUENCE_MODULUS


def split_batch(batch: Batch) -> tuple[Batch, Batch]:
    """The two halves of an encoded batch of at least two records."""
    columns = decode_records(decompress(batch.attributes, batch.payload), batch.count)
    middle = batch.count // 2
    values = columns.values or [None] * batch.count
    halves = []
    for begin, end in ((0, middle), (middle, batch.count)):
        half = Batch(batch.topic, batch.partition, batch.created_ms)
        _cut_timestamps(batch, half, begin, end)
        keys = columns.keys[begin:end] if columns.keys else None
        headers = columns.headers[begin:end] if columns.headers else None
        deltas = [half.timestamp_ms(index) - half.tick_ms[0] for index in range(end - begin)]
        payload = encode_records(values[begin:end], keys, deltas if any(deltas) else None, headers)
        half.payload = compress(batch.attributes, payload)
        half.attributes = batch.attributes
        half.count = end - begin
        half.encoded = True
        half.base_sequence = (batch.base_sequence + begin) % SEQUENCE_MODULUS
        half.bytes = batch.bytes * (end - begin) // batch.count
        half.attempts = batch.attempts
        half.indeterminate = batch.indeterminate
        halves.append(half)
    left, right = halves
    right.bytes = batch.bytes - left.bytes
    batch.bytes = 0
    batch.drop()
    batch.parts = [(0, left), (middle, right)]
    for half in halves:
        half.add_waiter(lambda _: _complete_when_parts_are(batch))
    return left, right


def _cut_timestamps(batch: Batch, half: Batch, begin: int, end: int) -> None:
    first = bisect_right(batch.tick_starts, begin) - 1
    last = bisect_right(batch.tick_starts, end - 1)
    half.tick_starts = [max(0, start - begin) for start in batch.tick_starts[first:last]]
    half.tick_ms = batch.tick_ms[first:last]


def _complete_when_parts_are(batch: Batch) -> None:
    if all(part.done for _, part in batch.parts):
        failed = [part.error for _, part in batch.parts if part.error is not None]
        batch.complete(failed[0] if failed else None)
