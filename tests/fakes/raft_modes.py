"""How often what happens in a random schedule: each seed draws weights and a mode of its own.

Faults need several rare things in the same schedule, which independent weights seldom bring
together; a mode raises and lowers some together. Nothing in it says in which order they come.
"""

from collections.abc import Callable, Mapping
from random import Random

#: How often a mode is drawn, and what it multiplies the weights of events by.
Mode = tuple[int, dict[str, float]]
MODES: tuple[Mode, ...] = (
    (2, {}),
    (1, {"calm": 0.25}),
    (3, {"reset": 3, "lose": 3, "crash_some": 0.3}),
    (3, {"compact": 3, "crash_some": 3, "start_some": 2}),
    (2, {"separate": 3, "join": 2, "compact": 2, "stand": 2}),
)
#: Connections last, but some are stalled, so that what they bring may be of an older term. Among
#: three voters that is in vain: who acknowledges to a leader makes a majority with it.
STALLED: Mode = (
    22,
    {
        "stand": 2,
        "separate": 1,
        "join": 0.5,
        "trickle": 1.5,
        "hold": 2,
        "release": 0.05,
        "reset": 0.03,
        "lose": 0.3,
        "compact": 0.1,
        "crash_some": 0.02,
    },
)


def drawn_weights(
    chance: Random, voters: int, events: Mapping[Callable[[], None], float]
) -> list[float]:
    """The weights of events in one schedule, from what they weigh on average."""
    modes = (*MODES, STALLED) if voters > 3 else MODES
    (mode,) = chance.choices([mode for _, mode in modes], [weight for weight, _ in modes])
    return [
        weight * 4 ** chance.uniform(-1, 1) * mode.get(event.__name__, 1)
        for event, weight in events.items()
    ]
