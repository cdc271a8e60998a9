"""Pauses between tries: doubling, capped, with jitter."""

import random


class Backoff:
    """Each ``next_ms`` is longer than the one before, until ``reset``."""

    def __init__(self, ms_min: int, ms_max: int, random: random.Random) -> None:
        self._ms_min, self._ms_max = ms_min, ms_max
        self._random = random
        self._ms = ms_min

    def next_ms(self) -> float:
        """Milliseconds to wait before the next try: half to all of the present pause."""
        pause = self._ms
        self._ms = min(self._ms * 2, self._ms_max)
        return pause * (0.5 + self._random.random() / 2)

    def reset(self) -> None:
        """A try succeeded."""
        self._ms = self._ms_min
