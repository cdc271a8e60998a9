"""Keeps the in-sync sets of the partitions led here: asks the controller for what should change.

Proposals of many partitions travel together, one request at a time. A request whose fate is not
known leaves its proposals standing until the image passes them (KIP-497); asking again against the
same partition epoch is harmless, since at most one of them can be accepted.
"""

import asyncio
import contextlib
from typing import NamedTuple

import structlog

from millstream_raft.delta import Delta
from millstream_raft.image import Image
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.replica import Replica
from millstream_server.broker.replication.in_sync_changes import Brokers, wanted_in_sync
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb

_log = structlog.get_logger()
_PROPOSALS_MAX = 1_000
# Nothing of the request was done; after any other error that is not known.
_DEFINITE = frozenset({"INVALID_REQUEST", "STALE_NODE_EPOCH", "UNSUPPORTED"})
# The partition is at a newer epoch, or the controller at an older one: as far as anybody can tell,
# an earlier try of this very call took effect, whose answer was lost on the way (invariant 8).
_UNDECIDED = frozenset({"FENCED_LEADER_EPOCH", "INVALID_UPDATE_VERSION", "NOT_CONTROLLER"})
_Key = tuple[bytes, int]


class _Proposal(NamedTuple):
    replica: Replica
    leader_epoch: int
    partition_epoch: int
    members: tuple[int, ...]


