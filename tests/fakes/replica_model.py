"""One partition on four brokers: the real decisions and commands, and logs that are lists.

The leader appends, followers copy, and acknowledged is what all in-sync replicas have, at least
the minimum of them. What a crash takes from a log depends on what was synced. So it can be said of
every image whether the replicas that it lets lead hold everything acknowledged (invariants 5, 7, 8
and 17). Broker and leader act at once on every image; messages on their way are not modelled.
"""

import contextlib
import random

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.decide import decide
from millstream_raft.decide_nodes import decide_registration
from millstream_raft.decide_reassignments import decommissioning
from millstream_raft.decision import ClusterDefaults
from millstream_raft.delta import RECOVERED, Delta
from millstream_raft.image import FLUSH_FSYNC, PartitionState
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.image_checks import check_image, check_step
from tests.fakes.replica_logs import Broker, Record, common_length, end_of

TOPIC = images.topic_id(1)
BROKERS = (1, 2, 3, 4)
_DEFAULTS = ClusterDefaults()


class ReplicaModel:
    """Take steps with ``step``; everything is checked after each."""

    def __init__(self, seed: int, *, flush_mode: str, replicas: int, min_isr: int) -> None:
        self.random = random.Random(seed)
        image = images.image_with(*BROKERS)
        self.image = images.after(
            image, images.add_topic(1, BROKERS[:replicas], min_isr=min_isr, flush_mode=flush_mode)
        )
        self.brokers = {
            one: Broker(one, directory=one, epoch=image.nodes[one].epoch) for one in BROKERS
        }
        self.acknowledged: list[Record] = []
        self.records = 0
        self.epoch_start = 0
        self._always_fsync = flush_mode == FLUSH_FSYNC
        # The steps so far, how often each changed something, and elections by kind.
        self.path: list[str] = []
        self.taken: dict[str, int] = {}
        self.elections: dict[str, int] = {}
        self._steps = {
            name.removeprefix("_do_"): getattr(self, name)
            for name in sorted(dir(self))
            if name.startswith("_do_")
        }

    @property
    def partition(self) -> PartitionState:
        """As the image has it."""
        return self.image.topics[TOPIC].partitions[0]

    @property
    def leader(self) -> Broker | None:
        """The leader, if its process runs."""
        leader_id = self.partition.leader_id
        if leader_id is None or not self.brokers[leader_id].running:
            return None
        return self.brokers[leader_id]

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of all steps."""
        return tuple(self._steps)

    def step(self) -> None:
        """One random step, its consequences, and all checks."""
        weights = [_WEIGHTS.get(name, 3) for name in self._steps]
        (name,) = self.random.choices(list(self._steps), weights)
        self.path.append(name)
        before = self._fingerprint()
        self._steps[name]()
        if before != self._fingerprint():
            self.taken[name] = self.taken.get(name, 0) + 1
        self._acknowledge()
        self._check_logs()

    def _fingerprint(self) -> object:
        disks = [(one.running, len(one.log), one.synced) for one in self.brokers.values()]
        return self.image.version, disks

    def _do_produce(self) -> None:
        if (leader := self.leader) is not None and leader.healthy:
            self.records += 1
            leader.log.append((self.partition.leader_epoch, self.records))
            leader.followed_epoch = self.partition.leader_epoch

    def _do_sync(self) -> None:
        broker = self._any_broker()
        if broker.running and broker.healthy:
            broker.synced = len(broker.log)

    def _do_copy(self) -> None:
        leader, follower = self.leader, self._any_broker()
        if leader is None or follower is leader or not follower.running or not follower.healthy:
            return
        if follower.node_id not in self.partition.replicas:
            return
        same = common_length(leader.log, follower.log)
        del follower.log[same:]
        follower.synced = min(follower.synced, same)
        end = self.random.randint(same, len(leader.log))
        follower.log += leader.log[same : max(end, self.random.choice((end, len(leader.log))))]
        follower.followed_epoch = self.partition.leader_epoch
        if self.random.random() < 0.7:
            follower.synced = len(follower.log)

    def _do_expand(self) -> None:
        leader = self.leader
        if leader is None or self.partition.recovering:
            self._propose(self.partition.isr)
            return
        joiners = [
            one for one in self.partition.replicas if self._may_join(self.brokers[one], leader)
        ]
        if joiners:
            self._propose((*self.partition.isr, self.random.choice(joiners)))

    def _do_shrink(self) -> None:
        others = [one for one in self.partition.isr if one != self.partition.leader_id]
        if others and self.leader is not None:
            gone = self.random.choice(others)
            self._propose(tuple(one for one in self.partition.isr if one != gone))

    def _do_kill(self) -> None:
        self._any_broker().running = False

    def _do_stop(self) -> None:
        broker = self._any_broker()
        node = self.image.nodes[broker.node_id]
        if broker.running and not node.fenced:
            drain = command_pb.DrainNode(node_id=node.node_id, node_epoch=node.epoch)
            self._commit(images.command(drain_node=drain))
            broker.running, broker.clean, broker.synced = False, True, len(broker.log)

    def _do_fence(self) -> None:
        broker = self._any_broker()
        if not broker.running and not self.image.nodes[broker.node_id].fenced:
            self._commit(images.fence(self.image, broker.node_id))

    def _do_fence_a_live_one(self) -> None:
        node = self.image.nodes[self._any_broker().node_id]
        if not node.fenced:
            self._commit(images.fence(self.image, node.node_id))

    def _do_unfence(self) -> None:
        for broker in self.brokers.values():
            node = self.image.nodes[broker.node_id]
            if broker.running and node.fenced and not node.shutting_down:
                self._commit(images.unfence(self.image, broker.node_id))

    def _do_restart(self) -> None:
        broker = self._any_broker()
        if not broker.running and self.image.nodes[broker.node_id].fenced:
            self._start(broker, power_cut=False)

    def _do_restart_after_power_cut(self) -> None:
        broker = self._any_broker()
        if not broker.running and self.image.nodes[broker.node_id].fenced:
            self._start(broker, power_cut=not broker.clean)

    def _do_cut_power_of_all(self) -> None:
        if self.random.random() < 0.2:
            for broker in self.brokers.values():
                broker.running = False
                if not self.image.nodes[broker.node_id].fenced:
                    self._commit(images.fence(self.image, broker.node_id))
            for broker in self.brokers.values():
                self._start(broker, power_cut=not broker.clean)

    def _do_replace_disk(self) -> None:
        broker = self._any_broker()
        if not broker.running and self.image.nodes[broker.node_id].fenced:
            broker.log, broker.synced, broker.epoch, broker.clean = [], 0, 0, False
            broker.directory += 100
            self._start(broker, power_cut=False)

    def _do_fail_disk(self) -> None:
        broker = self._any_broker()
        node = self.image.nodes[broker.node_id]
        if broker.running and self.random.random() < 0.3:
            broker.healthy = False
            offline = command_pb.TakeLogDirectoryOffline(
                node_id=node.node_id, node_epoch=node.epoch
            )
            self._commit(images.command(take_log_directory_offline=offline))

    def _do_damage(self) -> None:
        broker = self._any_broker()
        if broker.running and broker.log and self.random.random() < 0.3:
            del broker.log[self.random.randrange(len(broker.log)) :]
            broker.synced = min(broker.synced, len(broker.log))
            node = self.image.nodes[broker.node_id]
            log = pb.DamagedLog(topic_id=TOPIC, partition_epoch=self.partition.partition_epoch)
            self._execute(
                report_damaged_logs=pb.ReportDamagedLogs(
                    node_id=node.node_id,
                    node_epoch=node.epoch,
                    logs=[log],
                )
            )

    def _do_report(self) -> None:
        broker = self._any_broker()
        if broker.running:
            node = self.image.nodes[broker.node_id]
            log = pb.RecoveredLog(
                topic_id=TOPIC,
                last_epoch=broker.log[broker.synced - 1][0] if broker.synced else 0,
                synced_end_offset=broker.synced,
            )
            self._execute(
                report_recovered_logs=pb.ReportRecoveredLogs(
                    node_id=node.node_id, node_epoch=node.epoch, logs=[log]
                )
            )

    def _do_order(self) -> None:
        if self.random.random() < 0.2:
            kind = public.ELECTION_KIND_UNCLEAN
            target = public.ElectionTarget(topic_id=TOPIC)
            if self.random.random() < 0.5:
                target.replica_id = self.random.choice(BROKERS)
            self._execute(elect_leaders=public.ElectLeadersRequest(kind=kind, partitions=[target]))

    def _do_balance(self) -> None:
        kind = public.ELECTION_KIND_PREFERRED
        self._execute(elect_leaders=public.ElectLeadersRequest(kind=kind))

    def _do_move(self) -> None:
        target = self.random.sample(BROKERS, self.random.randint(0, 4))
        wanted = public.PartitionReassignment(topic_id=TOPIC, replica_ids=target)
        self._execute(
            alter_partition_reassignments=public.AlterPartitionReassignmentsRequest(
                partitions=[wanted]
            )
        )

    def _do_decommission(self) -> None:
        node_id, cancel = self.random.choice(BROKERS), self.random.random() < 0.7
        request = public.DecommissionBrokerRequest(node_id=node_id, cancel=cancel)
        self._execute(decommission_broker=request)
        commands = decommissioning(self.image, _DEFAULTS, 5)
        if commands:
            self._commit(*commands)

    def _do_configure(self) -> None:
        least = str(self.random.randint(1, len(self.partition.settled)))
        mode = self.random.choice((FLUSH_FSYNC, self.partition.flush_mode, "page_cache"))
        changes = {"min.insync.replicas": least, "flush.mode": mode}
        self._execute(alter_configs=public.AlterConfigsRequest(topic="topic-1", set=changes))

    def _any_broker(self) -> Broker:
        return self.brokers[self.random.choice(BROKERS)]

    def _end(self, broker: Broker) -> int:
        fsync = self.partition.flush_mode == FLUSH_FSYNC
        return broker.synced if fsync else len(broker.log)

    def _may_join(self, broker: Broker, leader: Broker) -> bool:
        return (
            broker.running
            and broker.healthy
            and broker.node_id not in self.partition.isr
            and broker.followed_epoch == self.partition.leader_epoch
            and self._end(broker) >= max(len(self.acknowledged), self.epoch_start)
        )

    def _propose(self, isr: tuple[int, ...]) -> None:
        leader = self.leader
        if leader is None or not isr:
            return
        node = self.image.nodes[leader.node_id]
        proposal = pb.InSyncProposal(
            topic_id=TOPIC,
            leader_epoch=self.partition.leader_epoch,
            partition_epoch=self.partition.partition_epoch,
            members=[
                pb.InSyncMember(node_id=one, node_epoch=self.image.nodes[one].epoch) for one in isr
            ],
        )
        self._execute(
            alter_partitions=pb.AlterPartitions(
                node_id=node.node_id, node_epoch=node.epoch, proposals=[proposal]
            )
        )

    def _start(self, broker: Broker, *, power_cut: bool) -> None:
        broker.incarnation += 1
        was_cut = False
        if power_cut and broker.synced < len(broker.log):
            del broker.log[self.random.randint(broker.synced, len(broker.log)) :]
            was_cut = self.random.random() < 0.5  # a tail may vanish without a trace
        broker.followed_epoch = -1
        registration = pb.Registration(
            cluster_id=self.image.cluster_id,
            node_id=broker.node_id,
            incarnation_id=broker.incarnation.to_bytes(16, "big"),
            roles=[1],
            directory_id=broker.directory.to_bytes(16, "big"),
            previous_epoch=broker.epoch,
            clean_shutdown=broker.clean,
            cut_logs=[command_pb.PartitionId(topic_id=TOPIC)] if was_cut else [],
        )
        self._commit(
            *decide_registration(
                self.image, registration, predecessor_is_dead=True, session_timeout_ms=1000
            )
        )
        broker.running, broker.healthy, broker.clean = True, True, False
        broker.epoch = self.image.nodes[broker.node_id].epoch
        broker.synced = len(broker.log)  # recovery syncs what it found

    def _execute(self, **kind: object) -> None:
        request = pb.ExecuteRequest(**kind)  # type: ignore[arg-type]
        with contextlib.suppress(Refused):
            decision = decide(self.image, request, topic_id=TOPIC, defaults=_DEFAULTS)
            if decision.commands:
                self._commit(*decision.commands)

    def _commit(self, *commands: command_pb.MetadataCommand) -> None:
        before, known = self.image, self.partition
        applied = images.apply(before, *commands)
        if applied.image is before:
            assert not commands, applied.result
            return
        check_step(before, applied.image, applied.delta)
        check_image(applied.image)
        self.image = applied.image
        for kind, count in applied.delta.elections.items():
            self.elections[kind] = self.elections.get(kind, 0) + count
        if self.partition.leader_epoch != known.leader_epoch:
            self._lead(applied.delta)
            if commands[0].HasField("note_recovered_log") and self.partition.leader_id is not None:
                ends = {one: end_of(self.brokers[one].log) for one in known.last_known_elr}
                assert ends[self.partition.leader_id] == max(ends.values()), "the longest leads"

    def _lead(self, delta: Delta) -> None:
        if self.partition.leader_id is None:
            return
        leader = self.brokers[self.partition.leader_id]
        leader.followed_epoch = self.partition.leader_epoch
        self.epoch_start = len(leader.log)
        for election in delta.lossy_elections:
            kept = common_length(leader.log, self.acknowledged)
            if election.kind == RECOVERED and self._always_fsync:
                assert kept == len(self.acknowledged), "what is synced everywhere is not lost"
            if not election.possible_loss:
                assert kept == len(self.acknowledged), "nobody was told of this loss"
            del self.acknowledged[kept:]

    def _acknowledge(self) -> None:
        leader, state = self.leader, self.partition
        if leader is None or not leader.healthy or len(state.isr) < state.min_isr:
            return
        members = [self.brokers[one] for one in state.isr]
        if all(one.followed_epoch == state.leader_epoch for one in members):
            end = min(self._end(one) for one in members)
            if end > len(self.acknowledged):
                self.acknowledged = leader.log[:end]

    def _check_logs(self) -> None:
        """Whoever may be elected cleanly holds everything acknowledged (invariants 5 and 17)."""
        if self.partition.flush_mode != FLUSH_FSYNC:
            self._always_fsync = False
        for node_id in (*self.partition.isr, *self.partition.elr):
            log = self.brokers[node_id].log
            assert log[: len(self.acknowledged)] == self.acknowledged, f"replica {node_id}"


_WEIGHTS = {
    "produce": 20,
    "copy": 30,
    "sync": 8,
    "expand": 15,
    "unfence": 12,
    "restart": 6,
    "restart_after_power_cut": 6,
    "report": 10,
}
