"""Real log lines as keyed records, repeated until there are enough. Pure."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

HEADER_ID, HEADER_SOURCE, HEADER_LINE = "id", "source", "line"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log file."""

    source: str
    # Counted from 1, in its file.
    number: int
    text: bytes
    # What the line is about; see ``key_of``.
    key: bytes


def split_log(source: str, content: bytes) -> list[LogLine]:
    """The lines of a log file, without their line feeds; empty lines are left out."""
    return [
        LogLine(source, number, line, key_of(source, line))
        for number, line in enumerate(content.split(b"\n"), 1)
        if line.strip()
    ]


def key_of(source: str, text: bytes) -> bytes:
    """What the line is about, so that the order of what belongs together is kept: the event of a
    structured line, the last word but one of any other (in dpkg.log that is the package)."""
    subject = b""
    if text.startswith(b"{"):
        try:
            subject = str(json.loads(text).get("event", "")).encode()
        except ValueError:
            pass
    if not subject:
        words = text.split()
        subject = words[-2] if len(words) > 1 else text
    return source.encode() + b":" + subject


def repeat(lines: Sequence[LogLine], total: int) -> Iterator[LogLine]:
    """The lines over and over, ``total`` of them. Raises ValueError if there is none."""
    if not lines:
        raise ValueError("there are no log lines to ship")
    return islice((line for _ in count() for line in lines), total)


def fingerprint(key: bytes | None, value: bytes | None, line_header: bytes) -> int:
    """CRC-32 over what makes a record the one that was sent."""
    return zlib.crc32(line_header, zlib.crc32(value or b"", zlib.crc32(key or b"")))
