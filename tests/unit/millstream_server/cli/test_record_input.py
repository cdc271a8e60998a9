"""Lines of input as records, and the end of a log."""

from typing import NamedTuple

import pytest

from millstream_server.cli.consume_progress import EndOfLog
from millstream_server.cli.record_input import LineReader, parse_headers


@pytest.mark.parametrize(
    ("reader", "line", "expected"),
    [
        (LineReader(), b"hello\n", (None, b"hello")),
        (LineReader(), b"no feed", (None, b"no feed")),
        (LineReader(), b"\n", (None, b"")),
        (LineReader(), b"\xff\r\n", (None, b"\xff\r")),
        (LineReader(key=b"k"), b"v\n", (b"k", b"v")),
        (LineReader(key_delimiter=b":"), b"a:b:c\n", (b"a", b"b:c")),
        (LineReader(key_delimiter=b":"), b"abc\n", (None, b"abc")),
        (LineReader(key=b"k", key_delimiter=b":"), b"abc\n", (b"k", b"abc")),
        (LineReader(key_delimiter=b":"), b":v\n", (b"", b"v")),
        (LineReader(key_delimiter=b":", empty_is_null=True), b":\n", (None, None)),
    ],
)
def test_lines(reader: LineReader, line: bytes, expected: tuple[bytes | None, bytes | None]):
    assert reader.read(line) == expected


def test_headers():
    assert parse_headers(["a=1", "b=", "c", "d=x=y"]) == (
        ("a", b"1"),
        ("b", b""),
        ("c", None),
        ("d", b"x=y"),
    )
    with pytest.raises(ValueError, match="name=value"):
        parse_headers(["=1"])


class Read(NamedTuple):
    topic: str
    partition: int
    offset: int


def test_the_end_is_reached_when_every_partition_is():
    end = EndOfLog({("t", 0): 3, ("t", 1): 2}, {("t", 0): 0, ("t", 1): 0})
    end.passed([Read("t", 0, 2)])
    assert not end.is_reached()
    end.passed([Read("t", 1, 0), Read("t", 1, 1)])
    assert end.is_reached()


def test_an_empty_log_is_at_its_end():
    assert EndOfLog({("t", 0): 3, ("t", 1): 0}, {("t", 0): 3, ("t", 1): 0}).is_reached()


def test_a_partition_without_a_start_begins_at_its_end():
    assert EndOfLog({("t", 0): 3}, {}).is_reached()


def test_reading_for_ever_has_no_end():
    end = EndOfLog(None, {("t", 0): 0})
    end.passed([Read("t", 0, 0)])
    assert not end.is_reached()


def test_a_member_waits_for_its_own_partitions_only():
    end = EndOfLog({("t", 0): 1, ("t", 1): 1}, {("t", 0): 0, ("t", 1): 0})
    assert not end.is_reached([])
    end.passed([Read("t", 0, 0)])
    assert end.is_reached([("t", 0)])
    assert not end.is_reached([("t", 0), ("t", 1)])
