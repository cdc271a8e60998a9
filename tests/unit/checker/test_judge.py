"""Every anomaly in a planted history of its own, and none in a good one."""

from typing import Any

import pytest

from tests.checker.history import History, Send
from tests.checker.judge import Expectations, judge, lost_places

K = ("topic", 0)


def names(history: History, **expectations: Any) -> set[str]:
    return {one.name for one in judge(history, Expectations(**expectations))}


def sent(
    history: History, value: str, offset: int | None, *, process: str = "w", idempotent: bool = True
) -> Send:
    send = history.invoke_send(process, K, value, 0.0, idempotent)
    history.acknowledge(send, offset, "REPLICATED_DISK", 1.0)
    return send


def read(history: History, *reads: tuple[int, str], process: str = "r") -> None:
    history.poll(process, {K: list(reads)}, 2.0)


def good() -> History:
    history = History()
    for offset, value in enumerate("abcd"):
        sent(history, value, offset)
    read(history, (0, "a"), (1, "b"))
    read(history, (2, "c"), (3, "d"))
    return history


def test_a_good_history_has_no_anomaly() -> None:
    assert names(good()) == set()


def test_two_values_at_one_offset() -> None:
    history = good()
    read(history, (1, "x"), process="other")
    assert "inconsistent-offsets" in names(history)


def test_an_acknowledgement_at_an_offset_where_another_value_is_read() -> None:
    history = good()
    sent(history, "e", 1)
    assert "inconsistent-offsets" in names(history)


def test_one_value_at_two_offsets() -> None:
    history = good()
    read(history, (4, "a"))
    assert names(history) == {"duplicate"}


def test_a_producer_that_is_not_idempotent_may_write_twice() -> None:
    history = History()
    sent(history, "a", 0, idempotent=False)
    read(history, (0, "a"), (1, "a"))
    assert names(history) == set()


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_value_is_read_elsewhere_than_it_was_acknowledged(idempotent: bool) -> None:
    history = History()
    sent(history, "a", 3, idempotent=idempotent)
    read(history, (5, "a"))
    assert "ack-offset" in names(history)
    assert "ack-offset" not in names(history, excused=lambda send: True)


def test_a_value_is_read_where_it_was_acknowledged_or_nothing_was_told() -> None:
    history = History()
    sent(history, "a", 3)
    sent(history, "b", None)
    read(history, (3, "a"), (4, "b"))
    assert names(history) == set()


def test_another_value_may_have_the_place_of_one_whose_loss_is_excused() -> None:
    history = History()
    lost = sent(history, "a", 0)
    sent(history, "b", 0, process="w2")
    read(history, (0, "b"))
    assert "inconsistent-offsets" in names(history)
    assert names(history, excused=lambda send: send is lost) == set()


def test_an_acknowledged_value_below_what_was_read_is_lost() -> None:
    history = History()
    for offset, value in enumerate("abc"):
        sent(history, value, offset)
    read(history, (0, "a"), (2, "c"))
    assert "lost-write" in names(history)


def test_where_in_its_writers_life_a_value_was_lost() -> None:
    history = History()
    for offset, value in enumerate("abcd"):
        sent(history, value, offset)
    read(history, (1, "b"), (3, "d"))
    sent(history, "e", 4)
    places = lost_places(history, judge(history))
    assert places == {"lost-prefix": 1, "lost-middle": 1, "lost-postfix": 1}


def test_what_was_not_lost_has_no_place() -> None:
    history = good()
    assert lost_places(history, judge(history)) == {}


def test_of_a_writer_all_of_whose_values_are_lost_it_is_the_beginning() -> None:
    history = good()
    sent(history, "e", 4, process="other")
    assert lost_places(history, judge(history)) == {"lost-prefix": 1}


def test_an_acknowledged_value_that_nobody_ever_read() -> None:
    history = good()
    sent(history, "e", 4)
    assert names(history) == {"unseen"}
    assert names(history, read_all=False) == set()


def test_a_promise_that_was_outdone_is_excused() -> None:
    history = good()
    lost = sent(history, "e", 4)
    assert names(history, excused=lambda send: send is lost) == set()


def test_a_send_that_failed_is_read() -> None:
    history = good()
    send = history.invoke_send("w", K, "e", 0.0)
    history.fail(send, "NOT_LEADER", 1.0)
    read(history, (4, "e"))
    assert names(history) == {"G1a"}


def test_a_send_of_unknown_outcome_may_be_read_or_not() -> None:
    history = good()
    for value in "ef":
        history.unknown(history.invoke_send("w", K, value, 0.0), "TIMED_OUT", 1.0)
    read(history, (4, "e"))
    assert names(history) == set()


def test_a_value_that_nobody_sent() -> None:
    history = good()
    read(history, (4, "x"))
    assert names(history) == {"phantom"}


def test_a_consumer_skips_between_two_polls() -> None:
    history = good()
    read(history, (0, "a"), process="other")
    read(history, (2, "c"), process="other")
    assert names(history) == {"poll-skip"}


def test_offsets_that_hold_nothing_are_no_skip() -> None:
    history = History()
    for offset, value in ((0, "a"), (5, "b")):
        sent(history, value, offset)
    read(history, (0, "a"))
    read(history, (5, "b"))
    assert names(history) == set()


def test_a_consumer_goes_back_between_two_polls() -> None:
    history = good()
    read(history, (0, "a"), (1, "b"), process="other")
    read(history, (1, "b"), process="other")
    assert names(history) == {"nonmonotonic-poll"}


