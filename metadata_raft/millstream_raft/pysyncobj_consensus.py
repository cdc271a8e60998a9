"""The metadata quorum in production: ``Consensus`` on PySyncObj, made safe by the layer around it.

::

    event loop                                   raft thread
    propose, barrier  --> ProposalQueue -------> RaftDriver -> RaftCore -> journal, vote, snapshot
    RaftServicer      --> RaftThread inbox ----> (filter)                  state machine
    Link, listener    <-- outcomes, in order <--

Outcomes cross to the loop in the order in which they happened, so a listener knows an entry before
the proposal that made it returns, and a change of leadership comes between the right entries.
"""

import asyncio
import contextlib
from collections.abc import Mapping

import grpc
import structlog

from millstream_raft.consensus import (
    CommitListener,
    ConsensusStatus,
    LeadershipCallback,
    NotProposed,
    OutcomeUnknown,
    StateMachine,
)
from millstream_raft.directory import RaftIdentity, check_directory
from millstream_raft.directory_errors import RaftDirectoryError
from millstream_raft.fail_stop import exit_process
from millstream_raft.group_commit import Proposal, ProposalQueue
from millstream_raft.journal import Journal
from millstream_raft.ports import Clock, FailStop, Files, Random
from millstream_raft.pysyncobj_core import RaftCore
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_driver import (
    Answered,
    Committed,
    LeadershipSeen,
    Leaving,
    MessageArrived,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    RaftDriver,
    Replica,
    Restored,
    Sent,
)
from millstream_raft.raft_messages import Envelope
from millstream_raft.raft_thread import RaftThread
from millstream_raft.rules import ALL_RULES, Rule
from millstream_raft.snapshot_file import SnapshotFile
from millstream_raft.transport import (
    ChannelFactory,
    Link,
    PeerCheck,
    RaftServicer,
    accept_any_peer,
    open_plaintext_channel,
)
from millstream_raft.vote import VoteFile
from millstream_server.v1 import raft_pb2 as wire
from millstream_server.v1 import raft_pb2_grpc

_log = structlog.get_logger()

SERVICE_NAME = wire.DESCRIPTOR.services_by_name["RaftService"].full_name


