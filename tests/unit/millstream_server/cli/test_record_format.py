"""The format of records that were read."""

from typing import NamedTuple

import pytest

from millstream_server.cli.record_format import RecordFormat, record_object, unescape


class Read(NamedTuple):
    topic: str = "logs"
    partition: int = 2
    offset: int = 41
    timestamp_ms: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"v\xff"
    headers: tuple[tuple[str, bytes | None], ...] = (("a", b"1"), ("b", None))
    leader_epoch: int = 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%v\\n", b"v\xff\n"),
        ("%t %p %o %k", b"logs 2 41 k"),
        ("%K/%V/%S", b"1/2/2"),
        ("%h", b"a=1,b="),
        ("%T %d %e", b"1700000000000 2023-11-14T22:13:20.000Z 3"),
        ("100%% \\t\\x41\\\\", b"100% \tA\\"),
        ("ünï", "ünï".encode()),
        ("", b""),
    ],
)
def test_formats(text: str, expected: bytes):
    assert RecordFormat(text).render(Read()) == expected


def test_nulls_are_told_from_empty():
    form = RecordFormat("%k|%K|%v|%V", null=b"NULL")
    assert form.render(Read(key=None, value=b"")) == b"NULL|-1||0"
    assert RecordFormat("%k%v").render(Read(key=None, value=None)) == b""


@pytest.mark.parametrize("text", ["%", "%q", "\\q", "\\x4", "\\xzz", "\\"])
def test_what_means_nothing_is_refused(text: str):
    with pytest.raises(ValueError, match=r"unknown|not a byte"):
        RecordFormat(text)


def test_escapes_of_delimiters():
    assert unescape("\\t") == b"\t"
    assert unescape("::") == b"::"


def test_json_keeps_bytes_that_are_not_text():
    assert record_object(Read()) == {
        "topic": "logs",
        "partition": 2,
        "offset": 41,
        "timestampMs": 1_700_000_000_000,
        "key": "k",
        "valueBase64": "dv8=",
        "headers": [{"name": "a", "value": "1"}, {"name": "b", "value": None}],
        "leaderEpoch": 3,
    }
    assert record_object(Read(key=None, headers=()))["key"] is None
