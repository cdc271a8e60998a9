"""Where reading starts."""

import pytest

from millstream_server.cli.positions import StartPosition, parse_partitions, parse_start

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start", StartPosition("start")),
        ("beginning", StartPosition("start")),
        ("END", StartPosition("end")),
        ("stored", StartPosition("stored")),
        ("0", StartPosition("offset", 0)),
        ("42", StartPosition("offset", 42)),
        ("+10", StartPosition("after_start", 10)),
        ("-10", StartPosition("before_end", 10)),
        ("@1700000000000", StartPosition("time", NOW)),
        ("@-1h", StartPosition("time", NOW - 3_600_000)),
    ],
)
def test_positions(text: str, expected: StartPosition):
    assert parse_start(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "middle", "--5", "+-5", "1.5", "@", "@yesterday"])
def test_what_is_no_position_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a"):
        parse_start(text, NOW)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (StartPosition("start"), 10),
        (StartPosition("end"), 90),
        (StartPosition("offset", 5), 5),
        (StartPosition("after_start", 7), 17),
        (StartPosition("after_start", 500), 90),
        (StartPosition("before_end", 7), 83),
        (StartPosition("before_end", 500), 10),
        (StartPosition("time", NOW), 55),
    ],
)
def test_resolution_within_a_log_from_10_to_90(position: StartPosition, expected: int):
    assert position.resolve(10, 90, at_time=55) == expected


def test_a_time_after_the_last_record_is_the_end():
    assert StartPosition("time", NOW).resolve(10, 90, at_time=None) == 90


def test_the_stored_position_is_for_groups():
    with pytest.raises(ValueError, match="group"):
        StartPosition("stored").resolve(0, 1, None)


def test_partitions():
    assert parse_partitions("0,2,5-7") == [0, 2, 5, 6, 7]
    for wrong in ("", "a", "1-", "-1", "1,,2"):
        with pytest.raises(ValueError, match="list of partitions"):
            parse_partitions(wrong)
