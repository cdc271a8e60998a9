"""For how long readers had not read what was there: a report, and an anomaly at the end."""

import pytest

from tests.checker.history import History, Send
from tests.checker.judge import Expectations, judge
from tests.checker.lag import realtime_lags

K = ("topic", 0)


def sent(history: History, value: str, offset: int, at: float) -> Send:
    send = history.invoke_send("w", K, value, at)
    history.acknowledge(send, offset, "REPLICATED_DISK", at)
    return send


def written() -> History:
    """A record a second; the reader was given the first."""
    history = History()
    history.assign("r", [K], positions={K: 0})
    sent(history, "a", 0, 1.0)
    history.poll("r", {K: [(0, "a")]}, 1.5)
    sent(history, "b", 1, 2.0)
    sent(history, "c", 2, 3.0)
    return history


def lags(history: History) -> list[tuple[float, bool]]:
    return [(one.seconds, one.at_end) for one in realtime_lags(history)]


def at_end(history: History) -> set[str]:
    return {one.name for one in judge(history, Expectations(read_all=False))}


def test_a_reader_lags_since_the_first_record_that_it_was_not_given() -> None:
    history = written()
    history.poll("r", {K: [(1, "b"), (2, "c")]}, 7.0)
    assert lags(history) == [(0.5, False), (5.0, False)]
    assert at_end(history) == set()


def test_a_reader_that_read_everything_does_not_lag_at_its_end() -> None:
    history = written()
    history.poll("r", {K: [(1, "b"), (2, "c")]}, 7.0)
    history.drain("r", 9.0)
    assert (2.0, True) not in lags(history)
    assert at_end(history) == set()


def test_a_reader_that_did_not_get_to_the_end_although_it_had_the_time() -> None:
    history = written()
    history.poll("r", {K: [(1, "b")]}, 7.0)
    history.drain("r", 9.0)
    assert lags(history)[-1] == (6.0, True)
    assert at_end(history) == {"realtime-lag"}


def test_a_reader_that_was_given_nothing_lags_by_the_position_where_it_began() -> None:
    history = History()
    history.assign("r", [K], positions={K: 0})
    sent(history, "a", 0, 1.0)
    history.drain("r", 9.0)
    assert at_end(history) == {"realtime-lag"}


def test_records_that_only_others_were_given_count_though_no_send_was_answered() -> None:
    history = written()
    history.poll("r", {K: [(1, "b"), (2, "c")]}, 7.0)
    history.unknown(history.invoke_send("w", K, "d", 7.5), "TIMED_OUT", 7.5)
    history.poll("other", {K: [(3, "d")]}, 8.0)
    history.drain("r", 9.0)
    assert lags(history)[-1] == (1.0, True)


def test_where_a_new_assignment_begins_is_not_known_until_records_come() -> None:
    history = written()
    history.assign("r", [K])
    history.poll("r", {K: [(2, "c")]}, 7.0)
    history.drain("r", 9.0)
    assert lags(history) == [(0.5, False)]


@pytest.mark.parametrize("promise", ["excused", "visible"])
def test_what_readers_need_not_see_makes_nobody_lag(promise: str) -> None:
    history = written()
    history.drain("r", 9.0)
    hidden = (
        {"excused": lambda send: True} if promise == "excused" else {"visible": lambda send: False}
    )
    found = judge(history, Expectations(read_all=False, **hidden))  # type: ignore[arg-type]
    assert found == []
    assert at_end(history) == {"realtime-lag"}
