"""The checker of histories: it finds what is planted, and nothing where nothing is."""

import random
from itertools import permutations

import pytest

from tests.linearizability.checker import SearchTooLong, find_violation, relevant
from tests.linearizability.generated import linearizable_history
from tests.linearizability.history import CompareAndSet, Operation, Read, Value, Write


def op(action: Write | Read | CompareAndSet, call: float, end: float | None) -> Operation:
    return Operation(0, action, call, end)


VIOLATIONS = {
    "stale read": [op(Write(1), 0, 1), op(Write(2), 2, 3), op(Read(1), 4, 5)],
    "lost write": [op(Write(1), 0, 1), op(Read(None), 2, 3)],
    "write applied twice": [
        op(Write(1), 0, 1),
        op(Write(2), 2, 3),
        op(Read(2), 4, 5),
        op(Read(1), 6, 7),
    ],
    "read of a failed write": [op(Write(1), 0, 1), op(Read(7), 2, 3)],
    "real-time order broken": [op(Write(1), 0, 10), op(Read(1), 1, 2), op(Read(None), 3, 4)],
    "read before the write": [op(Read(1), 0, 1), op(Write(1), 2, 3)],
    "two readers disagree on the order": [
        op(Write(1), 0, 9),
        op(Write(2), 0, 9),
        op(Read(1), 1, 2),
        op(Read(2), 3, 4),
        op(Read(1), 5, 6),
    ],
    "compare-and-set won twice": [
        op(CompareAndSet(None, 1), 0, 2),
        op(CompareAndSet(None, 2), 1, 3),
    ],
    "compare-and-set refused though it held": [
        op(Write(1), 0, 1),
        op(CompareAndSet(1, 2, succeeded=False), 2, 3),
    ],
    "unknown write seen before its call": [op(Read(1), 0, 1), op(Write(1), 2, None)],
    "unknown write undone": [
        op(Write(1), 0, None),
        op(Read(1), 2, 3),
        op(Read(None), 4, 5),
    ],
    "unknown compare-and-set that could not win": [
        op(Write(1), 0, 1),
        op(CompareAndSet(2, 3), 2, None),
        op(Read(3), 4, 5),
    ],
}

ALLOWED = {
    "nothing": [],
    "read beside a write, either way": [
        op(Write(1), 0, 10),
        op(Read(None), 1, 2),
        op(Read(1), 3, 4),
    ],
    "unknown write that comes late": [
        op(Write(1), 0, None),
        op(Write(2), 1, 2),
        op(Read(2), 3, 4),
        op(Read(1), 5, 6),
    ],
    "unknown write that never comes": [op(Write(1), 0, None), op(Read(None), 5, 6)],
    "unknown write that a failed compare-and-set proves": [
        op(Write(1), 0, None),
        op(CompareAndSet(None, 2, succeeded=False), 3, 4),
    ],
    "ends as another is called": [op(Write(1), 0, 1), op(Read(None), 1, 2)],
    "read without an answer": [op(Read(9), 0, None), op(Read(None), 1, 2)],
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_planted_violation_is_found(name: str) -> None:
    found = find_violation(VIOLATIONS[name])
    assert found is not None
    assert "no order has room" in str(found)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_register_may_do_is_allowed(name: str) -> None:
    assert find_violation(ALLOWED[name]) is None


def test_a_violation_names_the_operation_without_a_place() -> None:
    found = find_violation(VIOLATIONS["stale read"])
    assert found is not None
    assert found.stuck.action == Read(1)
    assert found.state == 2


@pytest.mark.parametrize("seed", range(60))
def test_histories_of_a_real_register_are_linearizable(seed: int) -> None:
    chance = random.Random(seed)
    history = linearizable_history(
        chance, processes=chance.randint(1, 12), operations=200, unique=seed % 2 == 0
    )
    assert find_violation(history) is None


@pytest.mark.parametrize("seed", range(40))
def test_a_read_of_another_value_is_found_in_a_long_history(seed: int) -> None:
    chance = random.Random(seed)
    history = linearizable_history(chance, processes=6, operations=150)
    reads = [
        index
        for index, one in enumerate(history)
        if isinstance(one.action, Read) and one.end is not None
    ]
    index = chance.choice(reads)
    planted = history[index]
    history[index] = Operation(planted.process, Read("never written"), planted.call, planted.end)
    assert find_violation(history) is not None


@pytest.mark.parametrize("seed", range(300))
def test_small_histories_are_judged_as_by_trying_every_order(seed: int) -> None:
    chance = random.Random(seed)
    history = linearizable_history(chance, processes=3, operations=6, unique=False)
    # Results from elsewhere: some stay possible, most do not.
    for index, one in enumerate(history):
        if isinstance(one.action, Read) and chance.random() < 0.5:
            history[index] = Operation(0, Read(chance.randrange(4)), one.call, one.end)
    assert (find_violation(history) is None) == _explained_by_some_order(history)


def test_unknown_operations_that_nobody_saw_are_left_out() -> None:
    seen, unseen = op(Write(1), 0, None), op(Write(2), 0, None)
    read = op(Read(1), 1, 2)
    assert relevant([seen, unseen, read]) == [seen, read]
    refused = op(CompareAndSet(None, 3, succeeded=False), 1, 2)
    assert unseen in relevant([seen, unseen, refused])


def test_a_search_without_end_is_given_up() -> None:
    with pytest.raises(SearchTooLong):
        find_violation(VIOLATIONS["stale read"], steps_max=2)


def _explained_by_some_order(history: list[Operation]) -> bool:
    required = [one for one in history if one.end is not None]
    unknown = [one for one in history if one.end is None]
    for chosen in range(1 << len(unknown)):
        taken = [one for index, one in enumerate(unknown) if chosen >> index & 1]
        if any(_explains(order) for order in permutations(required + taken)):
            return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    for index, one in enumerate(order):
        if any(later.end is not None and later.end < one.call for later in order[index + 1 :]):
            return False
    state: Value = None
    for one in order:
        action = one.action
        if isinstance(action, Write):
            state = action.value
        elif isinstance(action, CompareAndSet):
            won = state == action.expected
            if one.end is not None and won != action.succeeded:
                return False
            state = action.value if won else state
        elif one.end is not None and state != action.value:
            return False
    return True
