"""The session with one leader: two streams, opened again for as long as it leads something."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.replication.followed_partition import FollowedPartition
from millstream_server.broker.replication.follower_session import FollowerLane
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.v1 import replication_service_pb2 as pb

if TYPE_CHECKING:
    from millstream_server.v1 import replication_service_pb2_grpc as pb_grpc

_log = structlog.get_logger()
_LANES = (pb.REPLICATION_LANE_TAIL, pb.REPLICATION_LANE_CATCH_UP)
_RETRY_FIRST_S = 0.02
_RETRY_MAX_S = 1.0
# Positions in one message: it stays far below the limit of a message.
_POSITIONS_MAX = 2_000

Connect = Callable[[int], "pb_grpc.ReplicationServiceAsyncStub"]


class LeaderLink:
    """See the module's docstring. Everything runs on the event loop; a ``Session``."""

    def __init__(
        self,
        leader_id: int,
        hosted: HostedPartitions,
        cluster_id: str,
        connect: Connect,
        random: Random,
    ) -> None:
        """``connect`` gives the stub of a node, or raises ServiceError while it has no address."""
        self.leader_id = leader_id
        self._hosted = hosted
        self._cluster_id = cluster_id
        self._connect = connect
        self._random = random
        self._followed: dict[tuple[bytes, int], FollowedPartition] = {}
        self._connected = False
        self._rounds = 0
        # With something to tell, in the order in which it came up.
        self._dirty: dict[FollowedPartition, None] = {}
        self._left: list[pb.FollowerPosition] = []
        # Of the present session; what is written later than it lasts gives back to its own.
        self._lanes = self._new_lanes()
        # Node epoch that the session was opened under.
        self._node_epoch = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """True if nothing is followed here."""
        return not self._followed

    # Partitions

    def follow(self, followed: FollowedPartition) -> None:
        """Copy a partition; takes the place of an earlier leader epoch's copying."""
        self._followed[followed.key] = followed
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"follow-node-{self.leader_id}")
        elif self._connected:
            followed.attach(self)

    def leave(self, followed: FollowedPartition) -> None:
        """Copy a partition no more."""
        if self._followed.get(followed.key) is not followed:
            return
        del self._followed[followed.key]
        self._dirty.pop(followed, None)
        if self._connected:
            topic_id, number = followed.key
            self._left.append(
                pb.FollowerPosition(
                    topic_id=topic_id,
                    partition=number,
                    leader_epoch=followed.leader_epoch,
                    leave=True,
                )
            )
            self._lanes[pb.REPLICATION_LANE_TAIL].wake.set()
        followed.detach()

    def check_node_epoch(self) -> None:
        """Begin a new session if this broker registered anew (invariant 13)."""
        if self._connected and self._node_epoch != self._hosted.cluster.node_epoch:
            self._restart()

    def _restart(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._disconnect()
        self._task = asyncio.create_task(self._run(), name=f"follow-node-{self.leader_id}")

    async def close(self) -> None:
        """End the session."""
        task, self._task = self._task, None
        self._disconnect()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # Session

    def next_round(self) -> int:
        """See ``Session``."""
        self._rounds += 1
        return self._rounds

    def report_soon(self, followed: FollowedPartition) -> None:
        """See ``Session``."""
        self._dirty[followed] = None
        self._lanes[pb.REPLICATION_LANE_TAIL].wake.set()

    def _new_lanes(self) -> dict[pb.ReplicationLane.ValueType, FollowerLane]:
        config = self._hosted.config
        return {
            pb.REPLICATION_LANE_TAIL: FollowerLane(config.replica_tail_credit_bytes),
            pb.REPLICATION_LANE_CATCH_UP: FollowerLane(config.replica_catch_up_credit_bytes),
        }

    # Streams

    async def _run(self) -> None:
        delay_s = _RETRY_FIRST_S
        while True:
            try:
                await self._hold_session()
                reason = "ended by the leader"
            except (grpc.aio.AioRpcError, ServiceError) as error:
                reason = str(error if isinstance(error, ServiceError) else error_of(error))
            except Exception as error:  # noqa: BLE001 - one bad answer must not end all copying
                _log.exception("following failed", leader_id=self.leader_id)
                reason = type(error).__name__
            if self._connected:
                delay_s = _RETRY_FIRST_S
                _log.info("lost the leader", leader_id=self.leader_id, reason=reason)
            else:
                _log.debug("leader not reached", leader_id=self.leader_id, reason=reason)
            self._disconnect()
            await asyncio.sleep(delay_s * (0.5 + self._random.random()))
            delay_s = min(delay_s * 2, _RETRY_MAX_S)

    def _disconnect(self) -> None:
        self._connected = False
        self._dirty.clear()
        self._left.clear()
        for followed in self._followed.values():
            followed.detach()

    async def _hold_session(self) -> None:
        """Keep both streams until one ends. Raises what ended it."""
        stub = self._connect(self.leader_id)
        self._node_epoch = self._hosted.cluster.node_epoch
        session_id = self._random.getrandbits(63)
        self._lanes = self._new_lanes()
        calls = {lane: stub.Replicate() for lane in _LANES}
        tasks: list[asyncio.Task[None]] = []
        try:
            for lane, call in calls.items():
                await self._greet(call, lane, session_id)
            self._connected = True
            for followed in tuple(self._followed.values()):
                followed.attach(self)
            for lane, call in calls.items():
                tasks.append(asyncio.create_task(self._write(call, lane)))
                tasks.append(asyncio.create_task(self._read(call, lane)))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for call in calls.values():
                call.cancel()

    async def _greet(self, call: Any, lane: pb.ReplicationLane.ValueType, session_id: int) -> None:
        hello = pb.ReplicationHello(
            cluster_id=self._cluster_id,
            follower_id=self._hosted.node_id,
            follower_epoch=self._node_epoch,
            leader_id=self.leader_id,
            session_id=session_id,
            lane=lane,
        )
        credit_bytes = self._lanes[lane].credit_bytes
        await _write_to(call, pb.ReplicateRequest(hello=hello, credit_bytes=credit_bytes))
        welcome = await call.read()
        if welcome is grpc.aio.EOF:
            raise ServiceError("UNAVAILABLE", f"node {self.leader_id} ended the session at once")
        if not welcome.HasField("welcome"):
            raise ServiceError("INTERNAL", "the first answer to a hello was no welcome")

    async def _write(self, call: Any, number: pb.ReplicationLane.ValueType) -> None:
        lane = self._lanes[number]
        while True:
            await lane.wake.wait()
            lane.wake.clear()
            request = pb.ReplicateRequest(credit_bytes=lane.take_credit())
            if number == pb.REPLICATION_LANE_TAIL:
                request.positions.extend(self._take_positions())
            if (request.credit_bytes or request.positions) and not await _write_to(call, request):
                return

    def _take_positions(self) -> list[pb.FollowerPosition]:
        left, self._left = self._left, []
        positions = left
        while self._dirty and len(positions) < _POSITIONS_MAX:
            followed = next(iter(self._dirty))
            del self._dirty[followed]
            position = followed.position()
            if position is not None:
                positions.append(position)
        if self._dirty:
            self._lanes[pb.REPLICATION_LANE_TAIL].wake.set()
        return positions

    async def _read(self, call: Any, number: pb.ReplicationLane.ValueType) -> None:
        lane = self._lanes[number]
        while True:
            response = await call.read()
            if response is grpc.aio.EOF:
                raise ServiceError("UNAVAILABLE", f"node {self.leader_id} ended the session")
            for push in response.partitions:
                followed = self._followed.get((push.topic_id, push.partition))
                if followed is None:
                    lane.give_back(len(push.frames))
                else:
                    followed.take(push, lane)


async def _write_to(call: Any, request: pb.ReplicateRequest) -> bool:
    """False if the call is over already: reading it tells why."""
    try:
        await call.write(request)
    except asyncio.InvalidStateError:
        return False
    return True
