"""Turns lines of input into records: the key before a delimiter, the value after it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class LineReader:
    """What the flags of ``produce`` say about lines."""

    # Key of every record; None: none.
    key: bytes | None = None
    # Splits the key from the value; None: the line is the value.
    key_delimiter: bytes | None = None
    # Empty keys and values become null.
    empty_is_null: bool = False

    def read(self, line: bytes) -> tuple[bytes | None, bytes | None]:
        """Key and value of a line, which may end with a line feed. Without the delimiter in it the
        whole line is the value."""
        text = line.removesuffix(b"\n")
        key, value = self.key, text
        if self.key_delimiter is not None:
            before, found, after = text.partition(self.key_delimiter)
            if found:
                key, value = before, after
        if self.empty_is_null:
            return key or None, value or None
        return key, value


def parse_headers(items: Sequence[str]) -> Headers:
    """Read ``name=value`` items; ``name`` alone is a header without a value. Raises ValueError."""
    out = []
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise ValueError(f"{item!r} is not a header: write name=value")
        out.append((name, value.encode("utf-8", "surrogateescape") if equals else None))
    return tuple(out)
