"""Faults of processes: killed, told to end, paused, out of descriptors (F1, F2, F3, F9, F12)."""

import os
import resource
import signal
import time
from abc import abstractmethod
from pathlib import Path

from tests.cluster.faults.fault import Fault, NotPossibleNow
from tests.cluster.faults.world import FSYNC, LeaderLoss

_ROLES = ("broker", "metadata", "coordinator")
_OPEN_FILES = resource.RLIMIT_NOFILE
_FILE_SIZE = resource.RLIMIT_FSIZE


class Kill(Fault):
    """F1: kill -9 of one node, a leader, the controller, a minority or everything."""

    def begin(self) -> tuple[str, float]:
        """Restart after 0 to 20 s."""
        kinds = ("one", "leader", "leader", "leader", "controller", "minority", "brokers", "all")
        kind = self.random.choice(kinds)
        self._names = self._chosen(kind)
        self.hold(*self._names)
        self.world.counts[f"kill-{kind}"] += 1
        self._loss: LeaderLoss | None = None
        longest_s = 20.0
        if kind in ("brokers", "all"):
            self._loss = self.world.kill_together(f"{kind} killed", self._names)
            # They come back soon: nobody serves meanwhile.
            longest_s = 4.0
        else:
            for name in self._names:
                self.world.kill(name)
        return f"kill -9 of {kind}: {', '.join(self._names)}", self.random.uniform(0, longest_s)

    def _chosen(self, kind: str) -> list[str]:
        world = self.world
        if kind == "brokers":
            return world.free("broker")
        if kind == "all":
            return world.free()
        if kind == "minority":
            return [self.choose("metadata"), self.choose("broker")]
        if kind == "one":
            return [self.choose()]
        name = world.controller() if kind == "controller" else world.leader(self._key())
        if name is None or name not in world.free():
            raise NotPossibleNow(f"no {kind} is free")
        return [name]

    def _key(self) -> tuple[str, int]:
        return self.world.any_key(self.random)

    def heal(self) -> bool:
        """Start them again."""
        if self._loss is not None:
            self._loss.restarted_ns = time.monotonic_ns()
        for name in self._names:
            self.world.restart(name)
            self.world.release(name)
        return True


class KillAll(Fault):
    """F1, and nothing else meanwhile: how long nobody can write after a cold start of all."""

    def begin(self) -> tuple[str, float]:
        """Restart at once."""
        if not self.world.well:
            raise NotPossibleNow("something else is going on")
        self._names = self.world.nodes()
        self.hold(*self._names)
        self._loss = self.world.kill_together("all killed", self._names)
        return "kill -9 of all", 0.0

    def heal(self) -> bool:
        """Start them, and wait until all are ready."""
        if self._loss.restarted_ns is None:
            self._loss.restarted_ns = time.monotonic_ns()
        for name in self._names:
            self.world.restart(name)
        if not all(map(self.world.is_ready, self._names)):
            return False
        for name in self._names:
            self.world.release(name)
        return True


class KillLeader(Fault):
    """F1, and nothing else meanwhile: how long nobody can write to what a killed broker led."""

    def begin(self) -> tuple[str, float]:
        """Restart after 3 s."""
        world = self.world
        leader = world.leader(world.any_key(self.random))
        if leader is None or not world.well:
            raise NotPossibleNow("something else is going on")
        self._name = leader
        self.hold(leader)
        world.kill(leader)
        return f"kill -9 of a leader: {leader}", 3.0

    def heal(self) -> bool:
        """Start it, and wait until it is ready."""
        self.world.restart(self._name)
        if not self.world.is_ready(self._name):
            return False
        self.world.release(self._name)
        return True


class Rolling(Fault):
    """F2: SIGTERM to the nodes of a role, one after the other."""

    def begin(self) -> tuple[str, float]:
        """The next one only when the one before is ready."""
        role = self.random.choice(_ROLES)
        self._left = self.world.free(role)
        if not self._left:
            raise NotPossibleNow(f"no {role} is free")
        if self.random.random() < 0.5:
            self._left = self._left[:1]
        self.hold(*self._left)
        self._now, self._ending = "", False
        return f"SIGTERM, one after the other: {', '.join(self._left)}", 0.0

    def heal(self) -> bool:
        """Goes on to the next node, if the present one is back."""
        world = self.world
        if self._now:
            if not world.cluster.is_running(self._now) and self._ending:
                world.restart(self._now)
                self._ending = False
                return False
            if self._ending or not world.is_ready(self._now):
                return False
            world.release(self._now)
            self._now = ""
        if not self._left:
            return True
        self._now = self._left.pop(0)
        self._ending = True
        world.signal(self._now, signal.SIGTERM)
        return False


class Pause(Fault):
    """F3: SIGSTOP for 0.1 to 20 s."""

    def begin(self) -> tuple[str, float]:
        """Any node; leaders of partitions more often than chance has it."""
        leader = self.world.leader(self.world.any_key(self.random))
        wanted = leader if self.random.random() < 0.5 else None
        self._name = wanted if wanted in self.world.free() and wanted else self.choose()
        self.hold(self._name)
        self.world.signal(self._name, signal.SIGSTOP)
        return f"SIGSTOP of {self._name}", self.random.choice((0.1, 1.0, 4.0, 8.0, 20.0))

    def heal(self) -> bool:
        """SIGCONT."""
        self.world.signal(self._name, signal.SIGCONT)
        self.world.release(self._name)
        return True


class _Limit(Fault):
    """A limit of the kernel on a process that runs."""

    kind = _OPEN_FILES

    def begin(self) -> tuple[str, float]:
        """Set it."""
        self._name = self.choose("broker")
        if not self.world.is_ready(self._name):
            raise NotPossibleNow(f"{self._name} is only starting")
        self._pid = self.world.pid(self._name)
        self.hold(self._name)
        limit = self.limit(self._pid)
        self._before = resource.prlimit(self._pid, self.kind)
        resource.prlimit(self._pid, self.kind, (limit, self._before[1]))
        return f"{type(self).__name__} of {self._name}: {limit}", self.random.uniform(3, 12)

    @abstractmethod
    def limit(self, pid: int) -> int:
        """What is allowed from now on."""

    def heal(self) -> bool:
        """Take it back; a broker that took its folder offline is started again."""
        if self.world.cluster.is_running(self._name):
            resource.prlimit(self._pid, self.kind, self._before)
        return self.world.mend(self._name)


class OpenFiles(_Limit):
    """F9: EMFILE, by a limit just at what is open."""

    def limit(self, pid: int) -> int:
        """Two more than are open."""
        numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
        return max(numbers) + 2


class FileSize(_Limit):
    """F12: EFBIG, and short writes before it."""

    kind = _FILE_SIZE

    def limit(self, pid: int) -> int:
        """A little more than the largest open segment of the most busy topic."""
        ids = self.world.ids
        sizes = [0]
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = Path(f"/proc/{pid}/fd/{number}")
            try:
                target = os.readlink(path)
                if target.endswith(".log") and ids[FSYNC].hex() in target:
                    sizes.append(path.stat().st_size)
            except OSError:
                continue
        return max(sizes) + self.random.randrange(1, 4096)
