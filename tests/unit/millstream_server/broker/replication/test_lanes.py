"""Turns and credit of one lane."""

from millstream_server.broker.replication.lanes import LaneQueue


def test_everybody_has_a_turn_before_anybody_has_two() -> None:
    queue: LaneQueue[str] = LaneQueue()
    for name in "abc":
        queue.put(name)
    turns = []
    for _ in range(6):
        name = queue.take()
        assert name is not None
        turns.append(name)
        queue.put(name)
    assert turns == list("abcabc")


def test_who_starves_comes_back_with_the_next_credit() -> None:
    queue: LaneQueue[str] = LaneQueue()
    queue.starve("a")
    assert "a" in queue
    assert queue.take() is None
    queue.grant(10)
    assert queue.take() == "a"
    assert "a" not in queue


def test_who_is_removed_has_no_turn() -> None:
    queue: LaneQueue[str] = LaneQueue()
    queue.put("a")
    queue.starve("b")
    queue.remove("a")
    queue.remove("b")
    queue.feed()
    assert queue.take() is None


def test_who_has_something_ready_goes_first() -> None:
    queue: LaneQueue[str] = LaneQueue()
    queue.put("a")
    queue.starve("b")
    queue.put("b", first=True)
    assert [queue.take(), queue.take(), queue.take()] == ["b", "a", None]
