r"""The ``-f`` of kcat and rpk: how a record that was read is written.

    %t topic      %k key     %K length of the key, -1 for null       %h headers as name=value,…
    %p partition  %v value   %V length of the value, -1 for null     %T timestamp, ms since 1970
    %o offset     %s as %v   %S as %V                                %d timestamp, ISO 8601
    %e leader epoch          %% a percent sign                       \n \t \r \\ \xHH

Keys and values are written as the bytes they are. Pure.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Protocol

from millstream_server.cli.moments import format_moment

_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\", "e": b"\x1b"}
_HEX_DIGITS = 2


class ReadRecord(Protocol):
    """What a format needs of a record."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...
    @property
    def leader_epoch(self) -> int: ...


Piece = Callable[[ReadRecord], bytes]


class RecordFormat:
    """A compiled format."""

    def __init__(self, text: str, null: bytes = b"") -> None:
        """``null`` is written for null keys and values. Raises ValueError for an unknown verb."""
        self._pieces = _compile(text, null)

    def render(self, record: ReadRecord) -> bytes:
        """The record as the format says."""
        return b"".join([piece(record) for piece in self._pieces])


def _compile(text: str, null: bytes) -> list[Piece]:
    verbs = _verbs(null)
    pieces: list[Piece] = []
    literal = bytearray()

    def end_literal() -> None:
        if literal:
            pieces.append(_constant(bytes(literal)))
            literal.clear()

    at = 0
    while at < len(text):
        character = text[at]
        if character == "%":
            verb = text[at + 1 : at + 2]
            if verb == "%":
                literal.extend(b"%")
            elif verb in verbs and verb:
                end_literal()
                pieces.append(verbs[verb])
            else:
                known = " ".join(f"%{each}" for each in verbs)
                raise ValueError(f"%{verb} in the format is unknown: there are {known} %%")
            at += 2
        elif character == "\\":
            escaped, at = _escape(text, at + 1)
            literal.extend(escaped)
        else:
            literal.extend(character.encode("utf-8", "surrogateescape"))
            at += 1
    end_literal()
    return pieces


def unescape(text: str) -> bytes:
    r"""Bytes of a text in which \n, \t, \r, \0, \\ and \xHH are written out. Raises ValueError."""
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] == "\\":
            escaped, at = _escape(text, at + 1)
            out.extend(escaped)
        else:
            out.extend(text[at].encode("utf-8", "surrogateescape"))
            at += 1
    return bytes(out)


def _escape(text: str, at: int) -> tuple[bytes, int]:
    letter = text[at : at + 1]
    if letter == "x":
        digits = text[at + 1 : at + 1 + _HEX_DIGITS]
        try:
            return bytes.fromhex(digits.rjust(_HEX_DIGITS, "?")), at + 1 + _HEX_DIGITS
        except ValueError:
            raise ValueError(f"\\x{digits} is not a byte: write two hexadecimal digits") from None
    if letter not in _ESCAPES or not letter:
        raise ValueError(f"\\{letter} is unknown: there are \\n \\t \\r \\0 \\e \\\\ and \\xHH")
    return _ESCAPES[letter], at + 1


def _constant(value: bytes) -> Piece:
    return lambda record: value


def _verbs(null: bytes) -> dict[str, Piece]:
    def data(item: bytes | None) -> bytes:
        return null if item is None else item

    def length(item: bytes | None) -> bytes:
        return b"-1" if item is None else b"%d" % len(item)

    def headers(record: ReadRecord) -> bytes:
        return b",".join([name.encode() + b"=" + data(value) for name, value in record.headers])

    return {
        "t": lambda record: record.topic.encode(),
        "p": lambda record: b"%d" % record.partition,
        "o": lambda record: b"%d" % record.offset,
        "k": lambda record: data(record.key),
        "K": lambda record: length(record.key),
        "v": lambda record: data(record.value),
        "V": lambda record: length(record.value),
        "s": lambda record: data(record.value),
        "S": lambda record: length(record.value),
        "h": headers,
        "T": lambda record: b"%d" % record.timestamp_ms,
        "d": lambda record: format_moment(record.timestamp_ms).encode(),
        "e": lambda record: b"%d" % record.leader_epoch,
    }


def record_object(record: ReadRecord) -> dict[str, object]:
    """The record as a JSON object. Bytes that are UTF-8 become text; others stand, base64, under
    the same name with "Base64" added, so that nothing is lost."""
    out: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestampMs": record.timestamp_ms,
    }
    out.update(_json_bytes("key", record.key))
    out.update(_json_bytes("value", record.value))
    if record.headers:
        out["headers"] = [
            {"name": name, **_json_bytes("value", value)} for name, value in record.headers
        ]
    out["leaderEpoch"] = record.leader_epoch
    return out


def _json_bytes(name: str, data: bytes | None) -> dict[str, object]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(data).decode()}
