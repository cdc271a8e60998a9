"""What the simulator looks for is found where it is, and only there."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from millstream.record.batch import frame
from millstream_raft.image import Image, NodeState, PartitionState, TopicState
from millstream_server.broker.partition import Role
from millstream_server.v1 import metadata_command_pb2 as pb
from tests.checker.history import History
from tests.fakes.fetch_broker import stored_batch
from tests.fakes.memory_files import MemoryFiles
from tests.simulation.world.administration import Operator
from tests.simulation.world.checks import Invariants, Violation
from tests.simulation.world.clients import Reader
from tests.simulation.world.decisions import Decisions
from tests.simulation.world.plan import Fault, draw_plan
from tests.simulation.world.schedule import play
from tests.simulation.world.world import World, simulation

TOPIC_ID = bytes(16)
PARTITION = PartitionState(0, 1, 5, 9, (1, 2, 3), (1, 2, 3), min_isr=2)


def image(version: int, partition: PartitionState, fenced: tuple[int, ...] = ()) -> Image:
    """Three brokers, one partition."""
    nodes = {
        number: NodeState(
            node_id=number,
            epoch=number,
            incarnation_id=bytes([number]) * 16,
            roles=frozenset({"broker"}),
            host=f"b{number}",
            port=9092,
            rack="",
            version="",
            directory_id=bytes([number]) * 16,
            fenced=number in fenced,
            clean_shutdown=False,
            served_epoch=number,
            registered_version=1,
            session_timeout_ms=3_000,
        )
        for number in (1, 2, 3)
    }
    topic = TopicState("t", TOPIC_ID, internal=False, configs={}, partitions=(partition,))
    return Image(version=version, controller_epoch=4, nodes=nodes, topics={TOPIC_ID: topic})


def found(
    after: Image, *commands: pb.MetadataCommand, before: PartitionState = PARTITION
) -> set[str]:
    """Names of what is wrong with a step."""
    decisions = Decisions()
    entry = pb.MetadataEntry(controller_epoch=4, commands=commands)
    decisions.stepped(entry.SerializeToString(), image(1, before), after)
    return {name for name, _ in decisions.found}


FENCE_3 = pb.MetadataCommand(fence_node=pb.FenceNode(node_id=3, node_epoch=3))


def changed(*members: int, expected: int = 9, joiner: int = 0) -> pb.MetadataCommand:
    """A leader's change of the in-sync replicas; ``joiner`` is added under epoch 1."""
    added = [pb.ReplicaRegistration(node_id=joiner, node_epoch=1)] if joiner else []
    return pb.MetadataCommand(
        change_partition=pb.ChangePartition(
            topic_id=TOPIC_ID,
            partition=0,
            expected_partition_epoch=expected,
            in_sync_replica_ids=members,
            added=added,
        )
    )


def test_a_step_by_the_rules_is_fine() -> None:
    after = replace(PARTITION, partition_epoch=10, isr=(1, 2))
    assert found(image(2, after, (3,)), FENCE_3) == set()
    assert found(image(2, after), changed(1, 2)) == set()


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("fenced-in-sync", replace(PARTITION, partition_epoch=10)),
        ("partition-epoch-not-stepped", replace(PARTITION, isr=(1, 2))),
        ("leader-epoch-not-stepped", replace(PARTITION, partition_epoch=10, leader_id=2)),
        ("eligible-leaders-kept", replace(PARTITION, partition_epoch=10, isr=(1, 2), elr=(3,))),
        ("eligible-leader-lost", replace(PARTITION, partition_epoch=10, isr=(1,))),
    ],
)
def test_a_step_against_the_rules_is_named(name: str, after: PartitionState) -> None:
    assert name in found(image(2, after, (3,)), FENCE_3)


def test_a_leader_from_outside_is_named() -> None:
    before = replace(PARTITION, isr=(1, 2))
    after = replace(PARTITION, partition_epoch=10, leader_epoch=6, leader_id=3, isr=(2, 3))
    fence = pb.MetadataCommand(fence_node=pb.FenceNode(node_id=1, node_epoch=1))
    assert "leader-from-outside" in found(image(2, after, (1,)), fence, before=before)


def test_a_late_decision_and_a_joiner_of_before_are_named() -> None:
    before = replace(PARTITION, isr=(1, 2))
    after = replace(PARTITION, partition_epoch=10)
    assert found(image(2, after), changed(1, 2, 3, joiner=3), before=before) == {
        "ineligible-joiner"
    }
    after = replace(PARTITION, partition_epoch=10, isr=(1, 2))
    assert found(image(2, after), changed(1, 2, expected=8)) == {"stale-decision"}


def test_decisions_of_another_controller_and_repeats_are_named() -> None:
    decisions = Decisions()
    entry = pb.MetadataEntry(controller_epoch=3, commands=[changed(1, 2)])
    entry.request_id.session_id, entry.request_id.sequence = 7, 1
    for version in (1, 2):
        step = image(version, PARTITION), image(version + 1, PARTITION)
        decisions.stepped(entry.SerializeToString(), *step)
    assert {name for name, _ in decisions.found} == {"deposed-controller-obeyed", "executed-twice"}


def test_a_task_that_dies_unheard_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(operator: Operator, name: str) -> None:
        raise ValueError("nobody hears")

    monkeypatch.setattr(Operator, "_churn", fail)
    plan = replace(draw_plan(1, faults=False), lasts_s=4.0)
    report = play(plan.with_faults((Fault(2.5, "topic_churn", 0, 0, 0.5, 0.1),)))
    assert report.names == {"task-died"}


