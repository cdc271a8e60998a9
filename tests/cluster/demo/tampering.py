"""Spoils exactly seven of the records read, so that the comparison can be seen to notice. Pure."""

from collections.abc import Callable, Mapping

from tests.cluster.demo.ledger import Deliveries, Delivery

SPOILED = 7


class TooFewRecordsError(ValueError):
    """There are not enough records to spoil seven."""


def tamper(mode: str, deliveries: Deliveries) -> Deliveries:
    """``drop``: seven records are gone. ``duplicate``: seven stand at a second offset. ``swap``:
    seven records of one partition have changed places. Raises ValueError for another mode,
    TooFewRecordsError."""
    if mode not in _SPOILERS:
        raise ValueError(f"DEMO_TAMPER={mode} is unknown: there are {', '.join(_SPOILERS)}")
    if len(deliveries) < SPOILED:
        raise TooFewRecordsError(f"only {len(deliveries)} records were read")
    return _SPOILERS[mode](deliveries)


def _spread(deliveries: Deliveries) -> list[int]:
    """Seven indexes of first deliveries, spread evenly, so that every partition can be hit."""
    seen: set[int] = set()
    first = []
    for index, delivery in enumerate(deliveries):
        if delivery.record_id not in seen:
            seen.add(delivery.record_id)
            first.append(index)
    if len(first) < SPOILED:
        raise TooFewRecordsError(f"only {len(first)} different records were read")
    step = len(first) // SPOILED
    return [first[number * step] for number in range(SPOILED)]


def _drop(deliveries: Deliveries) -> Deliveries:
    dropped = {deliveries[index].record_id for index in _spread(deliveries)}
    out = Deliveries()
    for delivery in deliveries:
        # All deliveries of the record, or a second one after a kill would hide the loss.
        if delivery.record_id not in dropped:
            out.add(delivery)
    return out


def _duplicate(deliveries: Deliveries) -> Deliveries:
    chosen = set(_spread(deliveries))
    out = Deliveries()
    next_offset: dict[int, int] = {}
    for delivery in deliveries:
        end = next_offset.get(delivery.partition, 0)
        next_offset[delivery.partition] = max(end, delivery.offset + 1)
    for index, delivery in enumerate(deliveries):
        out.add(delivery)
        if index in chosen:
            offset = next_offset[delivery.partition]
            next_offset[delivery.partition] = offset + 1
            out.add(delivery._replace(offset=offset))
    return out


def _swap(deliveries: Deliveries) -> Deliveries:
    by_partition: dict[int, list[int]] = {}
    seen: set[int] = set()
    for index, delivery in enumerate(deliveries):
        if delivery.record_id not in seen:
            seen.add(delivery.record_id)
            by_partition.setdefault(delivery.partition, []).append(index)
    longest = max(by_partition.values(), key=len)
    if len(longest) < SPOILED:
        raise TooFewRecordsError(f"no partition has {SPOILED} records")
    middle = len(longest) // 2 - SPOILED // 2
    chosen = longest[middle : middle + SPOILED]
    # Each takes the record of the one before it, the first that of the last.
    moved: dict[int, Delivery] = {
        index: deliveries[source] for index, source in zip(chosen, rotated(chosen), strict=True)
    }
    out = Deliveries()
    for index, delivery in enumerate(deliveries):
        content = moved.get(index)
        if content is None:
            out.add(delivery)
        else:
            out.add(delivery._replace(record_id=content.record_id, fingerprint=content.fingerprint))
    return out


def rotated(items: list[int]) -> list[int]:
    """The items moved on by one place."""
    return [items[-1], *items[:-1]]


_SPOILERS: Mapping[str, Callable[[Deliveries], Deliveries]] = {
    "drop": _drop,
    "duplicate": _duplicate,
    "swap": _swap,
}
