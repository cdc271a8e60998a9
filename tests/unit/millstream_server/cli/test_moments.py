"""Times and durations as people write them."""

import pytest

from millstream_server.cli.moments import format_moment, parse_duration_ms, parse_moment_ms

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
        ("1.5s", 1500),
        ("2d", 172_800_000),
        ("PT1H30M", 5_400_000),
        ("P1DT1S", 86_401_000),
        ("pt0.5s", 500),
        ("P2W", 1_209_600_000),
    ],
)
def test_durations(text: str, expected: int):
    assert parse_duration_ms(text) == expected


@pytest.mark.parametrize("text", ["", "90", "1h30", "h", "P", "PT", "1 fortnight", "-5s"])
def test_what_is_not_a_duration_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match="90s"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000123", 1_700_000_000_123),
        ("now", NOW),
        ("-1h", NOW - 3_600_000),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20", NOW),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_moments(text: str, expected: int):
    assert parse_moment_ms(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2023-99-01", "-1"])
def test_what_is_not_a_time_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a"):
        parse_moment_ms(text, NOW)


def test_moments_are_written_in_utc():
    assert format_moment(NOW + 5) == "2023-11-14T22:13:20.005Z"
    assert format_moment(2**63 - 1) == str(2**63 - 1)
