"""Faults of the simulated disks. See ``faults.py``, which calls them by their kind."""

import errno
from collections.abc import Callable, Sequence

from tests.fakes.memory_files import Fault as DiskFault
from tests.simulation.world.nodes import BrokerMachine, Machine
from tests.simulation.world.plan import Fault, TopicPlan
from tests.simulation.world.promises import Promises
from tests.simulation.world.world import World


class DiskFaults:
    """Each tells what it did in words, and undoes it when its time is over. ``boot`` starts a
    node unless it runs."""

    def __init__(
        self,
        world: World,
        topics: Sequence[TopicPlan],
        promises: Promises,
        boot: Callable[[Machine], None],
    ) -> None:
        self._world = world
        self._topics = topics
        self._promises = promises
        self._boot = boot
        # Brokers of which something on the disk was damaged or taken away.
        self.rotten_hosts: set[str] = set()
        # The broker with the bad disk. Only one has it: the rules promise nothing once the disks
        # of several fail, but to wait for an operator.
        self.bad_disk: str | None = None

    def slow_disk(self, fault: Fault) -> str | None:
        """Every job takes longer."""
        machine = self._world.running_broker(fault.first)
        if machine is None:
            return None
        machine.speed.extra_s = fault.amount

        def end() -> None:
            machine.speed.extra_s = 0.0

        self._world.loop.call_in(fault.lasts_s, end)
        return f"the disk of {machine.host} takes {fault.amount:.2f} s for {fault.lasts_s:.2f} s"

    def sync_error(self, fault: Fault) -> str | None:
        """A sync fails."""
        return self._fail_disk(fault, DiskFault("sync", skip=fault.second % 3, times=1))

    def write_error(self, fault: Fault) -> str | None:
        """A write fails half-way."""
        short = fault.second * 7
        return self._fail_disk(
            fault, DiskFault("write", skip=fault.second % 3, times=1, short_bytes=short)
        )

    def rename_error(self, fault: Fault) -> str | None:
        """A file gets no new name."""
        if fault.first % 2:
            return self._fail_disk(fault, DiskFault("rename", skip=fault.second % 3, times=1))
        machine = self._world.running_broker(fault.first)
        if machine is None:
            return None
        # No room for a name: the disk is not bad for that.
        refusal = DiskFault("rename", error=errno.ENOSPC, skip=fault.second % 3, times=1)
        self._refuse(machine, fault, refusal)
        return f"{machine.host} will have no room for the new name of a file"

    def _fail_disk(self, fault: Fault, disk_fault: DiskFault) -> str | None:
        machine = self._world.running_broker(fault.first)
        if machine is None or not self._take_bad_disk(machine):
            return None
        self._refuse(machine, fault, disk_fault)
        self._promises.bad_disks.add(machine.node_id)
        return f"a {disk_fault.operation} on {machine.host} will fail with EIO"

    def _refuse(self, machine: BrokerMachine, fault: Fault, disk_fault: DiskFault) -> None:
        machine.disk.faults.append(disk_fault)

        def end() -> None:
            if disk_fault in machine.disk.faults:
                machine.disk.faults.remove(disk_fault)

        self._world.loop.call_in(fault.lasts_s, end)

    def disk_full(self, fault: Fault) -> str | None:
        """There is hardly any room left."""
        machine = self._world.running_broker(fault.first)
        if machine is None or machine.disk.capacity_bytes is not None:
            return None
        room = fault.second * 20
        machine.disk.capacity_bytes = machine.disk.used_bytes() + room

        def end() -> None:
            machine.disk.capacity_bytes = None

        self._world.loop.call_in(fault.lasts_s, end)
        return f"the disk of {machine.host} has {room} bytes left for {fault.lasts_s:.2f} s"

    def _take_bad_disk(self, machine: BrokerMachine) -> bool:
        """True if the disk of this machine may be the bad one."""
        self.bad_disk = self.bad_disk or machine.host
        return self.bad_disk == machine.host

    def _may_rot(self, machine: BrokerMachine) -> bool:
        """Only what is replicated survives a disk."""
        replicated = all(topic.replication_factor >= 3 for topic in self._topics)
        return replicated and not self.rotten_hosts and self._take_bad_disk(machine)

    def wipe(self, fault: Fault) -> str | None:
        """The disk is replaced by an empty one."""
        machine = self._world.running_broker(fault.first)
        if machine is None or not self._may_rot(machine):
            return None
        machine.kill()
        machine.wipe()
        self.rotten_hosts.add(machine.host)
        self._promises.disk_damaged(machine)
        self._world.loop.call_in(fault.lasts_s, lambda: self._boot(machine))
        return f"{machine.host} loses its disk and gets an empty one"

    def rot(self, fault: Fault) -> str | None:
        """A byte flips."""
        machine = self._world.running_broker(fault.first)
        if machine is None or not self._may_rot(machine):
            return None
        # Either somebody reads the disk, or the node is killed: else it would hardly be noticed.
        lives = fault.second % 3 == 0
        path = machine.rot(fault.second, fault.amount, cached=not lives)
        if path is None:
            return None
        self.rotten_hosts.add(machine.host)
        self._promises.disk_damaged(machine)
        flips = f"a byte of {path} flips on the disk of {machine.host}"
        if lives:
            return flips
        machine.kill()
        self._world.loop.call_in(fault.lasts_s, lambda: self._boot(machine))
        return f"{flips}, which is killed"
