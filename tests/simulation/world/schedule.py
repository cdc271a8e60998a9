"""Plays one schedule: a world, its clients and its faults, then healing, draining and judging."""

import random as random_module
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, cast

from millstream_server.broker.partition import Role
from millstream_server.storage.errors import StorageError
from tests.checker.history import History, Outcome, Send
from tests.checker.judge import Expectations, judge
from tests.simulation.world.administration import Operator
from tests.simulation.world.branches import Branches
from tests.simulation.world.checks import Invariants, Violation
from tests.simulation.world.clients import Reader, Writer
from tests.simulation.world.faults import FaultInjector
from tests.simulation.world.logs_on_disk import LogKey
from tests.simulation.world.loop import Deadlock
from tests.simulation.world.plan import SLOW_SYNC_S, Fault, Plan
from tests.simulation.world.promises import Promises
from tests.simulation.world.quorum import QuorumFaults
from tests.simulation.world.world import World, simulation

_SETTLE_S = 30.0
_DRAIN_S = 120.0
# How long a cluster may take to find its leaders by itself.
_UNAIDED_S = 30.0
_STEP_S = 0.25
# What no loss of records explains, or what is excused record by record.
_NEVER_EXCUSED = frozenset({"lost-write", "unseen", "phantom", "G1a"})


@dataclass
class Kept:
    """What became of the acknowledged records of one durability."""

    acknowledged: int = 0
    lost: int = 0
    lost_beyond_promise: int = 0


@dataclass
class Report:
    """What a schedule did and found."""

    seed: int
    events: int = 0
    trace: int = 0
    simulated_s: float = 0.0
    acknowledged: int = 0
    read: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    branches: dict[str, int] = field(default_factory=dict)
    # By durability: acknowledged records, those lost against its promise, and those lost where
    # the faults outdid it.
    kept: dict[str, "Kept"] = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """Kinds of the violations."""
        return {name for name, _ in self.violations}


def play(plan: Plan) -> Report:
    """Play a schedule; violations are in the report."""
    # What the standard library draws by itself (asyncio, uuid) must not differ either.
    random_module.seed(plan.seed)
    faults = QuorumFaults(plan.lose_outcome, plan.lose_entry, lag_s=plan.voter_lag_s)
    with simulation(
        lambda: World(
            plan.seed,
            brokers=plan.brokers,
            voters=plan.voters,
            quorum_faults=faults,
            lag_ms=plan.lag_ms,
        )
    ) as world:
        return _Schedule(world, plan).run()


