"""What must hold at every moment, read from the state of all nodes (rules 1, 2, 6, 9, 10, 16, 17,
19, 20 and 22 of the design). Nothing here asks production code whether all is well.
"""

from collections.abc import Iterator
from typing import Any

from millstream_raft.image import FLUSH_FSYNC, Image, PartitionState
from millstream_server.broker.partition import Role
from millstream_server.storage.producers import ProducerTable
from tests.checker.history import History
from tests.simulation.world.logs_on_disk import LogKey, LogScan, StoredBatch
from tests.simulation.world.nodes import BrokerMachine
from tests.simulation.world.process import Process
from tests.simulation.world.world import World

LOGS_EVERY_S = 0.5
# Two clocks may be so far apart after a session.
_CLOCKS_APART_S = 0.005


class Violation(Exception):
    """A rule was broken. ``name`` is the kind."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Invariants:
    """Looks after every event at the broker that did something, and at all brokers after one that
    concerns all; at their logs twice a second."""

    def __init__(self, world: World, history: History) -> None:
        self._world = world
        self._history = history
        self._brokers = {machine.host: machine for machine in world.brokers}
        self._logs_at = 0.0
        # What all brokers were looked at with.
        self._newest: Image | None = None
        self._acknowledged_moved = False
        # Keys whose acknowledged records may be lost: their promise was outdone.
        self.excused: set[LogKey] = set()
        # Brokers on whose disks something was damaged: their files prove nothing.
        self.rotten_hosts: set[str] = set()
        # The one whose disk fails: what it reads back proves nothing either.
        self.bad_disk: str | None = None
        # Logs that were cut or begun anew.
        self.truncations = 0
        # Topic ids by name, for the history's keys.
        self.topic_names: dict[bytes, str] = {}
        # (key, leader epoch) → the broker that leads in it.
        self._leaders: dict[tuple[LogKey, int], int] = {}
        # (key, partition epoch) → the partition's state: the same in every image.
        self._states: dict[tuple[LogKey, int], PartitionState] = {}
        self._images: dict[str, Image] = {}
        # Of each process: (LE, HW) per key.
        self._marks: dict[tuple[str, LogKey], tuple[int, int]] = {}
        self._known: dict[tuple[str, LogKey], Any] = {}
        # What is below any high watermark, for ever: key → base offset → batch.
        self._committed: dict[LogKey, dict[int, StoredBatch]] = {}
        # Every batch by (key, base offset, leader epoch).
        self._matching: dict[tuple[LogKey, int, int], StoredBatch] = {}
        self._scans: dict[tuple[str, LogKey], LogScan] = {}
        # How far each scan was compared with what is committed.
        self._compared: dict[tuple[str, LogKey], int] = {}
        self.acknowledged_end: dict[tuple[str, int], int] = {}
        # Hosts that were fenced, and since when they were seen to believe in their session.
        self._fenced_at: dict[str, float] = {}
        self.replicas_looked_at = 0

    def after_event(self, process: Process | None) -> None:
        """A process did something, or the simulator did. Raises Violation."""
        concerns_all = process is None or self._acknowledged_moved
        if concerns_all or self._newest is not self._world.decisions.newest:
            self.look()
        elif process is not None and process.host in self._brokers:
            machine = self._brokers[process.host]
            if machine.process is process and machine.serves:
                self._look_at(machine)
        if self._world.loop.now - self._logs_at >= LOGS_EVERY_S:
            self._logs_at = self._world.loop.now
            self.look_at_logs()

    def acknowledge(self, key: tuple[str, int], end: int) -> None:
        """What is below an offset was acknowledged and can be read."""
        if end > self.acknowledged_end.get(key, 0):
            self.acknowledged_end[key] = end
            self._acknowledged_moved = True

    def _serving(self) -> Iterator[BrokerMachine]:
        return (machine for machine in self._world.brokers if machine.serves)

    # Images and states

    def look(self) -> None:
        """Everything: every decision, every image that is new, every replica."""
        self._newest = self._world.decisions.newest
        self._acknowledged_moved = False
        for kind, text in self._world.decisions.found:
            raise Violation(kind, text)
        for machine in self._serving():
            self._look_at(machine)

    def _look_at(self, machine: BrokerMachine) -> None:
        assert machine.process is not None
        name = machine.process.name
        image = machine.view.image
        known = self._images.get(name)
        if image is not known:
            self._look_at_image(name, known, image)
            self._images[name] = image
        for key, replica in machine.app.hosted.replicas.items():
            self._look_at_replica(machine, name, key, replica)
        sound = machine.host not in self.rotten_hosts and machine.host != self.bad_disk
        if sound and machine.app.directory.recovery.damaged_logs:
            raise Violation("rot-on-sound-disk", machine.host)
        if self._newest is not None:
            self._look_at_member(machine, self._newest)

    def _look_at_member(self, machine: BrokerMachine, newest: Image) -> None:
        """Whoever may be elected holds what was acknowledged (rule 17); whoever was fenced knows
        it before long (rule 3)."""
        node = newest.nodes.get(machine.node_id)
        if node is None or machine.view.node_epoch != node.epoch:
            self._fenced_at.pop(machine.host, None)
            return
        own = machine.view.image.nodes.get(machine.node_id)
        knows = own is None or own.fenced or own.shutting_down
        self._look_at_session(machine, node.fenced and not knows)
        if machine.host in self.rotten_hosts:
            return
        for key, replica in machine.app.hosted.replicas.items():
            end = self.acknowledged_end.get((self.topic_names.get(key[0], ""), key[1]), 0)
            log = replica.log
            if log.synced_end_offset >= end or key in self.excused:
                continue
            state = newest.partition(*key)
            if state is None:
                continue
            # Who joined had synced it all (rule 12); of the others this is known once they lost
            # what they had in memory.
            fsync = state.flush_mode == FLUSH_FSYNC
            joined = (*key, machine.node_id) in self._world.decisions.joined
            if not (fsync and joined) and log.end_offset >= end:
                continue
            if machine.node_id in (*state.isr, *state.elr):
                text = f"{machine.host} lacks what was acknowledged below {end}: "
                raise Violation("member-incomplete", f"{text}{replica.state}; {state}")

    def _look_at_session(self, machine: BrokerMachine, fenced: bool) -> None:
        now = self._world.loop.now
        assert machine.process is not None
        if not fenced or machine.process.paused or not machine.view.in_session():
            self._fenced_at.pop(machine.host, None)
        elif now - self._fenced_at.setdefault(machine.host, now) > _CLOCKS_APART_S:
            raise Violation("session-too-long", f"{machine.host} was fenced and does not stop")

    def _look_at_image(self, name: str, known: Image | None, image: Image) -> None:
        if known is not None and image.version < known.version:
            raise Violation("image-back", f"{name} went from {known.version} to {image.version}")
        for topic in image.topics.values():
            before = known.topics.get(topic.topic_id) if known is not None else None
            if before is topic:
                continue
            self.topic_names[topic.topic_id] = topic.name
            for partition in topic.partitions:
                self._look_at_partition((topic.topic_id, partition.number), partition, topic.name)

    def _look_at_partition(self, key: LogKey, state: PartitionState, topic: str) -> None:
        epoch = (key, state.partition_epoch)
        other = self._states.get(epoch)
        if other is None:
            self._states[epoch] = state
            before = self._states.get((key, state.partition_epoch - 1))
            if before is not None and before.leader_epoch > state.leader_epoch:
                raise Violation("leader-epoch-back", f"{topic}-{key[1]}: {before} then {state}")
        elif other != state:
            raise Violation("metadata-diverged", f"{topic}-{key[1]}: {other} and {state}")
        else:
            return
        replicas = set(state.replicas)
        if set(state.isr) & set(state.elr):
            raise Violation("isr-and-elr", f"{topic}-{key[1]}: {state}")
        if not set(state.isr) | set(state.elr) <= replicas:
            raise Violation("isr-not-replicas", f"{topic}-{key[1]}: {state}")
        if state.leader_id is not None and state.leader_id not in state.isr:
            raise Violation("leader-not-in-isr", f"{topic}-{key[1]}: {state}")

    def _look_at_replica(
        self, machine: BrokerMachine, name: str, key: LogKey, replica: Any
    ) -> None:
        self.replicas_looked_at += 1
        state = replica.state
        if state.high_watermark > state.end_offset:
            raise Violation("hw-beyond-leo", f"{machine.host}: {state}")
        log = replica.log
        if log.failure is None and log.start_offset > log.end_offset:
            raise Violation("start-beyond-end", f"{machine.host}: {state} from {log.start_offset}")
        mark = (state.leader_epoch, state.high_watermark)
        before = self._marks.get((name, key))
        if before == mark and state.role is not Role.LEADING:
            return
        self._marks[name, key] = mark
        # A replica that was moved away and back is another one, as after a restart: what is
        # committed it learns anew.
        same = self._known.get((name, key)) is replica
        self._known[name, key] = replica
        if before is not None:
            if before[0] > mark[0]:
                raise Violation("leader-epoch-back", f"{name}: {before} then {state}")
            # A copy that began anew begins once more, if the leader's log begins within a batch.
            empty = log.start_offset == log.end_offset == mark[1]
            back = before[0] == mark[0] and mark[1] < before[1] and not empty
            if back and same and key not in self.excused:
                raise Violation("hw-back", f"{name}: {before} then {state}")
        if state.role is Role.LEADING:
            self._look_at_leader(machine, key, state)

    def _look_at_leader(self, machine: BrokerMachine, key: LogKey, state: Any) -> None:
        leader = self._leaders.setdefault((key, state.leader_epoch), machine.node_id)
        if leader != machine.node_id:
            text = f"{leader} and {machine.node_id}: {state}"
            raise Violation("two-leaders", text)
        if key in self.excused:
            return
        acknowledged = self.acknowledged_end.get((self.topic_names.get(key[0], ""), key[1]), 0)
        if state.end_offset < acknowledged and self._is_newest(key, state.leader_epoch):
            text = f"{machine.host} lacks what was acknowledged below {acknowledged}: {state}"
            raise Violation("leader-incomplete", text)

    def _is_newest(self, key: LogKey, leader_epoch: int) -> bool:
        """A deposed leader that does not know it may lack what its successor acknowledged."""
        return not any(epoch > leader_epoch for other, epoch in self._leaders if other == key)

    # Logs

    def look_at_logs(self) -> None:
        """Compare what stands in the files of all running brokers."""
        for machine in self._serving():
            assert machine.process is not None
            name = machine.process.name
            for key, replica in machine.app.hosted.replicas.items():
                sound = replica.log.failure is None and machine.host not in self.rotten_hosts
                if sound and replica.state.role is not Role.IDLE:
                    self._look_at_log(machine, name, key, replica)

    def _look_at_log(self, machine: BrokerMachine, name: str, key: LogKey, replica: Any) -> None:
        scan = self._scans.setdefault((name, key), LogScan())
        generation = scan.generation
        new = scan.take(machine.disk, replica.log)
        if generation != scan.generation:
            self.truncations += generation >= 0
            self._compared[name, key] = 0
        where = f"{machine.host} {replica.state.topic}-{key[1]}"
        for batch in new:
            twin = self._matching.setdefault((key, batch.base_offset, batch.leader_epoch), batch)
            # Also where records were lost: nobody leads twice in one epoch.
            if twin != batch:
                raise Violation("log-matching", f"{where}: {twin} and {batch}")
        before = None
        # From the last one known before.
        for batch in scan.batches[max(0, len(scan.batches) - len(new) - 1) :]:
            # What was deleted since the last time was not looked at.
            deleted = batch.base_offset <= replica.log.start_offset
            if before is not None and batch.base_offset != before.next_offset and not deleted:
                raise Violation("offsets-not-dense", f"{where}: {before} then {batch}")
            before = batch
        if key in self.excused:
            return
        committed = self._committed.setdefault(key, {})
        done = self._compared.get((name, key), 0)
        while done < len(scan.batches):
            batch = scan.batches[done]
            if batch.next_offset > replica.state.high_watermark:
                break
            known = committed.setdefault(batch.base_offset, batch)
            if known != batch:
                raise Violation("committed-changed", f"{where}: {known} became {batch}")
            done += 1
        self._compared[name, key] = done

    def producers_match_logs(self) -> int:
        """Producer state is a function of the log (rule 22); returns how many were compared."""
        compared = 0
        for machine in self._serving():
            assert machine.process is not None
            for replica in machine.app.hosted.replicas.values():
                log = replica.log
                scan = LogScan()
                if log.failure is not None or machine.host in self.rotten_hosts:
                    continue
                scan.take(machine.disk, log)
                table = ProducerTable()
                for header in scan.headers:
                    table.apply(header)
                end, written = log.written_state()
                if end == (scan.batches[-1].next_offset if scan.batches else log.start_offset):
                    compared += len(table)
                    if not _agree(table, written, log.start_offset):
                        text = f"{machine.host} {replica.state}: {list(table)} {list(written)}"
                        raise Violation("producers-differ", text)
        return compared


def _agree(stored: ProducerTable, known: ProducerTable, start_offset: int) -> bool:
    """True if what a log knows of its producers is what the batches that it holds tell. What was
    deleted may be known or forgotten."""
    if not start_offset:
        return list(stored) == list(known)
    for producer_id, state in stored:
        if state.last_offset < start_offset:
            continue
        other = known.get(producer_id)
        if other is None or other.epoch != state.epoch:
            return False
        if other.batches[-len(state.batches) :] != state.batches:
            return False
    return True