class PySyncObjConsensus:
    """See ``Consensus``. ``voters`` maps every voter's node id, this one's too, to host:port."""

    def __init__(
        self,
        node_id: int,
        voters: Mapping[int, str],
        directory: str,
        state_machine: StateMachine,
        *,
        cluster_id: str,
        files: Files,
        clock: Clock,
        random: Random,
        fail_stop: FailStop = exit_process,
        config: RaftConfig | None = None,
        channel_factory: ChannelFactory = open_plaintext_channel,
        peer_check: PeerCheck = accept_any_peer,
        rules: frozenset[Rule] = ALL_RULES,
    ) -> None:
        """Nothing is opened yet. Raises ValueError for a bad configuration."""
        self._config = config or RaftConfig()
        self._config.validate()
        if node_id not in voters:
            raise ValueError(f"node {node_id} is not among the voters {sorted(voters)}")
        self._node_id = node_id
        self._voters = dict(voters)
        self._peer_ids = tuple(sorted(voter for voter in voters if voter != node_id))
        self._identity = RaftIdentity(cluster_id, node_id, frozenset(voters))
        self._directory = directory
        self._state_machine = state_machine
        self._files, self._clock, self._random = files, clock, random
        self._fail_stop = fail_stop
        self._rules = rules
        self._channel_factory = channel_factory
        self._listener: CommitListener | None = None
        self._callbacks: list[LeadershipCallback] = []
        self._seen = LeadershipSeen(False, None, 0)
        self._status: ConsensusStatus | None = None
        # Set at the next change of leader.
        self._led = asyncio.Event()
        self._pending: set[Proposal] = set()
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver: RaftDriver | None = None
        self._links: dict[int, Link] = {}
        self._queue = ProposalQueue(
            waiting_entries_max=self._config.waiting_entries_max,
            waiting_bytes_max=self._config.waiting_bytes_max,
            batch_entries_max=self._config.batch_entries_max,
            batch_bytes_max=self._config.batch_bytes_max,
        )
        self._thread = RaftThread(
            f"raft-{node_id}", self._open, self._on_opened, self._post, fail_stop
        )
        self._servicer = RaftServicer(
            cluster_id, node_id, frozenset(self._peer_ids), self, peer_check
        )

    # The interface.

    @property
    def node_id(self) -> int:
        """See ``Consensus``."""
        return self._node_id

    @property
    def leader_id(self) -> int | None:
        """See ``Consensus``."""
        return self._seen.leader_id

    @property
    def is_leader(self) -> bool:
        """See ``Consensus``."""
        return self._seen.is_leader

    @property
    def term(self) -> int:
        """See ``Consensus``."""
        return self._seen.term

    def on_leadership(self, callback: LeadershipCallback) -> None:
        """See ``Consensus``."""
        self._callbacks.append(callback)

    def on_commit(self, listener: CommitListener) -> None:
        """See ``Consensus``."""
        self._listener = listener

    def register(self, server: grpc.aio.Server) -> str:
        """Add the service of the other voters to a server that is not started yet; its full
        name."""
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self._servicer, server)
        return str(SERVICE_NAME)

    async def start(self) -> None:
        """See ``Consensus``. The port that ``register`` was called for should be open already."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[RaftDriver] = self._loop.create_future()
        self._opening = opened
        self._thread.start()
        self._driver = await opened
        self._running = True
        for peer in self._peer_ids:
            hello = wire.RaftHello(
                cluster_id=self._identity.cluster_id,
                from_node_id=self._node_id,
                to_node_id=peer,
            )
            link = Link(peer, self._voters[peer], hello, self, self._config, self._channel_factory)
            self._links[peer] = link
            link.start()

    async def stop(self) -> None:
        """See ``Consensus``."""
        self._servicer.stop()
        if not self._running:
            return
        self._running = False
        await asyncio.gather(*(link.stop() for link in self._links.values()))
        self._thread.stop()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        await asyncio.sleep(0)  # the last outcomes are delivered by the loop's next turn
        for proposal in list(self._pending):
            self._fail(proposal, OutcomeUnknown("the node stopped"))
        self._lead(LeadershipSeen(False, None, self._seen.term))

    async def resign(self) -> bool:
        """See ``Consensus``."""
        if not self._running or not self._seen.is_leader or not self._peer_ids:
            return False
        self._thread.put(Leaving())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.election_timeout_max_ms / 1000):
                while self._seen.leader_id in (None, self._node_id):
                    self._led = asyncio.Event()
                    await self._led.wait()
        return self._seen.leader_id not in (None, self._node_id)

    async def propose(self, entry: bytes, timeout_ms: int) -> bytes:
        """See ``Consensus``."""
        result, _ = await self._make(entry, timeout_ms)
        return result

    async def barrier(self, timeout_ms: int) -> int:
        """See ``Consensus``."""
        _, index = await self._make(None, timeout_ms)
        return index

    def status(self) -> ConsensusStatus:
        """See ``Consensus``."""
        status = self._status
        if status is not None:
            return status
        return ConsensusStatus(self._node_id, None, False, 0, 0, 0, 0, 0, 0, 0, 0, {}, 0)

    # What the transport tells, on the loop.

    def message_arrived(self, sender: int, envelope: Envelope) -> None:
        """See ``Events``."""
        if self._running:
            self._thread.put(MessageArrived(sender, envelope))

    def peer_connected(self, peer: int) -> None:
        """See ``Events``."""
        _log.info("raft peer connected", node_id=self._node_id, peer=peer)
        self._thread.put(PeerConnected(peer))

    def peer_disconnected(self, peer: int) -> None:
        """See ``Events``."""
        _log.info("raft peer disconnected", node_id=self._node_id, peer=peer)
        self._thread.put(PeerDisconnected(peer))

    # Proposals, on the loop.

    async def _make(self, entry: bytes | None, timeout_ms: int) -> tuple[bytes, int]:
        if not self._running or self._loop is None:
            raise NotProposed("the node is not running")
        if not self._seen.is_leader:
            raise NotProposed("this node does not lead", self._seen.leader_id)
        proposal = Proposal(entry, self._loop.create_future())
        if self._queue.add(proposal):
            self._thread.wake()
        self._pending.add(proposal)
        deadline = self._loop.call_later(timeout_ms / 1000, self._expire, proposal, timeout_ms)
        try:
            return await proposal.waiter
        finally:
            deadline.cancel()
            self._pending.discard(proposal)
            if proposal.waiter.cancelled():
                self._queue.withdraw(proposal)

    def _expire(self, proposal: Proposal, timeout_ms: int) -> None:
        leader = self._seen.leader_id
        if self._queue.withdraw(proposal):
            self._fail(proposal, NotProposed(f"not proposed within {timeout_ms} ms", leader))
        else:
            self._fail(proposal, OutcomeUnknown(f"no answer within {timeout_ms} ms", leader))

    def _fail(self, proposal: Proposal, error: NotProposed | OutcomeUnknown) -> None:
        if not proposal.waiter.done():
            proposal.waiter.set_exception(error)

    # The raft thread.

    def _open(self) -> RaftDriver:
        try:
            check_directory(self._directory, self._identity, self._files)
            votes = VoteFile(self._directory, self._files, self._fail_stop)
            snapshots = SnapshotFile(self._directory, self._files, self._fail_stop)
            journal = Journal(
                self._directory, self._files, self._fail_stop, self._rules, votes.journal_mark
            )
        except OSError as error:
            raise RaftDirectoryError(f"cannot read {self._directory}: {error}") from error
        snapshots.check_reaches(journal.entries[0])
        replica = Replica(self._state_machine)
        core = RaftCore(
            self._node_id,
            self._voters,
            journal=journal,
            votes=votes,
            snapshots=snapshots,
            apply=replica.apply,
            dump=replica.dump,
            restore=replica.restore,
            send=replica.send,
            config=self._config,
            clock=self._clock,
            random=self._random,
            fail_stop=self._fail_stop,
            rules=self._rules,
        )
        return RaftDriver(core, replica, self._queue, journal, snapshots, self._peer_ids)

    def _on_opened(self, driver: RaftDriver | None, error: BaseException | None) -> None:
        if driver is not None:
            self._take_status(driver.status())

        def tell() -> None:
            if self._opening.done():
                return
            if driver is not None:
                self._opening.set_result(driver)
            else:
                self._opening.set_exception(error or RuntimeError("not opened"))

        self._call_on_loop(tell)

    def _post(self, driver: RaftDriver, outcomes: list[Outcome]) -> None:
        self._take_status(driver.status())
        if outcomes:
            self._call_on_loop(self._deliver, outcomes)

    def _take_status(self, status: ConsensusStatus) -> None:
        if status.silent_until != self.status().silent_until:
            _log.warning(
                "raft voter is silent: it lost entries that it had acknowledged"
                if status.silent_until
                else "raft voter holds everything again and votes",
                node_id=self._node_id,
                silent_until=status.silent_until,
                commit_index=status.commit_index,
            )
        self._status = status

    def _call_on_loop(self, function: object, *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[union-attr,arg-type]
        except RuntimeError:
            pass  # the loop is closed: nobody is there to be told

    # Outcomes, on the loop.

    def _deliver(self, outcomes: list[Outcome]) -> None:
        try:
            self._tell(outcomes)
        except Exception as error:  # noqa: BLE001 - what it was not told, the loop never learns
            self._fail_stop(f"the listener of the metadata log failed: {error!r}")

    def _tell(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case Sent(peer, envelope):
                    if (link := self._links.get(peer)) is not None:
                        link.send(envelope)
                case Committed(index, entry, result):
                    if self._listener is not None:
                        self._listener.committed(index, entry, result)
                case Answered(proposal, index, result, error):
                    if error is not None:
                        self._fail(proposal, error)  # type: ignore[arg-type]
                    elif not proposal.waiter.done():
                        proposal.waiter.set_result((result, index))
                case LeadershipSeen():
                    self._lead(outcome)
                case Restored(index, snapshot):
                    if self._listener is not None:
                        self._listener.restored(index, snapshot)

    def _lead(self, seen: LeadershipSeen) -> None:
        before, self._seen = self._seen, seen
        self._led.set()
        if before != seen:
            _log.info(
                "raft leader seen",
                node_id=self._node_id,
                leader_id=seen.leader_id,
                term=seen.term,
            )
        if before.is_leader != seen.is_leader:
            for callback in self._callbacks:
                callback(seen.is_leader, seen.term)
