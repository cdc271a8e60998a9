"""Committed positions never go back, and cover only what the group was given."""

import pytest

from tests.checker.history import History
from tests.checker.judge import Expectations, judge

K = ("topic", 0)


def names(history: History) -> set[str]:
    return {one.name for one in judge(history, Expectations())}


def written() -> History:
    """Four records, of which a group of two was given all but the last."""
    history = History()
    for offset, value in enumerate("abcd"):
        send = history.invoke_send("w", K, value, 0.0)
        history.acknowledge(send, offset, "REPLICATED_DISK", 1.0)
    history.poll("final", {K: [*enumerate("abcd")]}, 2.0)
    for member in ("m1", "m2"):
        history.join(member, "g")
    history.poll("m1", {K: [(0, "a"), (1, "b")]}, 3.0)
    history.assign("m2", [K], subscribed=True)
    history.poll("m2", {K: [(2, "c")]}, 4.0)
    return history


def commit(history: History, offset: int, process: str = "m2") -> None:
    history.saw_commit(process, K, offset, history.next_line())


def test_positions_that_grow_with_what_any_member_was_given_are_well() -> None:
    history = written()
    for offset in (0, 1, 1, 3):
        commit(history, offset)
    assert names(history) == set()


def test_a_committed_position_goes_back() -> None:
    history = written()
    commit(history, 3)
    commit(history, 2, "m1")
    assert names(history) == {"commit-regression"}


def test_a_position_asked_for_earlier_may_be_lower() -> None:
    history = written()
    begun = history.next_line()
    commit(history, 3)
    history.saw_commit("m1", K, 2, begun)
    assert names(history) == set()


def test_each_group_has_positions_of_its_own() -> None:
    history = written()
    commit(history, 3)
    history.join("other", "h")
    commit(history, 0, "other")
    assert names(history) == set()


def test_a_commit_covers_a_record_that_no_member_was_given() -> None:
    history = written()
    commit(history, 4)
    assert names(history) == {"commit-skips"}


def test_a_commit_covers_a_record_that_a_member_was_given_only_later() -> None:
    history = written()
    commit(history, 4)
    history.poll("m2", {K: [(3, "d")]}, 5.0)
    assert names(history) == {"commit-skips"}


@pytest.mark.parametrize(("offset", "found"), [(7, {"commit-skips"}), (4, set())])
def test_a_commit_beyond_all_records(offset: int, found: set[str]) -> None:
    history = written()
    history.poll("m2", {K: [(3, "d")]}, 5.0)
    commit(history, offset)
    assert names(history) == found


def test_offsets_that_hold_nothing_are_not_skipped() -> None:
    history = History()
    history.join("m", "g")
    for offset, value in ((0, "a"), (5, "b")):
        send = history.invoke_send("w", K, value, 0.0)
        history.acknowledge(send, offset, "REPLICATED_DISK", 1.0)
        history.poll("m", {K: [(offset, value)]}, 2.0)
    commit(history, 6, "m")
    assert names(history) == set()


def test_a_reader_in_no_group_may_begin_anywhere() -> None:
    history = written()
    commit(history, 4, "alone")
    assert names(history) == set()