class _Schedule:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._report = Report(plan.seed)
        self.history = History()
        self._invariants = Invariants(world, self.history)
        self._operator = Operator(world)
        self._promises = Promises(world, plan.topics)
        self._injector = FaultInjector(world, plan, self._operator, self._promises)
        self._branches = Branches(world)
        self._writers: list[Writer] = []
        self._readers: list[Reader] = []
        self._unreplicated = {one.name for one in plan.topics if one.replication_factor == 1}
        world.network.delay_s = plan.delay_s
        disturbed = zip(world.brokers, plan.drift_ppm, plan.sync_s, strict=True)
        for machine, drift_ppm, sync_s in disturbed:
            machine.drift_ppm = drift_ppm
            machine.speed.work_s = sync_s
            if sync_s == SLOW_SYNC_S:
                machine.speed.stopping = 1.0

    def run(self) -> Report:
        """Play it all."""
        world, report = self._world, self._report
        world.loop.after_event = self._invariants.after_event
        world.broker_observers.append(lambda _: self._excuse())
        try:
            self._play()
            self._judge()
        except Violation as violation:
            report.violations.append((violation.name, violation.text))
        except Deadlock as deadlock:
            report.violations.append(("deadlock", str(deadlock)))
        for message, error, process in world.loop.failures:
            report.violations.append(("unhandled-error", f"{process}: {message}: {error!r}"))
        for event, error, process in world.logged:
            if error is not None and not isinstance(error, OSError | StorageError):
                report.violations.append(("logged-error", f"{process}: {event}: {error!r}"))
        for process in world.processes:
            for task in process.tasks if process.alive else ():
                # Nobody was told: asyncio would say so when the task is finalised.
                if task.done() and not task.cancelled() and task._log_traceback:
                    name = getattr(task.get_coro(), "__qualname__", "a task")
                    text = f"{process.name}: {name}: {task.exception()!r}"
                    report.violations.append(("task-died", text))
        report.events, report.trace = world.loop.events, world.loop.trace
        report.simulated_s = world.loop.now
        report.acknowledged = world.counts.get("acknowledged", 0)
        report.read = world.counts.get("read", 0)
        report.faults = self._injector.struck
        report.counts = {**world.counts, **world.quorum.counts}
        report.branches = self._branches.counts()
        report.story = self._injector.story
        return report

    # The course of things

    def _play(self) -> None:
        world, plan = self._world, self._plan
        world.boot_all()
        for topic in plan.topics:
            self._operator.create(topic)
        made = self._operator.made
        self._until(lambda: len(made) == len(plan.topics), _SETTLE_S, "no-topics")
        for fault in plan.faults:
            world.loop.call_in(fault.at, self._strike, fault)
        self._start_clients()
        world.run_for(plan.lasts_s)
        for writer in self._writers:
            writer.stopping = True
        self._injector.heal()
        self._drain()

    def _strike(self, fault: Fault) -> None:
        self._injector.strike(fault)
        self._invariants.rotten_hosts = self._injector.disks.rotten_hosts
        self._invariants.bad_disk = self._injector.disks.bad_disk
        self._excuse()

    def _start_clients(self) -> None:
        for number, writer in enumerate(self._plan.writers, 1):
            topic = self._plan.topics[writer.topic]
            self._writers.append(
                Writer(
                    self._world,
                    self.history,
                    number,
                    topic.name,
                    topic.partitions,
                    acks=writer.acks,
                    idempotent=writer.idempotent,
                    pause_s=writer.pause_s,
                    bytes_max=writer.bytes_max,
                    linger_in_flight_ms=writer.linger_in_flight_ms,
                    acknowledged=self._acknowledged,
                )
            )
        self._add_readers()
        for client in (*self._writers, *self._readers):
            client.start()

    def _add_readers(self) -> list[Reader]:
        added = []
        for topic in self._plan.topics:
            for partition in range(topic.partitions):
                number = len(self._readers) + 1
                reader = Reader(self._world, self.history, number, topic.name, partition)
                self._readers.append(reader)
                added.append(reader)
        return added

    def _acknowledged(self, send: Send) -> None:
        if send.offset is not None and self._is_visible(send):
            self._invariants.acknowledge(send.key, send.offset + 1)  # type: ignore[arg-type]

    def _is_visible(self, send: Send) -> bool:
        """False if a leader alone has it for the time being."""
        return not send.durability.startswith("LEADER") or _topic_of(send) in self._unreplicated

    def _drain(self) -> None:
        self._until(
            lambda: all(writer.stopped for writer in self._writers), _DRAIN_S, "writers-stuck"
        )
        self._settle()
        for reader in self._add_readers():
            reader.start()
        for reader in self._readers:
            reader.until = self._end_of(reader.topic, reader.partition)
        self._until(
            lambda: all(reader.finished for reader in self._readers), _DRAIN_S, "readers-stuck"
        )

    def _settle(self) -> None:
        """Wait until every partition is led and in agreement, with an operator's help where the
        rules demand it: where replicas lost their places while the bad disk took another's."""
        end = self._world.loop.now + _UNAIDED_S
        while not self._settled() and self._world.loop.now < end:
            self._world.run_for(_STEP_S)
        for topic_id, name in self._invariants.topic_names.items():
            plan = next((one for one in self._plan.topics if one.name == name), None)
            for number in range(plan.partitions if plan is not None else 0):
                key = (topic_id, number)
                if self._promises.needs_operator(key) and self._leader_of(name, number) is None:
                    self._injector.tell(f"an operator has a leader of {name}-{number} elected")
                    self._promises.operator_elects(key)
                    self._excuse()
                    self._operator.elect_unclean(*key)
        self._until(self._settled, _DRAIN_S, "not-settled")

    def _until(self, condition: Callable[[], bool], limit_s: float, otherwise: str) -> None:
        loop = self._world.loop
        end = loop.now + limit_s
        while not condition():
            if loop.now >= end:
                raise Violation(otherwise, self._state())
            self._world.run_for(_STEP_S)

    def _state(self) -> str:
        lines = [
            f"{machine.host}: {replica.state}"
            for machine in self._world.brokers
            if machine.serves
            for replica in machine.app.hosted.replicas.values()
        ]
        lines += [
            f"reader of {reader.topic}-{reader.partition} at {reader.next_offset} of "
            f"{reader.until}: {reader.last_error}"
            for reader in self._readers
            if not reader.finished
        ]
        serving = [machine for machine in self._world.brokers if machine.serves]
        if serving:
            image = max((one.view.image for one in serving), key=lambda one: one.version)
            lines += [
                f"image: {topic.name}-{state}"
                for topic in image.topics.values()
                for state in topic.partitions
                if state.leader_id is None
            ]
            lines += [f"image: {node}" for node in image.nodes.values() if not node.may_lead]
        lines += [
            f"{machine.host} runs {machine.process.name if machine.running else None}"
            for machine in self._world.machines
        ]
        lines += [
            f"{machine.host} gave up: {machine.gave_up!r}"
            for machine in self._world.machines
            if machine.gave_up is not None
        ]
        return "\n    ".join(lines)

    def _leader_of(self, topic: str, partition: int) -> Any:
        """The replica that leads by the newest image; None if it does not serve yet."""
        serving = [machine for machine in self._world.brokers if machine.serves]
        if not serving:
            return None
        image = max((machine.view.image for machine in serving), key=lambda one: one.version)
        found = image.topic(topic)
        if found is None or partition >= len(found.partitions):
            return None
        state = found.partitions[partition]
        for machine in serving:
            replica = machine.app.hosted.replicas.get((found.topic_id, partition))
            if (
                machine.node_id == state.leader_id
                and replica is not None
                and replica.state.role is Role.LEADING
                and replica.state.leader_epoch == state.leader_epoch
            ):
                return replica
        return None

    def _settled(self) -> bool:
        for topic in self._plan.topics:
            for partition in range(topic.partitions):
                replica = self._leader_of(topic.name, partition)
                if replica is None or replica.state.high_watermark != replica.state.end_offset:
                    return False
                # All brokers run and reach one another by now (rule 38).
                if not replica.state.in_sync.committed >= set(replica.state.replicas):
                    return False
        return True

    def _end_of(self, topic: str, partition: int) -> int:
        replica = self._leader_of(topic, partition)
        if replica is None:
            raise Violation("not-settled", self._state())
        return int(replica.state.high_watermark)

    # Judging

    def _judge(self) -> None:
        self._invariants.look()
        self._invariants.look_at_logs()
        self._branches.note("producers_compared", self._invariants.producers_match_logs())
        self._branches.note("14: log cut to agree with its leader", self._invariants.truncations)
        keys: dict[Hashable, LogKey] = {self._name_of(key): key for key in self._promises.keys}
        excused = {
            send
            for send in self.history.sends
            if send.outcome is Outcome.OK and self._promises.excuses(keys[send.key], send)
        }
        deleted = {send for send in self.history.sends if self._is_deleted(send)}
        self._count_kept(excused, deleted)
        excused |= deleted
        outdone = {self._name_of(key) for key in self._invariants.excused}
        expectations = Expectations(excused=excused.__contains__, visible=self._is_visible)
        for anomaly in judge(self.history, expectations):
            if anomaly.name in _NEVER_EXCUSED or anomaly.key not in outdone:
                self._report.violations.append((anomaly.name, str(anomaly)))

    def _is_deleted(self, send: Send) -> bool:
        """True if an operator wanted the record deleted."""
        below = self._operator.deleted_below.get(cast("tuple[str, int]", send.key), 0)
        return send.offset is not None and send.offset < below

    def _count_kept(self, excused: set[Send], deleted: set[Send]) -> None:
        read = {
            (key, value)
            for poll in self.history.polls
            for key, reads in poll.reads.items()
            for _, value in reads
        }
        for send in self.history.sends:
            if send.outcome is Outcome.OK and send not in deleted:
                kept = self._report.kept.setdefault(send.durability, Kept())
                kept.acknowledged += 1
                if (send.key, send.value) not in read:
                    kept.lost += send not in excused
                    kept.lost_beyond_promise += send in excused

    def _name_of(self, key: tuple[bytes, int]) -> tuple[str, int]:
        return self._invariants.topic_names.get(key[0], ""), key[1]

    def _excuse(self) -> None:
        self._invariants.excused |= self._promises.broken()


def _topic_of(send: Send) -> str:
    topic, _ = cast("tuple[str, int]", send.key)
    return topic
