"""What every fault is: it begins, lasts for some time, and is healed by code."""

from abc import ABC, abstractmethod
from random import Random

from tests.cluster.faults.world import World


class NotPossibleNow(Exception):
    """There is nothing at present that this fault could hit."""


class Fault(ABC):
    """One fault; made anew for each injection. Everything random comes from its own generator."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random

    @abstractmethod
    def begin(self) -> tuple[str, float]:
        """Inject it: what it is, in words, and for how many seconds. Raises NotPossibleNow."""

    @abstractmethod
    def heal(self) -> bool:
        """End it; False if that takes longer, then it is called again."""

    def choose(self, *roles: str) -> str:
        """A node that nothing is done to. Raises NotPossibleNow."""
        free = self.world.free(*roles)
        if not free:
            raise NotPossibleNow(f"no {' or '.join(roles) or 'node'} is free")
        return self.random.choice(free)

    def hold(self, *names: str) -> None:
        """Nobody else may touch these."""
        for name in names:
            self.world.hold(name, type(self).__name__)