class Brokers:
    """Two brokers, each with one replica."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.logs: list[Any] = []
        self.brokers = [self._broker(host) for host in ("b1", "b2")]
        self.decisions = SimpleNamespace(newest=None, found=[])
        world: Any = SimpleNamespace(
            brokers=self.brokers, decisions=self.decisions, loop=SimpleNamespace(now=0.0)
        )
        self.invariants = Invariants(world, History())

    def _broker(self, host: str) -> Any:
        state = SimpleNamespace(
            role=Role.FOLLOWING, leader_epoch=0, high_watermark=1, end_offset=2, topic="t"
        )
        self.states.append(state)
        log = SimpleNamespace(failure=None, start_offset=0, end_offset=2)
        self.logs.append(log)
        recovery = SimpleNamespace(damaged_logs=0)
        return SimpleNamespace(
            host=host,
            node_id=int(host[1:]),
            serves=True,
            process=SimpleNamespace(name=f"{host}#1", host=host),
            view=SimpleNamespace(image=Image(version=0, controller_epoch=0), node_epoch=0),
            app=SimpleNamespace(
                hosted=SimpleNamespace(
                    replicas={(TOPIC_ID, 0): SimpleNamespace(state=state, log=log)}
                ),
                directory=SimpleNamespace(recovery=recovery),
            ),
        )

    def event(self, number: int | None) -> None:
        """A broker does something, or the simulator does."""
        process = None if number is None else self.brokers[number].process
        self.invariants.after_event(process)


def test_whoever_did_something_is_looked_at_at_once() -> None:
    one = Brokers()
    one.event(0)
    one.states[1].high_watermark = 3
    one.event(0)  # no doing of the other's
    with pytest.raises(Violation, match="hw-beyond-leo"):
        one.event(1)


def test_a_log_that_begins_beyond_its_end_is_found() -> None:
    one = Brokers()
    one.event(0)
    one.logs[0].start_offset = 3
    with pytest.raises(Violation, match="start-beyond-end"):
        one.event(0)


@pytest.mark.parametrize("what", ["simulator", "decision", "acknowledgement"])
def test_what_concerns_all_has_all_looked_at(what: str) -> None:
    one = Brokers()
    one.event(0)
    one.states[1].high_watermark = 3
    if what == "decision":
        one.decisions.newest = Image(version=1, controller_epoch=0)
    if what == "acknowledgement":
        one.invariants.acknowledge(("t", 0), 1)
    with pytest.raises(Violation, match="hw-beyond-leo"):
        one.event(None if what == "simulator" else 0)


class OneLog:
    """A world with one broker that leads one partition, as far as logs are looked at."""

    def __init__(self) -> None:
        self.disk = MemoryFiles()
        self.disk.make_directory("/log")
        self._file = self.disk.open("/log/0.log", create=True)
        self._log = SimpleNamespace(
            path="/log", failure=None, generation=0, written_end_offset=0, start_offset=0
        )
        state = SimpleNamespace(role=Role.LEADING, topic="t", high_watermark=0)
        replicas = {(TOPIC_ID, 0): SimpleNamespace(log=self._log, state=state)}
        app = SimpleNamespace(hosted=SimpleNamespace(replicas=replicas))
        process = SimpleNamespace(name="b1#1")
        broker = SimpleNamespace(serves=True, host="b1", process=process, disk=self.disk, app=app)
        world: Any = SimpleNamespace(brokers=[broker])
        self.invariants = Invariants(world, History())

    def delete_before(self, offset: int) -> None:
        """Records are deleted; the files stay."""
        self._log.start_offset = offset

    def write(self, base_offset: int) -> None:
        """Append a batch of one record."""
        data = frame(stored_batch([b"value"], base_offset=base_offset))
        self._file.write(self._file.size(), [data])
        self._log.written_end_offset = base_offset + 1


@pytest.mark.parametrize("looks_between", [False, True])
def test_a_gap_between_offsets_is_found_wherever_the_last_look_ended(
    *, looks_between: bool
) -> None:
    one = OneLog()
    one.write(0)
    one.write(1)
    if looks_between:
        one.invariants.look_at_logs()
    one.write(3)
    with pytest.raises(Violation, match="offsets-not-dense"):
        one.invariants.look_at_logs()


@pytest.mark.parametrize("start", [3, 4])
def test_what_was_deleted_between_two_looks_is_no_gap(start: int) -> None:
    one = OneLog()
    one.write(0)
    one.invariants.look_at_logs()
    one.write(3)
    one.delete_before(start)
    one.invariants.look_at_logs()
    one.write(5)
    with pytest.raises(Violation, match="offsets-not-dense"):
        one.invariants.look_at_logs()


@pytest.mark.parametrize(("mark", "noted"), [(2, []), (1, ["read-above-mark"])])
def test_what_is_read_above_the_mark_is_noted(mark: int, noted: list[str]) -> None:
    entry = SimpleNamespace(
        error=0,
        batches=[stored_batch([b"1.1", b"1.2"], base_offset=0)],
        high_watermark=mark,
    )
    history = History()
    with simulation(lambda: World(1)) as world:
        reader = Reader(world, history, 1, "t", 0)
        reader.take(SimpleNamespace(partitions=[entry]))
    assert [name for name, _ in history.noted] == noted


def test_rot_is_read_again_and_found() -> None:
    plan = replace(draw_plan(1, faults=False, replication_factor=3), lasts_s=6.0)
    report = play(plan.with_faults((Fault(4.0, "rot", 1, 1, 0.1, 0.3),)))
    assert report.violations == []
    assert report.branches["34: recovery found rot"]
