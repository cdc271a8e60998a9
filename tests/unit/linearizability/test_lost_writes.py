"""The check for lost writes that needs no search."""

import random

from tests.campaigns.raft_kill import LEADER, lost_writes, percentile, schedule
from tests.linearizability.history import CompareAndSet, Operation, Read, Write

READER = 1000


def op(action: Write | Read | CompareAndSet, call: float, end: float | None) -> Operation:
    process = READER if isinstance(action, Read) else 1
    return Operation(process, action, call, end)


def test_a_write_after_the_one_that_is_read_at_the_end_is_lost() -> None:
    first, second = op(Write(1), 0, 1), op(Write(2), 2, 3)
    assert lost_writes([first, second, op(Read(1), 4, 5)]) == {second}
    assert lost_writes([first, second, op(Read(2), 4, 5)]) == set()


def test_writes_at_the_same_time_or_of_unknown_outcome_are_not_lost() -> None:
    beside = [op(Write(1), 0, 3), op(Write(2), 2, 3), op(Read(1), 4, 5)]
    assert lost_writes(beside) == set()
    unknown = [op(Write(1), 0, 1), op(Write(2), 2, None), op(Read(1), 4, 5)]
    assert lost_writes(unknown) == set()
    late = [op(Write(1), 0, None), op(Write(2), 2, 3), op(Read(1), 4, 5)]
    assert lost_writes(late) == set()


def test_a_compare_and_set_that_lost_its_race_is_not_lost() -> None:
    refused = op(CompareAndSet(None, 2, succeeded=False), 2, 3)
    assert lost_writes([op(CompareAndSet(None, 1), 0, 1), refused, op(Read(1), 4, 5)]) == set()


def test_a_schedule_shows_every_kind_and_kills_leaders_most() -> None:
    kinds = schedule(400, random.Random(1))
    assert len(set(kinds[:5])) == 5
    assert 0.6 < kinds.count(LEADER) / 400 < 0.8


def test_percentiles_of_few_values() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([3, 1, 2], 0.99) == 3
