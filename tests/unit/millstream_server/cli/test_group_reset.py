"""The plan of a reset."""

import pytest

from millstream_server.cli.failures import UsageError
from millstream_server.cli.group_reset import (
    PartitionBounds,
    ResetTarget,
    parse_topic_choice,
    plan_resets,
)
from millstream_server.cli.reset_command import choose_target

NOW = 1_700_000_000_000
NONE_GIVEN = {
    "to_earliest": False,
    "to_latest": False,
    "to_current": False,
    "to_offset": None,
    "to_datetime": "",
    "by_duration": "",
    "shift_by": None,
}


def planned(target: ResetTarget, committed: int | None = 50, at_time: int | None = 55) -> object:
    bounds = PartitionBounds("t", 0, committed, beginning=10, end=90, at_time=at_time)
    plan = plan_resets(target, [bounds])
    return plan[0].offset if plan else None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ResetTarget("earliest"), 10),
        (ResetTarget("latest"), 90),
        (ResetTarget("current"), 50),
        (ResetTarget("offset", 33), 33),
        (ResetTarget("offset", 3), 10),
        (ResetTarget("offset", 300), 90),
        (ResetTarget("shift", 5), 55),
        (ResetTarget("shift", -5), 45),
        (ResetTarget("shift", -500), 10),
        (ResetTarget("shift", 500), 90),
        (ResetTarget("time", NOW), 55),
    ],
)
def test_targets_within_a_log_from_10_to_90(target: ResetTarget, expected: int):
    assert planned(target) == expected


def test_an_offset_outside_the_log_is_noted():
    bounds = PartitionBounds("t", 0, None, beginning=10, end=90)
    (low,) = plan_resets(ResetTarget("offset", 3), [bounds])
    (high,) = plan_resets(ResetTarget("offset", 300), [bounds])
    assert low.note == "3 is before the start of the log"
    assert high.note == "300 is beyond the end of the log"


def test_a_committed_offset_beyond_the_log_is_brought_back_by_to_current():
    assert planned(ResetTarget("current"), committed=5) == 10


def test_a_time_after_the_last_record_is_the_end():
    assert planned(ResetTarget("time", NOW), at_time=None) == 90


def test_shifts_leave_out_partitions_without_a_commit():
    assert planned(ResetTarget("shift", 5), committed=None) is None
    assert planned(ResetTarget("current"), committed=None) is None
    assert planned(ResetTarget("earliest"), committed=None) == 10


def test_topic_choices():
    assert parse_topic_choice("logs") == ("logs", None)
    assert parse_topic_choice("logs:0,2") == ("logs", [0, 2])
    for wrong in ("", ":1", "logs:", "logs:a"):
        with pytest.raises(ValueError, match="topic:0,1,2"):
            parse_topic_choice(wrong)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"to_earliest": True}, ResetTarget("earliest")),
        ({"to_latest": True}, ResetTarget("latest")),
        ({"to_current": True}, ResetTarget("current")),
        ({"to_offset": 0}, ResetTarget("offset", 0)),
        ({"shift_by": 0}, ResetTarget("shift", 0)),
        ({"shift_by": -7}, ResetTarget("shift", -7)),
        ({"to_datetime": "2023-11-14T22:13:20Z"}, ResetTarget("time", NOW)),
        ({"by_duration": "PT1H"}, ResetTarget("time", NOW - 3_600_000)),
    ],
)
def test_flags_choose_the_target(given: dict[str, object], expected: ResetTarget):
    assert choose_target({**NONE_GIVEN, **given}, NOW) == expected


def test_no_target_and_two_targets_are_refused():
    with pytest.raises(UsageError, match="exactly one of --to-earliest"):
        choose_target(NONE_GIVEN, NOW)
    with pytest.raises(UsageError, match="exactly one"):
        choose_target({**NONE_GIVEN, "to_earliest": True, "to_offset": 0}, NOW)


def test_a_wrong_time_names_its_flag():
    with pytest.raises(UsageError, match="--by-duration"):
        choose_target({**NONE_GIVEN, "by_duration": "soon"}, NOW)
