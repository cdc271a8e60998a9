"""The logs of a fake cluster: append, duplicate detection by sequence, decoded read-back."""

from dataclasses import dataclass, field

from millstream.record import BatchHeader, decode_records, decompress, parse_header, verify_crc

SEQUENCE_MODULUS = 1 << 31
_REMEMBERED_BATCHES = 5


@dataclass
class FakeRecord:
    """A record as it stands in a fake log."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass
class _Producer:
    epoch: int
    # (first sequence, last sequence, base offset) of the last batches.
    recent: list[tuple[int, int, int]] = field(default_factory=list)


class Refused(Exception):
    """A batch was not appended; the argument is the reason's name."""


class FakeLog:
    """One partition's log, in memory."""

    def __init__(self) -> None:
        self.records: list[FakeRecord] = []
        self.batches: list[BatchHeader] = []
        self.producers: dict[int, _Producer] = {}
        self.duplicates = 0
        # Batches with a larger encoding are refused as RECORD_TOO_LARGE.
        self.batch_bytes_max = 1 << 30

    def append(self, data: bytes) -> int | None:
        """Append a batch; its base offset, or that of its first append. Raises Refused."""
        header = parse_header(data)
        verify_crc(data, header)
        if len(data) > self.batch_bytes_max:
            raise Refused("RECORD_TOO_LARGE")
        if header.producer_id:
            known = self._check_sequence(header)
            if known is not None:
                self.duplicates += 1
                return known if known >= 0 else None
        base = len(self.records)
        self._store(data, header, base)
        if header.producer_id:
            state = self.producers[header.producer_id]
            state.recent.append((header.base_sequence, header.last_sequence, base))
            del state.recent[:-_REMEMBERED_BATCHES]
        return base

    def _check_sequence(self, header: BatchHeader) -> int | None:
        """None: append; otherwise the offset of the first append, -1 if it is forgotten."""
        state = self.producers.get(header.producer_id)
        first = header.base_sequence
        if state is None:
            if first != 0:
                raise Refused("UNKNOWN_PRODUCER")
            self.producers[header.producer_id] = _Producer(header.producer_epoch)
            return None
        if header.producer_epoch < state.epoch:
            raise Refused("INVALID_PRODUCER_EPOCH")
        if header.producer_epoch > state.epoch:
            if first != 0:
                raise Refused("OUT_OF_ORDER_SEQUENCE")
            self.producers[header.producer_id] = _Producer(header.producer_epoch)
            return None
        for begin, end, offset in state.recent:
            if (begin, end) == (first, header.last_sequence):
                return offset
        expected = (state.recent[-1][1] + 1) % SEQUENCE_MODULUS if state.recent else 0
        if first == expected:
            return None
        if state.recent and first < state.recent[0][0]:
            return -1
        raise Refused("OUT_OF_ORDER_SEQUENCE")

    def _store(self, data: bytes, header: BatchHeader, base: int) -> None:
        payload = decompress(header.codec, data[header.payload_start :])
        count = header.record_count
        columns = decode_records(payload, count)
        keys = columns.keys or [None] * count
        values = columns.values or [None] * count
        deltas = columns.timestamp_deltas_ms or [0] * count
        headers = columns.headers or [()] * count
        self.batches.append(header)
        for index in range(count):
            stamp = header.base_timestamp_ms + deltas[index]
            record = FakeRecord(base + index, stamp, keys[index], values[index], headers[index])
            self.records.append(record)
