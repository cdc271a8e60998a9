"""Where reading starts: the ``-o`` of kcat and rpk. Pure."""

from dataclasses import dataclass
from typing import Literal

from millstream_server.cli.moments import parse_moment_ms

Kind = Literal["start", "end", "offset", "after_start", "before_end", "time", "stored"]

_NAMES: dict[str, Kind] = {
    "start": "start",
    "beginning": "start",
    "earliest": "start",
    "end": "end",
    "latest": "end",
    "stored": "stored",
}


@dataclass(frozen=True)
class StartPosition:
    """Where to start in every partition."""

    kind: Kind
    # Offset, count of records or milliseconds since 1970, as the kind says.
    number: int = 0

    def resolve(self, beginning: int, end: int, at_time: int | None) -> int:
        """The offset in a partition with these bounds. ``at_time`` is the first offset at or after
        the time asked for, None if no record is as new. Raises ValueError for "stored", which
        only the group knows."""
        if self.kind == "start":
            return beginning
        if self.kind == "end":
            return end
        if self.kind == "offset":
            return self.number
        if self.kind == "after_start":
            return min(beginning + self.number, end)
        if self.kind == "before_end":
            return max(end - self.number, beginning)
        if self.kind == "time":
            return end if at_time is None else at_time
        raise ValueError("the stored offset is known to the group only")


def parse_start(text: str, now_ms: int) -> StartPosition:
    """Read ``start``, ``end``, ``stored``, ``42``, ``+10``, ``-10`` or ``@time``. Raises
    ValueError."""
    stripped = text.strip()
    if stripped.lower() in _NAMES:
        return StartPosition(_NAMES[stripped.lower()])
    if stripped.startswith("@"):
        return StartPosition("time", parse_moment_ms(stripped[1:], now_ms))
    sign, digits = stripped[:1], stripped.lstrip("+-")
    if digits.isdigit() and len(stripped) - len(digits) <= 1:
        if sign == "+":
            return StartPosition("after_start", int(digits))
        if sign == "-":
            return StartPosition("before_end", int(digits))
        return StartPosition("offset", int(digits))
    raise ValueError(
        f"{text!r} is not a position: write start, end, an offset, "
        "+N after the start, -N before the end, or @time"
    )


def parse_partitions(text: str) -> list[int]:
    """Read ``0,2,5-7`` into ascending partition numbers. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ValueError(f"{text!r} is not a list of partitions: write for example 0,2,5-7")
        found.update(range(int(low), int(high if dash else low) + 1))
    return sorted(found)
