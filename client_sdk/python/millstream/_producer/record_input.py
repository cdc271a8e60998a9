"""What applications may pass as key, value and headers, turned into what a batch holds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from millstream._errors import InvalidRequestError
from millstream._producer.batch import RECORD_OVERHEAD_BYTES
from millstream.record.columns import RecordHeaders

# As brokers have it: beyond the year 5000 nothing is a time.
_TIMESTAMP_MS_MAX = 100_000_000_000_000


def check_timestamp(timestamp_ms: int) -> None:
    """Raise InvalidRequestError unless this can be a record's timestamp."""
    if not isinstance(timestamp_ms, int) or not 0 <= timestamp_ms <= _TIMESTAMP_MS_MAX:
        raise InvalidRequestError(
            f"timestamp_ms must be milliseconds since 1970 UTC, not {timestamp_ms!r}"
        )


def as_bytes(item: Any, name: str) -> bytes:
    """A key or value as bytes: text becomes UTF-8, buffers are copied.

    Raises InvalidRequestError for anything else.
    """
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise InvalidRequestError(
        f"the {name} must be bytes, text or None, not {type(item).__name__};"
        f" set {name}_serializer to send other objects"
    )


def as_headers(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> RecordHeaders:
    """Headers as pairs of a name and bytes or None. Raises InvalidRequestError."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    out = []
    try:
        for name, value in pairs:
            if not isinstance(name, str):
                raise InvalidRequestError(f"a header's name must be text, not {name!r}")
            out.append((name, None if value is None else as_bytes(value, "header")))
    except (TypeError, ValueError):
        raise InvalidRequestError(
            "headers must be a mapping, or pairs of a name and a value"
        ) from None
    return out


def headers_overhead(pairs: RecordHeaders) -> int:
    """What the columns of a record's headers take beside names and values, in bytes."""
    return 4 + 8 * len(pairs)


def headers_bytes(pairs: RecordHeaders) -> int:
    """What a record's headers take in a batch, in bytes."""
    return headers_overhead(pairs) + sum(
        len(name.encode()) + (len(value) if value else 0) for name, value in pairs
    )


def sized(value: Any, key: Any) -> tuple[bytes | None, bytes | None, int]:
    """Value and key as bytes or None, and what they take in a batch."""
    size = RECORD_OVERHEAD_BYTES
    if value is not None:
        if type(value) is not bytes:
            value = as_bytes(value, "value")
        size += len(value)
    if key is not None:
        if type(key) is not bytes:
            key = as_bytes(key, "key")
        size += len(key)
    return value, key, size


def check_many(
    values: Sequence[Any], keys: Sequence[Any] | None
) -> tuple[list[bytes | None], list[bytes | None] | None]:
    """The columns of a ``send_many`` as bytes. Raises InvalidRequestError if they do not fit."""
    if keys is not None and len(keys) != len(values):
        raise InvalidRequestError(f"{len(keys)} keys for {len(values)} values")
    return _column(values, "value"), None if keys is None else _column(keys, "key")


def _column(items: Sequence[Any], name: str) -> list[bytes | None]:
    kinds = set(map(type, items))
    if kinds <= {bytes, type(None)}:
        return items if isinstance(items, list) else list(items)
    return [
        item if item is None or item.__class__ is bytes else as_bytes(item, name) for item in items
    ]
