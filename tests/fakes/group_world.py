"""A shard's state machine with members, streams, a log and a clock that a test moves by hand.

Messages wait in queues until they are delivered; results wait until they are stored. A crash loses
what is not stored; a broken stream loses what is under way. Members behave as the SDK's do.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from millstream_server.coordinator.changes import AssignmentPush, Moment, Push, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group import Group
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.membership import HeartbeatRequest, JoinReply, JoinRequest
from millstream_server.coordinator.record_codec import decode_record, encode_record
from millstream_server.coordinator.records import MemberMetadata, Partition
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.shard_state import ShardState
from millstream_server.coordinator.topics import TopicIndex, TopicInfo
from tests.fakes.group_rules import check_group, contents

GROUP = "g"
SESSION_MS = 1_000
CONFIG = CoordinatorConfig(
    session_timeout_ms=SESSION_MS, heartbeat_interval_ms=300, rebalance_timeout_ms=3_000
)


class Observer:
    """Counts rebalances."""

    def __init__(self) -> None:
        self.started = 0
        self.durations_ms: list[int] = []

    def rebalance_started(self, group_id: str) -> None:
        self.started += 1

    def rebalance_finished(self, group_id: str, duration_ms: int) -> None:
        self.durations_ms.append(duration_ms)


@dataclass
class Client:
    """A member as the application sees it."""

    topics: tuple[str, ...]
    instance_id: str = ""
    member_id: str = ""
    epoch: int = 0
    using: set[Partition] = field(default_factory=set)
    giving_up: set[Partition] = field(default_factory=set)
    stream: int | None = None
    joined: bool = False
    left: bool = False
    to_server: deque[Any] = field(default_factory=deque)
    to_client: deque[Any] = field(default_factory=deque)
    # Send times of what renews the session, oldest first; end by the client's own clock.
    unanswered_ms: deque[int] = field(default_factory=deque)
    session_end_ms: int = 0
    reasons: list[str] = field(default_factory=list)


class GroupWorld:
    """See the module."""

    def __init__(self, topics: dict[str, int]) -> None:
        self.now_ms = 10_000
        self.log: list[tuple[bytes, bytes | None]] = []
        # Results that are not stored yet, with what is to be done then.
        self.pending: deque[tuple[Result[Any], Any]] = deque()
        self.clients: list[Client] = []
        self.observer = Observer()
        self.topic_counts = dict(topics)
        self._topic_ids: dict[str, bytes] = {}
        self._ids = 0
        self._streams = 0
        self._load()

    # Coordinator

    def _load(self) -> None:
        self.core = GroupShard(CONFIG, self.observer, self._new_id)
        for key, value in self.log:
            self.core.apply(decode_record(key, value))
        self._put(self.core.loaded(self.index(), self.moment()))

    def _new_id(self) -> str:
        self._ids += 1
        return f"m{self._ids:03}"

    def moment(self) -> Moment:
        return Moment(self.now_ms, 1_700_000_000_000 + self.now_ms)

    def index(self) -> TopicIndex:
        for name in self.topic_counts:
            if name not in self._topic_ids:
                self._ids += 1
                self._topic_ids[name] = self._ids.to_bytes(16, "big")
        return TopicIndex(
            TopicInfo(self._topic_ids[name], name, count)
            for name, count in self.topic_counts.items()
        )

    def change_topics(self, topics: dict[str, int]) -> None:
        """Create, delete, grow."""
        for name in self.topic_counts.keys() - topics.keys():
            del self._topic_ids[name]
        self.topic_counts = dict(topics)
        self._put(self.core.topics_changed(self.index(), self.moment()))

    def crash(self) -> None:
        """The coordinator dies and another one takes over."""
        self.pending.clear()
        for client in self.clients:
            self.break_stream(client, tell=False)
        self._load()

    def store_one(self) -> None:
        """The oldest result is stored; its reply and pushes leave."""
        if self.pending:
            result, done = self.pending.popleft()
            self.log += map(encode_record, result.records)
            done(result.reply)
            for push in result.pushes:
                self._deliver(push)

    def pass_time(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        for result in self.core.fire(self.moment()):
            self._put(result)
        for client in self.clients:
            if self.now_ms >= client.session_end_ms and client.using:
                client.using.clear()
                client.giving_up.clear()
                self.break_stream(client)

    def _put(self, result: Result[Any], done: Any = lambda _: None) -> None:
        self.pending.append((result, done))

    def _deliver(self, push: Push) -> None:
        for client in self.clients:
            if client.stream == push.stream:
                client.to_client.append(push.message)

    # Clients

    def add(self, topics: tuple[str, ...], instance_id: str = "") -> Client:
        client = Client(topics, instance_id)
        self.clients.append(client)
        self.join(client)
        return client

    def join(self, client: Client) -> None:
        self.break_stream(client)
        self._streams += 1
        client.stream, client.joined, client.left = self._streams, False, False
        self._send(
            client,
            JoinRequest(
                GROUP,
                client.member_id,
                client.epoch,
                MemberMetadata(
                    instance_id=client.instance_id,
                    topics=client.topics,
                    session_timeout_ms=SESSION_MS,
                    rebalance_timeout_ms=CONFIG.rebalance_timeout_ms,
                ),
                frozenset(client.using),
            ),
        )

    def heartbeat(self, client: Client, topics: tuple[str, ...] | None = None) -> None:
        if not client.joined:
            return
        if topics is not None:
            client.topics = topics
        request = HeartbeatRequest(
            GROUP,
            client.member_id,
            client.epoch,
            frozenset(client.using),
            topics,
            None,
            client.instance_id,
        )
        self._send(client, request)

    def release(self, client: Client) -> None:
        """Finish with what is to be given up."""
        client.using -= client.giving_up
        client.giving_up.clear()
        self.heartbeat(client)

    def leave(self, client: Client, *, temporary: bool) -> None:
        if not client.joined:
            return
        client.using.clear()
        client.giving_up.clear()
        client.left = True
        client.to_server.append(temporary)

    def break_stream(self, client: Client, *, tell: bool = True) -> None:
        if client.stream is not None and tell and client.member_id:
            self.core.membership.stream_broken(GROUP, client.member_id, client.stream)
        client.stream, client.joined = None, False
        client.to_server.clear()
        client.to_client.clear()
        client.unanswered_ms.clear()

    def _send(self, client: Client, request: Any) -> None:
        client.unanswered_ms.append(self.now_ms)
        client.to_server.append(request)

    def serve_one(self, client: Client) -> None:
        """The coordinator reads one message of a member."""
        if not client.to_server:
            return
        message = client.to_server.popleft()
        stream = client.stream
        assert stream is not None
        try:
            result = self._handle(client, message, stream)
        except Refusal as caught:
            refusal = caught
            client.to_server.clear()
            if client.member_id:
                self.core.membership.stream_broken(GROUP, client.member_id, stream)
            self._put(Result(None), lambda _: self._reply(client, stream, refusal))
            return
        self._put(result, lambda reply: self._reply(client, stream, ("reply", reply)))

    def _handle(self, client: Client, message: Any, stream: int) -> Result[Any]:
        membership = self.core.membership
        if isinstance(message, JoinRequest):
            return membership.join(message, stream, self.moment())
        if isinstance(message, HeartbeatRequest):
            return membership.heartbeat(message, stream, self.moment())
        return membership.leave(
            GROUP,
            client.member_id,
            temporary=message,
            instance_id=client.instance_id,
            stream=stream,
            now=self.moment(),
        )

    def _reply(self, client: Client, stream: int, message: Any) -> None:
        if client.stream == stream:
            client.to_client.append(message)

    def receive_one(self, client: Client) -> None:
        """A member reads one message of the coordinator."""
        if not client.to_client:
            return
        message = client.to_client.popleft()
        if isinstance(message, Refusal):
            self._refused(client, message)
        elif isinstance(message, AssignmentPush):
            self._assigned(client, message)
        elif client.left:
            if message[1] is None:
                client.member_id, client.epoch = "", 0
                self.break_stream(client)
        else:
            self._answered(client, message[1])

    def _refused(self, client: Client, refusal: Refusal) -> None:
        client.reasons.append(refusal.reason)
        if refusal.reason != "UNRELEASED_INSTANCE":
            client.using.clear()
            client.giving_up.clear()
            client.member_id, client.epoch = "", 0
        self.break_stream(client)

    def _assigned(self, client: Client, push: AssignmentPush) -> None:
        if client.left or not client.joined:
            return
        client.epoch = push.member_epoch
        added = push.partitions - client.using
        client.giving_up |= client.using - push.partitions
        client.using |= added
        if added:
            self.heartbeat(client)

    def _answered(self, client: Client, reply: Any) -> None:
        sent_ms = client.unanswered_ms.popleft()
        client.session_end_ms = max(client.session_end_ms, sent_ms + SESSION_MS)
        if isinstance(reply, JoinReply):
            client.member_id, client.epoch = reply.member_id, reply.member_epoch
            client.joined = True
        else:
            client.epoch = max(client.epoch, reply)

    # Running on

    def settle(self, rounds: int = 60) -> None:
        """Let everybody do what they should until nothing moves any more."""
        for _ in range(rounds):
            for client in self.clients:
                if client.stream is None and not client.left:
                    self.join(client)
                self.drain(client)
                if client.giving_up:
                    self.release(client)
                else:
                    self.heartbeat(client)
                self.drain(client)
            self.pass_time(60)

    def drain(self, client: Client) -> None:
        """Deliver everything between a member and the coordinator."""
        while client.to_server or self.pending or client.to_client:
            self.serve_one(client)
            while self.pending:
                self.store_one()
            self.receive_one(client)

    # What must hold

    @property
    def group(self) -> Group:
        return self.core.state.groups[GROUP]

    def check(self) -> None:
        """Raises AssertionError with the name of what does not hold."""
        self._check_clients()
        group = self.core.state.group(GROUP)
        if group is not None:
            check_group(group, self.core.topics)
        self._check_replay()

    def _check_clients(self) -> None:
        users: dict[Partition, int] = {}
        for number, client in enumerate(self.clients):
            if self.now_ms < client.session_end_ms:
                for partition in client.using:
                    other = users.setdefault(partition, number)
                    assert other == number, f"NoDoubleClientAssignment: {partition}"

    def _check_replay(self) -> None:
        state = ShardState()
        for key, value in self.log:
            state.apply(decode_record(key, value))
        for result, _ in self.pending:
            for record in result.records:
                state.apply(decode_record(*encode_record(record)))
        assert contents(state) == contents(self.core.state), "replay equality"
