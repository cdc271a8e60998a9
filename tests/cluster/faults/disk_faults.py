"""Faults of disks: full, read-only, failing, slow, without power (F8 to F11, F13)."""

import os
import signal
import subprocess

from tests.cluster.faults.fault import Fault, NotPossibleNow
from tests.cluster.faults.process_faults import OpenFiles
from tests.cluster.faults.world import REPLICAS, World


class FullDisk(Fault):
    """F8: ENOSPC on a broker's disk."""

    def begin(self) -> tuple[str, float]:
        """For 3 to 15 s; what is left is less than a segment or an index needs."""
        self._name = self.choose("broker")
        self.hold(self._name)
        left = self.random.choice((0, 4096, 16_384, 65_536))
        self.world.disks[self._name].fill(left)
        return f"disk of {self._name} full but for {left} bytes", self.random.uniform(3, 15)

    def heal(self) -> bool:
        """Make room."""
        self.world.disks[self._name].empty()
        return self.world.mend(self._name)


class ReadOnlyDisk(Fault):
    """F9: the file system turns read-only under a broker."""

    def begin(self) -> tuple[str, float]:
        """For 3 to 15 s."""
        self._name = self.choose("broker")
        _check_others_hold_everything(self.world)
        self.hold(self._name)
        self.world.disks[self._name].make_read_only()
        return f"disk of {self._name} read-only", self.random.uniform(3, 15)

    def heal(self) -> bool:
        """As an operator would: end the broker, repair the disk, start it again."""
        self.world.kill(self._name)
        disk = self.world.disks[self._name]
        disk.unmount()
        disk.mount()
        self.world.restart(self._name)
        self.world.release(self._name)
        return True


def _check_others_hold_everything(world: World) -> None:
    """Whoever's disk fails leaves every set (invariant 6): after two in a row nobody would be left
    that could lead without an operator's order. Raises NotPossibleNow."""
    ending = {ReadOnlyDisk.__name__, FailedSync.__name__}
    if ending & set(world.held.values()) or not world.is_covered():
        raise NotPossibleNow("a partition has one copy in sync, or another disk fails")


class NoDescriptorsOrReadOnly(Fault):
    """F9, in both its forms."""

    def begin(self) -> tuple[str, float]:
        """Either."""
        either = OpenFiles if self.random.random() < 0.5 or not self.world.disks else ReadOnlyDisk
        self._one = either(self.world, self.random)
        return self._one.begin()

    def heal(self) -> bool:
        """Of the one that was chosen."""
        return self._one.heal()


class _Traced(Fault):
    """A tracer of system calls is attached to a broker that runs, and changes what they do."""

    def attach(self, name: str, injection: str) -> None:
        """Change every fdatasync of a broker. Raises NotPossibleNow."""
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(self.world.pid(name))]
        command += ["-e", "trace=fdatasync", "-e", f"inject=fdatasync:{injection}"]
        try:
            self._tracer = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise NotPossibleNow(str(error)) from None

    def detach(self) -> None:
        """Let it run freely again."""
        self._tracer.send_signal(signal.SIGINT)
        try:
            self._tracer.wait(5)
        except subprocess.TimeoutExpired:
            self._tracer.kill()
            self._tracer.wait()


class FailedSync(_Traced):
    """F10: EIO on fdatasync: the folder is done with (invariant 32)."""

    def begin(self) -> tuple[str, float]:
        """From the first or a later sync on, for 2 to 6 s."""
        self._name = self.choose("broker")
        _check_others_hold_everything(self.world)
        when = self.random.choice(("1+", "3", "10+"))
        self.attach(self._name, f"error=EIO:when={when}")
        self.hold(self._name)
        return f"EIO on fdatasync ({when}) of {self._name}", self.random.uniform(2, 6)

    def heal(self) -> bool:
        """Detach; a broker whose folder is offline is started again."""
        if self._tracer.poll() is None:
            self.detach()
        return self.world.mend(self._name)


class SlowSync(_Traced):
    """F11: every fdatasync takes 0.2 to 5 s longer."""

    def begin(self) -> tuple[str, float]:
        """For 5 to 15 s."""
        self._name = self.choose("broker")
        delay_s = self.random.choice((0.2, 1.0, 5.0))
        self.attach(self._name, f"delay_enter={int(delay_s * 1e6)}")
        self.hold(self._name)
        return f"fdatasync of {self._name} {delay_s} s late", self.random.uniform(5, 15)

    def heal(self) -> bool:
        """Detach."""
        if self._tracer.poll() is None:
            self.detach()
        return self.world.mend(self._name)


class PowerLoss(Fault):
    """F13: kill -9, and what was not synced is gone: the file system is shut down without a flush.

    One broker, one metadata node, or now and then all brokers at once.
    """

    def begin(self) -> tuple[str, float]:
        """Power is back after 0 to 10 s."""
        kind = self.random.choice(("broker", "broker", "broker", "metadata", "brokers"))
        self._names = self._chosen(kind)
        self.hold(*self._names)
        if self._may_lose_page_cache(self._names):
            self.world.retire_page_cache()
        for name in self._names:
            self.world.kill(name)
            self.world.disks[name].cut_power()
        self.world.counts[f"power-{kind}"] += 1
        return f"power loss of {', '.join(self._names)}", self.random.uniform(0, 10)

    def _chosen(self, kind: str) -> list[str]:
        if kind == "brokers":
            names = self.world.free("broker")
            if len(names) < 2:
                raise NotPossibleNow("too few brokers are free")
            return names
        return [self.choose(kind)]

    def _may_lose_page_cache(self, names: list[str]) -> bool:
        """True if a record that only memories held may be gone: all copies at once, or the last of
        them because the others were not in sync."""
        brokers = [name for name in names if name.startswith("broker")]
        leads = self.world.leads()
        topic = self.world.page_cache
        whole = all(
            (lead := leads.get((topic, number))) is not None and lead.in_sync == REPLICAS
            for number in range(self.world.topics[topic])
        )
        return len(brokers) > 1 or (bool(brokers) and not whole)

    def heal(self) -> bool:
        """Power is back."""
        for name in self._names:
            disk = self.world.disks[name]
            disk.unmount()
            disk.mount()
            self.world.restart(name)
            self.world.release(name)
        return True


def tracing_works() -> bool:
    """True if a tracer may be attached to a process here."""
    child = subprocess.Popen(["sleep", "5"])
    try:
        done = subprocess.run(
            ["timeout", "0.5", "strace", "-qq", "-o", os.devnull, "-p", str(child.pid)],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    finally:
        child.kill()
        child.wait()
    # Still attached when its time was over.
    return done.returncode == 124
