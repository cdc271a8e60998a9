"""A group coordinator with one group: joins, heartbeats, drain before grant, commits.

Assigns partitions round-robin in the order of joining. Tests fence members, drop streams, hold
answers back; two owners of one partition at once are noted in ``violations``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from millstream.v1 import errors_pb2, group_coordinator_service_pb2_grpc
from millstream.v1 import group_coordinator_service_pb2 as pb

Key = tuple[str, int]


@dataclass
class FakeMember:
    """One member."""

    member_id: str
    topics: set[str]
    instance_id: str = ""
    epoch: int = 1
    owned: set[Key] = field(default_factory=set)
    # What the newest assignment names.
    granted: set[Key] = field(default_factory=set)
    # Everything that the member may be using, with the epoch of the assignment that named it: it
    # is free when a heartbeat of that epoch or a later one leaves it out.
    held: dict[Key, int] = field(default_factory=dict)
    queue: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)
    heartbeats: int = 0


class FakeCoordinator(group_coordinator_service_pb2_grpc.GroupCoordinatorServiceServicer):
    """See the module. ``partitions()`` lists (topic, topic id, number) of all that can be read."""

    def __init__(self, partitions: Callable[[], list[tuple[str, bytes, int]]] = list) -> None:
        self.partitions = partitions
        self.members: dict[str, FakeMember] = {}
        self.committed: dict[Key, pb.OffsetCommit] = {}
        self.commits: list[tuple[str, Key, int]] = []
        self.violations: list[str] = []
        self.joins: list[pb.Join] = []
        self.left: list[pb.Leave] = []
        self.heartbeat_interval_ms = 50
        self.session_timeout_ms = 2_000
        # Answer no heartbeat any more.
        self.mute = False
        # Reasons to answer to the next commits instead of storing them.
        self.commit_failures: list[str] = []
        self.refuse_joins: list[str] = []
        self._count = 0

    # --- what tests do --------------------------------------------------------

    def drop_streams(self) -> None:
        """Break every stream; members stay."""
        for member in self.members.values():
            member.queue.put_nowait(None)

    def fence(self, member_id: str) -> None:
        """End a member's session."""
        member = self.members.pop(member_id)
        member.queue.put_nowait("FENCED_MEMBER_EPOCH")
        self._reassign()

    def reassign(self) -> None:
        """Spread the partitions anew."""
        self._reassign()

    # --- the session --------------------------------------------------------

    async def Session(  # type: ignore[override]
        self, requests: Any, context: Any
    ) -> AsyncIterator[Any]:
        """One member's stream."""
        first = await anext(requests)
        join = first.join
        self.joins.append(join)
        if self.refuse_joins:
            await abort(context, self.refuse_joins.pop(0))
        member = self.members.get(join.member_id)
        if join.member_id and member is None:
            await abort(context, "UNKNOWN_MEMBER")
        if member is None:
            self._count += 1
            member = FakeMember(f"member-{self._count}", set(join.topics), join.instance_id)
            self.members[member.member_id] = member
        member.topics = set(join.topics)
        member.queue = queue = asyncio.Queue()
        self._own(member, join.owned, join.member_epoch)
        yield pb.SessionResponse(
            correlation_id=first.correlation_id,
            joined=pb.Joined(
                member_id=member.member_id,
                member_epoch=member.epoch,
                heartbeat_interval_ms=self.heartbeat_interval_ms,
                session_timeout_ms=self.session_timeout_ms,
            ),
        )
        self._reassign(always=member)
        reader = asyncio.create_task(self._read(member, requests, queue))
        try:
            while True:
                item = await queue.get()
                if item is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped by the test")
                if isinstance(item, str):
                    await abort(context, item)
                yield item
                if item.WhichOneof("kind") == "left":
                    return
        finally:
            reader.cancel()

    async def _read(self, member: FakeMember, requests: Any, queue: "asyncio.Queue[Any]") -> None:
        async for request in requests:
            kind = request.WhichOneof("kind")
            if member.member_id not in self.members:
                queue.put_nowait("UNKNOWN_MEMBER")
            elif kind == "heartbeat":
                member.heartbeats += 1
                if self.mute:
                    continue
                if request.heartbeat.topics:
                    member.topics = set(request.heartbeat.topics)
                self._own(member, request.heartbeat.owned, request.heartbeat.member_epoch)
                ack = pb.HeartbeatAck(member_epoch=member.epoch)
                queue.put_nowait(
                    pb.SessionResponse(correlation_id=request.correlation_id, heartbeat_ack=ack)
                )
                self._reassign()
            elif kind == "commit":
                self._commit(member, request, queue)
            elif kind == "leave":
                self.left.append(request.leave)
                del self.members[member.member_id]
                queue.put_nowait(
                    pb.SessionResponse(correlation_id=request.correlation_id, left=pb.Left())
                )
                self._reassign()

    def _commit(self, member: FakeMember, request: Any, queue: "asyncio.Queue[Any]") -> None:
        failure = self.commit_failures.pop(0) if self.commit_failures else ""
        if request.commit.member_epoch != member.epoch:
            failure = "STALE_MEMBER_EPOCH"
        results = []
        for offset in request.commit.offsets:
            result = pb.OffsetCommitResult(topic=offset.topic, partition=offset.partition)
            if failure:
                result.error = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{failure}")
            else:
                self.store(member.member_id, offset)
            results.append(result)
        queue.put_nowait(
            pb.SessionResponse(
                correlation_id=request.correlation_id,
                commit_result=pb.SessionCommitResult(results=results),
            )
        )

    def store(self, member_id: str, offset: Any) -> None:
        """Store one offset; going back is a violation."""
        key = (offset.topic, offset.partition)
        before = self.committed.get(key)
        same_log = before is not None and before.topic_id == offset.topic_id
        if same_log and offset.offset < before.offset:
            self.violations.append(f"{key} committed {offset.offset} after {before.offset}")
        self.committed[key] = offset
        self.commits.append((member_id, key, offset.offset))

    def _own(self, member: FakeMember, owned: Any, epoch: int) -> None:
        member.owned = {(entry.topic, number) for entry in owned for number in entry.partitions}
        for key, since in list(member.held.items()):
            if key not in member.owned and key not in member.granted and epoch >= since:
                del member.held[key]
        for other in self.members.values():
            both = member.owned & other.owned
            if other is not member and both:
                self.violations.append(f"{sorted(both)} owned twice")

    def _reassign(self, always: FakeMember | None = None) -> None:
        ids = {(topic, number): topic_id for topic, topic_id, number in self.partitions()}
        members = list(self.members.values())
        target: dict[str, set[Key]] = {member.member_id: set() for member in members}
        for index, key in enumerate(sorted(ids)):
            able = [member for member in members if key[0] in member.topics]
            if able:
                target[able[index % len(able)].member_id].add(key)
        for member in members:
            wanted = target[member.member_id]
            held = {
                key
                for other in members
                if other is not member
                for key in other.owned | other.held.keys()
            }
            granted = {key for key in wanted if key not in held}
            if granted != member.granted or member is always:
                if granted != member.granted:
                    member.epoch += 1
                member.held.update(dict.fromkeys(granted - member.granted, member.epoch))
                member.granted = granted
                member.queue.put_nowait(self._assignment(member, ids))

    def _assignment(self, member: FakeMember, ids: dict[Key, bytes]) -> Any:
        return pb.SessionResponse(
            assignment=pb.Assignment(
                member_epoch=member.epoch,
                partitions=[
                    pb.TopicPartitions(
                        topic=topic, topic_id=ids[topic, number], partitions=[number]
                    )
                    for topic, number in sorted(member.granted)
                ],
            )
        )

    # --- offsets --------------------------------------------------------

    async def FetchOffsets(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        """Committed offsets."""
        wanted = {(e.topic, number) for e in request.partitions for number in e.partitions}
        offsets = []
        for (topic, partition), stored in self.committed.items():
            if not wanted or (topic, partition) in wanted:
                offset = pb.CommittedOffset(
                    topic=topic,
                    partition=partition,
                    offset=stored.offset,
                    metadata=stored.metadata,
                )
                if stored.HasField("leader_epoch"):
                    offset.leader_epoch = stored.leader_epoch
                offsets.append(offset)
        return pb.FetchOffsetsResponse(offsets=offsets)

    async def CommitOffsets(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        """Commits without membership."""
        if self.members:
            await abort(context, "GROUP_NOT_EMPTY")
        for offset in request.offsets:
            self.store("", offset)
        results = [
            pb.OffsetCommitResult(topic=offset.topic, partition=offset.partition)
            for offset in request.offsets
        ]
        return pb.CommitOffsetsResponse(results=results)


async def abort(context: Any, name: str) -> None:
    """End a call with a reason of the error table."""
    status = status_pb2.Status(code=9, message=name)
    info = error_details_pb2.ErrorInfo(reason=name, domain="millstream.dev")
    status.details.add().Pack(info)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, name)
