"""Reads points in time and durations as people write them. Pure: "now" is an argument."""

import re
from datetime import UTC, datetime

_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SHORT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_ISO = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?"
    r"(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)


def parse_duration_ms(text: str) -> int:
    """Milliseconds of ``90s``, ``1h30m``, ``2d`` or of an ISO 8601 duration such as ``PT1H30M``.

    Raises ValueError.
    """
    stripped = text.strip()
    iso = _ISO.fullmatch(stripped.upper())
    if iso is not None and any(iso.groupdict().values()):
        return round(sum(float(iso[unit] or 0) * _MS[unit] for unit in "wdhms"))
    lowered = stripped.lower()
    parts = _SHORT.findall(lowered)
    if not parts or "".join(number + unit for number, unit in parts) != lowered:
        raise ValueError(f"{text!r} is not a duration: write for example 90s, 1h30m or PT1H30M")
    return round(sum(float(number) * _MS[unit] for number, unit in parts))


def parse_moment_ms(text: str, now_ms: int) -> int:
    """Milliseconds since 1970 of a number of milliseconds, of an ISO 8601 time (UTC unless it has
    an offset), of ``now`` or of a time ago such as ``-1h30m``. Raises ValueError."""
    stripped = text.strip()
    if stripped == "now":
        return now_ms
    if stripped.isdigit():
        return int(stripped)
    if stripped.startswith("-"):
        return now_ms - parse_duration_ms(stripped[1:])
    try:
        moment = datetime.fromisoformat(stripped)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write for example 2026-01-31T12:00:00Z, "
            "milliseconds since 1970, or -1h for an hour ago"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def format_moment(timestamp_ms: int) -> str:
    """A point in time as ISO 8601 in UTC with milliseconds."""
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