class InSyncKeeper:
    """See the module's docstring. Everything runs on the event loop."""

    def __init__(self, hosted: HostedPartitions) -> None:
        self._hosted = hosted
        self._config = hosted.config
        # Led partitions to look at, in the order in which they came up.
        self._due: dict[Replica, None] = {}
        # Partitions whose last proposal was no success: not before this time, monotonic.
        self._held_until_ms: dict[Replica, int] = {}
        self._wake = asyncio.Event()
        self._look_at_all = True
        # In-sync sets as last seen in the image.
        self._known: dict[_Key, frozenset[int]] = {}
        self._brokers_of: tuple[Image | None, Brokers] = (None, Brokers({}))

    # News

    def candidate_reported(self, replica: Replica) -> None:
        """See ``CandidateWatch``: the high watermark waits for one that joins from now on, and it
        is asked into the set, or out of it, as soon as it may be."""
        state = replica.state
        if not state.leading:
            return
        self._look(replica)
        if not state.in_sync.proposed or state.in_sync.in_doubt:
            self._due[replica] = None
            self._wake.set()

    def image_changed(self, delta: Delta) -> None:
        """Count what changed, and look who may join now. A subscriber of the cluster."""
        for key in delta.changed_partitions:
            self._count(key, delta.image)
        for topic in delta.removed_topics:
            for partition in topic.partitions:
                self._known.pop((topic.topic_id, partition.number), None)
        if delta.changed_node_ids:
            self._look_at_all = True
            self._wake.set()

    def _count(self, key: _Key, image: Image) -> None:
        state = image.partition(*key)
        node_id = self._hosted.node_id
        if state is None or node_id not in state.replicas:
            self._known.pop(key, None)
            return
        before = self._known.get(key)
        members = self._known[key] = frozenset(state.isr)
        if before is not None and state.leader_id == node_id:
            self._hosted.counters.isr_shrinks += bool(before - members)
            self._hosted.counters.isr_expands += bool(members - before)

    # Looking

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        interval_s = self._config.in_sync_check_ms / 1000
        next_look_s = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_look_s):
                    await self._wake.wait()
            self._wake.clear()
            now_s = loop.time()
            if self._look_at_all or now_s >= next_look_s:
                self._look_at_all = False
                next_look_s = now_s + interval_s
                self.look_at_all()
            while batch := self._collect():
                await self._propose(batch)

    def look_at_all(self) -> None:
        """Note who lags and who has caught up, everywhere."""
        now_ms = self._hosted.clock.monotonic_ms()
        self._held_until_ms = {
            replica: until_ms
            for replica, until_ms in self._held_until_ms.items()
            if until_ms > now_ms
        }
        for replica in tuple(self._hosted.replicas.values()):
            if replica.state.leading and len(replica.state.replicas) > 1:
                self._look(replica)
                self._due[replica] = None

    def _look(self, replica: Replica) -> None:
        replica.deliver(
            replica.state.look_at_followers(
                self._brokers().eligible,
                self._hosted.clock.monotonic_ms(),
                self._config.replica_lag_time_ms_max,
            )
        )

    def _brokers(self) -> Brokers:
        """By the newest image."""
        image, brokers = self._brokers_of
        newest = self._hosted.cluster.image
        if image is not newest:
            brokers = Brokers.of(newest)
            self._brokers_of = (newest, brokers)
        return brokers

    # Asking

    def _collect(self) -> list[_Proposal]:
        """Proposals for what is due; those held back for a while come up at the next look."""
        now_ms = self._hosted.clock.monotonic_ms()
        brokers = self._brokers()
        batch: list[_Proposal] = []
        while self._due and len(batch) < _PROPOSALS_MAX:
            replica = next(iter(self._due))
            del self._due[replica]
            state = replica.state
            standing = state.in_sync.proposed and not state.in_sync.in_doubt
            if not state.leading or standing or self._held_until_ms.get(replica, 0) > now_ms:
                continue
            members = wanted_in_sync(state, brokers, now_ms, self._config.replica_lag_time_ms_max)
            if members is not None:
                epoch = state.propose_in_sync(members)
                batch.append(_Proposal(replica, state.leader_epoch, epoch, members))
        return batch

    async def _propose(self, batch: list[_Proposal]) -> None:
        request = pb.ExecuteRequest(
            alter_partitions=pb.AlterPartitions(
                node_id=self._hosted.node_id,
                node_epoch=self._hosted.cluster.node_epoch,
                proposals=[self._encode(proposal) for proposal in batch],
            )
        )
        try:
            response = await self._hosted.cluster.execute(
                request, timeout_ms=self._config.in_sync_timeout_ms
            )
        except ServiceError as error:
            _log.warning("in-sync sets not changed", partitions=len(batch), error=str(error))
            for proposal in batch:
                self._failed(proposal, definite=error.reason in _DEFINITE)
            return
        answers = {
            (answer.topic_id, answer.partition): answer
            for answer in response.altered_partitions.partitions
        }
        for proposal in batch:
            state = proposal.replica.state
            answer = answers.get((state.topic_id, state.number))
            if answer is None:
                self._failed(proposal, definite=False)
            elif answer.reason:
                _log.info("in-sync set not changed", partition=str(state), reason=answer.reason)
                self._failed(proposal, definite=answer.reason not in _UNDECIDED)
            else:
                _log.info("in-sync set changed", partition=str(state), members=proposal.members)
                self._hold(proposal)  # should an earlier one be in doubt still

    def _encode(self, proposal: _Proposal) -> pb.InSyncProposal:
        state = proposal.replica.state
        nodes = self._hosted.cluster.image.nodes
        members = []
        for node_id in proposal.members:
            if node_id == self._hosted.node_id:
                epoch = self._hosted.cluster.node_epoch
            else:
                known = state.followers.node_epoch(node_id)
                epoch = known or (nodes[node_id].epoch if node_id in nodes else 0)
            members.append(pb.InSyncMember(node_id=node_id, node_epoch=epoch))
        return pb.InSyncProposal(
            topic_id=state.topic_id,
            partition=state.number,
            leader_epoch=proposal.leader_epoch,
            partition_epoch=proposal.partition_epoch,
            members=members,
        )

    def _failed(self, proposal: _Proposal, *, definite: bool) -> None:
        in_sync = proposal.replica.state.in_sync
        if definite:
            in_sync.withdraw(proposal.partition_epoch)
        else:
            in_sync.doubt(proposal.partition_epoch)
        self._hold(proposal)

    def _hold(self, proposal: _Proposal) -> None:
        """Ask no more for a while, unless the image has passed the proposal meanwhile."""
        if proposal.replica.state.in_sync.partition_epoch == proposal.partition_epoch:
            now_ms = self._hosted.clock.monotonic_ms()
            self._held_until_ms[proposal.replica] = now_ms + self._config.in_sync_retry_ms
