"""Makes histories of a real register by chance: what a correct system could have shown."""

import random

from tests.linearizability.history import Action, CompareAndSet, Operation, Read, Value, Write

_VALUES = 4


def linearizable_history(
    chance: random.Random, *, processes: int, operations: int, unique: bool = True
) -> list[Operation]:
    """Each operation takes effect at a random moment between its call and its end; some never
    hear an answer, and then take effect at any time after the call, or never. Values are all
    different if ``unique``, else few."""
    calls: list[tuple[float, float, int, float | None]] = []
    for process in range(processes):
        now = chance.random()
        for _ in range(operations // processes):
            call, end = now, now + chance.expovariate(1)
            answered = chance.random() < 0.9
            effect = chance.uniform(call, end if answered else end + 10)
            calls.append((effect, call, process, end if answered else None))
            now = end + chance.expovariate(2)
    state: Value = None
    history = []
    for number, (_, call, process, end) in enumerate(sorted(calls)):
        action, after = _act(chance, state, number if unique else chance.randrange(_VALUES))
        if end is not None or chance.random() < 0.5:
            state = after
        history.append(Operation(process, action, call, end))
    chance.shuffle(history)
    return history


def _act(chance: random.Random, state: Value, new: Value) -> tuple[Action, Value]:
    kind = chance.randrange(3)
    if kind == 0:
        return Read(state), state
    if kind == 1:
        return Write(new), new
    expected = state if chance.random() < 0.7 else chance.randrange(_VALUES)
    succeeded = expected == state
    return CompareAndSet(expected, new, succeeded), new if succeeded else state
