"""Keyed timers."""

from hypothesis import given
from hypothesis import strategies as st

from millstream_server.coordinator.timers import Timers


def test_timers_come_up_in_order_and_once() -> None:
    timers: Timers[str] = Timers()
    timers.set("late", 30)
    timers.set("early", 10)
    assert timers.next_due_ms() == 10
    assert list(timers.take_due(20)) == [("early", 10)]
    assert list(timers.take_due(20)) == []
    assert list(timers.take_due(30)) == [("late", 30)]
    assert timers.next_due_ms() is None


def test_a_timer_set_again_is_moved_and_a_cancelled_one_is_gone() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 10)
    timers.set("a", 20)
    timers.set("b", 15)
    timers.cancel("b")
    timers.cancel("never set")
    assert list(timers.take_due(19)) == []
    assert list(timers.take_due(20)) == [("a", 20)]


def test_a_timer_may_be_set_while_others_are_taken() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 10)
    taken = []
    for key, _ in timers.take_due(50):
        taken.append(key)
        if len(taken) < 3:
            timers.set(key + "a", 10 + len(taken))
    assert taken == ["a", "aa", "aaa"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), max_size=200))
def test_timers_behave_as_a_dictionary_of_due_times(settings: list[tuple[str, int]]) -> None:
    timers: Timers[str] = Timers()
    model: dict[str, int] = {}
    for key, due_ms in settings:
        if due_ms % 7 == 0:
            timers.cancel(key)
            model.pop(key, None)
        else:
            timers.set(key, due_ms)
            model[key] = due_ms
        assert timers.next_due_ms() == min(model.values(), default=None)
    assert sorted(key for key, _ in timers.take_due(25)) == sorted(
        key for key, due_ms in model.items() if due_ms <= 25
    )
