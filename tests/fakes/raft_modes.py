"""How often what happens in a random schedule: each seed draws weights and modes of its own.

Faults need several rare things in the same schedule, which independent weights seldom bring
together; a mode raises and lowers some together. Nothing in it says in which order they come.
"""

from collections.abc import Callable, Mapping
from math import prod
from random import Random

#: Events by name, with what their weights are multiplied by.
MODES: tuple[dict[str, float], ...] = (
    {"stand": 4},
    {"reset": 3, "lose": 3},
    {"separate": 3, "join": 2},
    {"calm": 0.25},
    {"compact": 2, "crash_some": 3, "start_some": 2},
    # Connections last, but some of them stall, so that what arrives may be of an older term.
    {
        "hold": 3,
        "release": 0.2,
        "trickle": 0.1,
        "calm": 4,
        "separate": 0.6,
        "join": 1.5,
        "reset": 0.1,
        "lose": 0.3,
        "compact": 0.1,
        "crash_some": 0.05,
    },
)
MODE_WEIGHTS = (1, 1, 1, 1, 2, 3)


def drawn_weights(chance: Random, events: Mapping[Callable[[], None], float]) -> list[float]:
    """The weights of events in one schedule, from what they weigh on average."""
    modes = chance.choices(MODES, MODE_WEIGHTS, k=chance.randint(0, 2))
    return [
        weight * 4 ** chance.uniform(-1, 1) * prod(mode.get(event.__name__, 1) for mode in modes)
        for event, weight in events.items()
    ]
