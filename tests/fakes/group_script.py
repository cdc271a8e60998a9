"""A group member with a scripted coordinator and a clock moved by hand."""

from collections.abc import Iterable
from typing import Any

from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._errors.status import from_code, from_reason
from millstream._group.ownership import by_topic
from millstream._group.session import GroupSession
from millstream._group.types import FindCoordinator, GroupConfig, OpenStream, Output, SendToGroup
from millstream.v1 import errors_pb2
from millstream.v1 import group_coordinator_service_pb2 as pb

ID = b"i" * 16
A, B, C = (TopicPartition("logs", number) for number in range(3))
SESSION_MS, HEARTBEAT_MS, POLL_MS = 10_000, 1_000, 60_000


class Script:
    """The member, its clock, and what it asked for."""

    def __init__(self, **config: object) -> None:
        settings = {
            "group_id": "g",
            "session_timeout_ms": SESSION_MS,
            "heartbeat_interval_ms": 0,
            "poll_interval_ms_max": POLL_MS,
            **config,
        }
        self.session = GroupSession(GroupConfig(**settings), from_reason)  # type: ignore[arg-type]
        self.now_ms = 0
        self.stream_id = 0
        self.log: list[Output] = []

    def take(self) -> list[Output]:
        """What was asked since the last call."""
        outputs = self.session.take()
        self.log += outputs
        for output in outputs:
            if isinstance(output, OpenStream):
                self.stream_id = output.stream_id
        return outputs

    def sent(self, kind: str) -> list[pb.SessionRequest]:
        """The requests of one kind that were sent since the last ``take``."""
        return [
            output.request
            for output in self.take()
            if isinstance(output, SendToGroup) and output.request.WhichOneof("kind") == kind
        ]

    def after(self, delay_ms: int) -> "Script":
        """Let time pass, tick at every moment that was asked for."""
        end_ms = self.now_ms + delay_ms
        while True:
            due_ms = self.session.next_tick_ms()
            if due_ms is None or due_ms > end_ms:
                break
            self.now_ms = max(self.now_ms + 1, due_ms)
            if self.now_ms > end_ms:
                break
            self.session.tick(self.now_ms)
        self.now_ms = end_ms
        self.session.tick(self.now_ms)
        return self

    def answer(self, correlation_id: int = 0, **kind: object) -> None:
        fields: Any = kind
        message = pb.SessionResponse(correlation_id=correlation_id, **fields)
        self.session.received(self.stream_id, message, self.now_ms)

    def break_stream(self, code: str = "UNAVAILABLE") -> None:
        self.session.broken(self.stream_id, from_code(code), self.now_ms)

    def join(self, member_id: str = "m1", epoch: int = 1) -> pb.Join:
        """From SEEKING to JOINED; returns the join that was sent."""
        assert any(isinstance(output, FindCoordinator) for output in self.take())
        self.session.found(self.now_ms)
        (request,) = self.sent("join")
        self.answer(
            request.correlation_id,
            joined=pb.Joined(
                member_id=member_id,
                member_epoch=epoch,
                heartbeat_interval_ms=HEARTBEAT_MS,
                session_timeout_ms=SESSION_MS,
            ),
        )
        return request.join

    def assign(self, partitions: Iterable[TopicPartition], epoch: int = 2) -> None:
        owned = by_topic(dict.fromkeys(partitions, ID))
        self.answer(assignment=pb.Assignment(member_epoch=epoch, partitions=owned))

    def ack(self, request: pb.SessionRequest, epoch: int = 2) -> None:
        self.answer(request.correlation_id, heartbeat_ack=pb.HeartbeatAck(member_epoch=epoch))

    def commit_result(self, request: pb.SessionRequest, *reasons: str) -> None:
        results = [
            pb.OffsetCommitResult(
                error=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{name or 'UNSPECIFIED'}")
            )
            for name in reasons
        ]
        self.answer(request.correlation_id, commit_result=pb.SessionCommitResult(results=results))


def joined(**config: object) -> Script:
    """A member that owns A and B and has nothing to do at the moment."""
    script = Script(**config)
    script.session.subscribe({"logs"}, "", 0)
    script.join()
    script.assign((A, B))
    for request in script.sent("heartbeat"):
        script.ack(request)
    script.session.polled(script.now_ms, waiting=True)
    return script


def owned_in(request: pb.SessionRequest) -> list[int]:
    return [number for entry in request.heartbeat.owned for number in entry.partitions]


def commit(script: Script, partition: TopicPartition, offset: int) -> object:
    offsets = {partition: (ID, OffsetAndMetadata(offset))}
    return script.session.commit(offsets, script.now_ms, script.now_ms + 30_000)