def test_a_new_assignment_may_begin_anywhere() -> None:
    history = good()
    history.assign("r", [K])
    read(history, (0, "a"), (1, "b"))
    assert names(history) == set()


def test_a_consumer_skips_within_one_poll() -> None:
    history = good()
    read(history, (0, "a"), (2, "c"), process="other")
    assert names(history) == {"int-poll-skip"}


def test_a_consumer_goes_back_within_one_poll() -> None:
    history = good()
    read(history, (1, "b"), (0, "a"), process="other")
    assert names(history) == {"int-nonmonotonic-poll"}


def test_a_later_send_of_a_producer_lands_earlier() -> None:
    history = History()
    first = history.invoke_send("w", K, "a", 0.0)
    second = history.invoke_send("w", K, "b", 0.0)
    history.acknowledge(first, 1, "", 1.0)
    history.acknowledge(second, 0, "", 1.0)
    read(history, (0, "b"), (1, "a"))
    assert names(history) == {"nonmonotonic-send"}


def test_of_the_records_of_one_call_a_later_one_lands_earlier() -> None:
    history = History()
    first = history.invoke_send("w", K, "a", 0.0, call=1)
    second = history.invoke_send("w", K, "b", 0.0, call=1)
    history.acknowledge(first, 1, "", 1.0)
    history.acknowledge(second, 0, "", 1.0)
    read(history, (0, "b"), (1, "a"))
    assert names(history) == {"int-nonmonotonic-send"}


def test_the_records_of_one_call_stand_in_its_order_with_others_between_them() -> None:
    history = History()
    first = history.invoke_send("w", K, "a", 0.0, call=1)
    second = history.invoke_send("w", K, "b", 0.0, call=1)
    third = history.invoke_send("w", K, "c", 0.0, call=2)
    other = history.invoke_send("w2", K, "x", 0.0, call=1)
    for send, offset in ((first, 0), (second, 2), (third, 3)):
        history.acknowledge(send, offset, "", 1.0)
    history.unknown(other, "TIMED_OUT", 1.0)
    read(history, (0, "a"), (1, "x"), (2, "b"), (3, "c"))
    assert names(history) == set()


def test_a_send_of_unknown_outcome_landed_behind_a_later_one_of_its_producer() -> None:
    history = History()
    history.unknown(history.invoke_send("w", K, "a", 0.0), "TIMED_OUT", 1.0)
    sent(history, "b", 0)
    read(history, (0, "b"), (1, "a"))
    assert names(history) == {"nonmonotonic-send"}


def test_a_send_of_unknown_outcome_landed_below_what_stood_before_it_began() -> None:
    history = History()
    sent(history, "a", 1, process="w1")
    history.unknown(history.invoke_send("w2", K, "b", 0.0), "TIMED_OUT", 1.0)
    read(history, (0, "b"), (1, "a"))
    assert names(history) == {"realtime-order"}


def test_a_retry_without_idempotence_may_be_overtaken() -> None:
    history = History()
    first = history.invoke_send("w", K, "a", 0.0, idempotent=False)
    second = history.invoke_send("w", K, "b", 0.0, idempotent=False)
    history.acknowledge(first, 1, "", 1.0)
    history.acknowledge(second, 0, "", 1.0)
    read(history, (0, "b"), (1, "a"))
    assert names(history) == set()


def test_what_readers_do_not_see_yet_is_not_below_the_end() -> None:
    history = History()
    sent(history, "a", 0)
    history.saw_end("r", K, 0, history.next_line())
    assert "end-offset-back" in names(history, read_all=False)
    assert names(history, read_all=False, visible=lambda send: False) == set()


def test_a_send_lands_below_one_acknowledged_before_it_began() -> None:
    history = History()
    sent(history, "a", 1, process="w1")
    sent(history, "b", 0, process="w2")
    read(history, (0, "b"), (1, "a"))
    assert names(history) == {"realtime-order"}


def test_sends_at_the_same_time_land_in_any_order() -> None:
    history = History()
    one = history.invoke_send("w1", K, "a", 0.0)
    sent(history, "b", 0, process="w2")
    history.acknowledge(one, 1, "", 1.0)
    read(history, (0, "b"), (1, "a"))
    assert names(history) == set()


@pytest.mark.parametrize("offset", [3, 0])
def test_an_end_offset_below_what_is_acknowledged(offset: int) -> None:
    history = good()
    history.saw_end("c", K, offset, history.next_line())
    assert names(history) == {"end-offset-back"}


def test_an_end_offset_goes_back() -> None:
    history = good()
    history.saw_end("c", K, 9, history.next_line())
    history.saw_end("d", K, 8, history.next_line())
    assert names(history) == {"end-offset-back"}


def test_an_end_offset_asked_for_earlier_may_be_lower() -> None:
    history = good()
    begun = history.next_line()
    history.saw_end("c", K, 9, history.next_line())
    history.saw_end("d", K, 8, begun)
    assert names(history) == set()


def test_two_owners_at_once() -> None:
    history = good()
    history.owns("c", K, 10, 30)
    history.owns("d", K, 20, None)
    assert names(history) == {"double-ownership"}


def test_one_owner_after_another() -> None:
    history = good()
    history.owns("c", K, 10, 20)
    history.owns("d", K, 20, None)
    assert names(history) == set()


def test_what_clients_saw_themselves_counts() -> None:
    history = good()
    history.note_anomaly("corrupt-read", "a checksum")
    assert names(history) == {"corrupt-read"}


def test_a_send_is_completed_once() -> None:
    history = History()
    send = sent(history, "a", 0)
    with pytest.raises(ValueError, match="completed already"):
        history.unknown(send, "", 2.0)
