"""Makes the planned faults happen to a world, and undoes them when their time is over."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random

from tests.simulation.world.administration import Operator
from tests.simulation.world.disk_faults import DiskFaults
from tests.simulation.world.network_faults import NetworkFaults
from tests.simulation.world.nodes import BrokerMachine, Machine
from tests.simulation.world.plan import Fault, Plan
from tests.simulation.world.process import Process
from tests.simulation.world.promises import Promises
from tests.simulation.world.world import World

# How often the supervisor of the brokers looks after them.
_SUPERVISED_S = 1.0
# For how long a drained broker runs on.
_DRAINED_S = 3.0
# How far apart brokers come back that all went down, and after how long the metadata nodes do at
# the latest: those find out which brokers are dead.
_APART_S = (0.0, 0.0, 0.5, 3.0)
_METADATA_BACK_S = 0.5
# By then a broker has registered after a start; and so soon it starts again.
_REGISTERED_S = 0.5
_AGAIN_S = 0.02


class FaultInjector:
    """Called by the schedule; every fault that struck is counted and told."""

    def __init__(self, world: World, plan: Plan, operator: Operator, promises: Promises) -> None:
        self._world = world
        self._network = NetworkFaults(world)
        self.disks = DiskFaults(world, plan.topics, promises, self.boot)
        self._plan = plan
        self._operator = operator
        self._promises = promises
        world.loop.call_in(_SUPERVISED_S, self._supervise)
        self.struck: dict[str, int] = {}
        # Records acknowledged before the last cut of power.
        self._acknowledged = 0
        # What happened, in words.
        self.story: list[str] = []
        # Since when processes of brokers have been drained.
        self._drained_since_s: dict[Process, float] = {}

    def strike(self, fault: Fault) -> None:
        """Make a fault happen now."""
        elsewhere = getattr(self._network, fault.kind, None) or getattr(
            self.disks, fault.kind, None
        )
        done = (elsewhere or getattr(self, f"_{fault.kind}"))(fault)
        if done is None:
            return
        self.struck[fault.kind] = self.struck.get(fault.kind, 0) + 1
        self.tell(done)

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self._world.loop.now:8.3f} s  {what}")

    def _later(self, fault: Fault, action: Callable[[], None]) -> None:
        self._world.loop.call_in(fault.lasts_s, action)

    def boot(self, machine: Machine) -> None:
        """Start a node unless it runs."""
        if not machine.running:
            self.tell(f"{machine.host} starts")
            machine.boot()

    # Processes and machines

    def _kill(self, fault: Fault) -> str | None:
        machine = self._world.running_broker(fault.first)
        if machine is None:
            return None
        machine.kill()
        self._later(fault, lambda: self.boot(machine))
        return f"{machine.host} is killed"

    def _crash_point(self, fault: Fault) -> str | None:
        machine = self._world.running_broker(fault.first)
        if machine is None or machine.dies_in is not None:
            return None
        machine.dies_in = fault.second * fault.second // 8
        machine.dies_dark = fault.amount < 0.5
        how = "loses power" if machine.dies_dark else "is killed"

        def died() -> None:
            if machine.dies_dark:
                self._promises.lost_memory(machine)
            self.tell(f"{machine.host} {how} between two operations of its disk")
            self._later(fault, lambda: self.boot(machine))

        machine.died = died
        return f"{machine.host} {how} after {machine.dies_in} more operations of its disk"

    def _restart_twice(self, fault: Fault) -> str | None:
        """What a start found must not be forgotten by the next one, though nobody has heard of it:
        the second time the broker may not have registered yet."""
        machine = self._world.running_broker(fault.first)
        if machine is None:
            return None
        self._lose_power(machine, fault)

        def start() -> None:
            self.boot(machine)
            self._world.loop.call_in((fault.second / 60) ** 3 * _REGISTERED_S, end)

        def third() -> None:
            self._world.loop.call_in(_AGAIN_S, self.boot, machine)

        def end() -> None:
            process = machine.process
            if process is None or not process.alive or process.paused:
                return
            process.on_death(third)
            if fault.second % 2:
                self.tell(f"{machine.host} is killed again")
                machine.kill()
            else:
                self.tell(f"{machine.host} is asked to stop again")
                machine.terminate()

        self._later(fault, start)
        return f"{machine.host} loses power, and stops again soon after its next start"

    def _power(self, fault: Fault) -> str | None:
        machine = self._world.running_broker(fault.first)
        if machine is None:
            return None
        self._cut_power(machine, fault)
        self._count_cut("cuts_of_one_broker")
        return f"{machine.host} loses power"

    def _power_all(self, fault: Fault) -> str:
        for machine, its in self._each_for_itself(fault):
            self._cut_power(machine, its)
        self._count_cut("cuts_of_all_nodes")
        return "all nodes lose power"

    def _kill_all(self, fault: Fault) -> str:
        for machine, its in self._each_for_itself(fault):
            if machine.running:
                machine.kill()
                self._later(its, partial(self.boot, machine))
        return "all nodes are killed"

    def _each_for_itself(self, fault: Fault) -> Iterator[tuple[Machine, Fault]]:
        """Machines lose different parts of their memory. The brokers come back at different times:
        at once, or one while others are taken for dead."""
        chance = Random(f"{self._plan.seed}/{fault.at}")
        apart_s = chance.choice(_APART_S)
        for machine in self._world.machines:
            back_s = min(fault.lasts_s, _METADATA_BACK_S)
            if isinstance(machine, BrokerMachine):
                back_s = fault.lasts_s + chance.uniform(0, apart_s)
            yield machine, replace(fault, amount=chance.random(), lasts_s=back_s)

    def _count_cut(self, what: str) -> None:
        """Those before which nothing was acknowledged since the last one show little."""
        acknowledged = self._world.counts.get("acknowledged", 0)
        self._world.count(what if acknowledged > self._acknowledged else f"idle_{what}")
        self._acknowledged = acknowledged

    def _cut_power(self, machine: Machine, fault: Fault) -> None:
        self._lose_power(machine, fault)
        self._later(fault, lambda: self.boot(machine))

    def _lose_power(self, machine: Machine, fault: Fault) -> None:
        machine.lose_power((0.0, 0.5, 0.9, 1.0)[int(fault.amount * 4) % 4])
        if isinstance(machine, BrokerMachine):
            self._promises.lost_memory(machine)

    def _terminate(self, fault: Fault) -> str | None:
        machine = self._world.running_broker(fault.first)
        if machine is None or machine.process is None or machine.process.paused:
            return None
        machine.terminate()
        machine.process.on_death(lambda: self._later(fault, lambda: self.boot(machine)))
        return f"{machine.host} is asked to stop"

    def _drain(self, fault: Fault) -> str | None:
        """Every other time the broker hears of it late. The supervisor restarts it."""
        machine = self._world.running_broker(fault.first)
        if machine is None:
            return None
        self._operator.drain(machine.node_id)
        if fault.second % 2:
            return f"{machine.host} is drained"
        self._network.cut_off(machine, self._world.metadata, fault)
        self._world.loop.call_in(
            fault.amount / 2, self._network.break_off, machine, self._world.metadata
        )
        return f"{machine.host} is drained, cut off from the metadata nodes"

    def _kill_metadata(self, fault: Fault) -> str | None:
        running = [machine for machine in self._world.metadata if machine.running]
        if not running:
            return None
        machine = running[fault.first % len(running)]
        machine.kill()
        self._later(fault, lambda: self.boot(machine))
        return f"{machine.host} is killed"

    def _pause(self, fault: Fault) -> str | None:
        machine = self._world.running_broker(fault.first)
        return None if machine is None else self._pause_machine(machine, fault)

    def _pause_metadata(self, fault: Fault) -> str | None:
        running = [machine for machine in self._world.metadata if machine.running]
        return self._pause_machine(running[fault.first % len(running)], fault) if running else None

    def _pause_machine(self, machine: Machine, fault: Fault) -> str | None:
        process = machine.process
        assert process is not None
        if process.paused:
            return None
        process.pause()
        self._later(fault, process.resume)
        return f"{machine.host} is paused for {fault.lasts_s:.2f} s"

    def _supervise(self) -> None:
        """Restart brokers whose log directory is offline or which were drained, and those that gave
        up by themselves."""
        self._world.loop.call_in(_SUPERVISED_S, self._supervise)
        for machine in self._world.brokers:
            process = machine.process
            if process is None or process.paused:
                continue
            if machine.serves and machine.app.hosted.offline is not None:
                self.tell(f"{machine.host} is restarted, its log directory is offline")
                machine.kill()
                self.boot(machine)
            elif machine.running and self._is_drained(machine):
                self.tell(f"{machine.host} is asked to stop, it was drained")
                machine.terminate()
                process.on_death(partial(self.boot, machine))
            elif not machine.running and machine.gave_up is not None:
                self.tell(f"{machine.host} had given up: {machine.gave_up!r:.200}")
                self.boot(machine)

    def _is_drained(self, machine: BrokerMachine) -> bool:
        """True if it has been told to stop for a while, and goes on."""
        image = self._world.decisions.newest
        node = image.node(machine.node_id) if image is not None else None
        if node is None or not node.shutting_down or machine.process is None:
            return False
        now_s = self._world.loop.now
        return now_s - self._drained_since_s.setdefault(machine.process, now_s) >= _DRAINED_S

    # Clocks and metadata

    def _wall_jump(self, fault: Fault) -> str | None:
        # Of every broker, each to its own time.
        jump_ms = int((fault.amount - 0.5) * 2 * 3_600_000)
        for machine in self._world.brokers:
            jump_ms = -jump_ms
            machine.wall_offset_ms += jump_ms
            if machine.process is not None:
                machine.process.wall_offset_ms += jump_ms
        return f"the wall clocks of the brokers jump by {abs(jump_ms) / 1000:.0f} s"

    def _step_down(self, fault: Fault) -> str | None:
        if self._world.quorum.leader_id is None:
            return None
        self._world.quorum.step_down()
        return "the leader of the quorum loses its place"

    def _topic_churn(self, fault: Fault) -> str | None:
        self._operator.churn()
        return "a topic is created and deleted, twice under one name"

    def _elect_preferred(self, fault: Fault) -> str:
        self._operator.elect_preferred()
        return "preferred leaders are to be elected"

    def _move_leader(self, fault: Fault) -> str | None:
        topic = self._plan.topics[fault.first % len(self._plan.topics)]
        if topic.replication_factor < 2:
            return None
        self._operator.move_leader(topic, fault)
        return f"a partition of {topic.name} is to be led by another of its brokers"

    def _reassign(self, fault: Fault) -> str | None:
        topic = self._plan.topics[fault.first % len(self._plan.topics)]
        if topic.replication_factor < 2:
            return None
        told = f"a partition of {topic.name} is to be replicated by other brokers"
        leader = self._leader(topic.name, fault.first % topic.partitions)
        if leader is None or int(fault.amount * 4) % 2:
            self._operator.reassign(topic, fault)
            return told
        self._operator.reassign(topic, fault, leaves=leader.node_id)
        self._network.cut_off(leader, self._world.metadata, fault)
        return f"{told}, and {leader.host}, which leads, is cut off from the metadata nodes"

    def _leader(self, topic: str, partition: int) -> BrokerMachine | None:
        image = self._world.decisions.newest
        known = image.topic(topic) if image is not None else None
        leader_id = known.partitions[partition].leader_id if known is not None else None
        return next((one for one in self._world.brokers if one.node_id == leader_id), None)

    def _delete_records(self, fault: Fault) -> str:
        topic = self._plan.topics[fault.first % len(self._plan.topics)]
        self._operator.delete_records(topic, fault)
        return f"records of a partition of {topic.name} are to be deleted"

    # The end

    def heal(self) -> None:
        """Undo everything and start what does not run."""
        world = self._world
        world.network.heal_all()
        world.quorum.faults.lose_entry = world.quorum.faults.lose_outcome = 0.0
        for machine in world.machines:
            machine.disk.faults.clear()
            machine.dies_in = None
            machine.disk.capacity_bytes = None
            machine.speed.extra_s = 0.0
            if machine.process is not None and machine.process.paused:
                machine.process.resume()
        for machine in world.machines:
            self.boot(machine)
        self.tell("everything is healed")
