"""The vocabulary of a group member: its states, what moves it, what it asks its owner to do."""

from dataclasses import dataclass
from enum import Enum

from millstream._consumer.record import TopicPartition
from millstream._errors import MillstreamError
from millstream.v1 import group_coordinator_service_pb2 as pb

# The partitions of a member, each with the id of its topic: a topic made again under the same name
# is another one.
Owned = dict[TopicPartition, bytes]


class GroupState(Enum):
    """Where the member stands."""

    IDLE = "idle"
    SEEKING = "seeking"
    JOINING = "joining"
    JOINED = "joined"
    LEAVING = "leaving"
    AWAY = "away"
    FAILED = "failed"


class GroupEvent(Enum):
    """What moves the member between states."""

    SUBSCRIBED = "subscribed"
    FOUND = "found"
    ANSWERED = "answered"
    BROKEN = "broken"
    LEFT = "left"
    SILENT = "silent"
    POLLED = "polled"
    REFUSED = "refused"
    UNSUBSCRIBED = "unsubscribed"


_S, _E = GroupState, GroupEvent
TRANSITIONS: dict[tuple[GroupState, GroupEvent], GroupState] = {
    (_S.IDLE, _E.SUBSCRIBED): _S.SEEKING,
    (_S.SEEKING, _E.FOUND): _S.JOINING,
    (_S.SEEKING, _E.BROKEN): _S.SEEKING,
    (_S.SEEKING, _E.SILENT): _S.AWAY,
    (_S.SEEKING, _E.REFUSED): _S.FAILED,
    (_S.SEEKING, _E.UNSUBSCRIBED): _S.IDLE,
    (_S.JOINING, _E.ANSWERED): _S.JOINED,
    (_S.JOINING, _E.BROKEN): _S.SEEKING,
    (_S.JOINING, _E.SILENT): _S.AWAY,
    (_S.JOINING, _E.REFUSED): _S.FAILED,
    (_S.JOINING, _E.UNSUBSCRIBED): _S.LEAVING,
    (_S.JOINED, _E.BROKEN): _S.SEEKING,
    (_S.JOINED, _E.SILENT): _S.AWAY,
    (_S.JOINED, _E.REFUSED): _S.FAILED,
    (_S.JOINED, _E.UNSUBSCRIBED): _S.LEAVING,
    (_S.LEAVING, _E.LEFT): _S.IDLE,
    (_S.LEAVING, _E.BROKEN): _S.IDLE,
    (_S.AWAY, _E.POLLED): _S.SEEKING,
    (_S.AWAY, _E.UNSUBSCRIBED): _S.IDLE,
    (_S.FAILED, _E.UNSUBSCRIBED): _S.IDLE,
}


# Reasons after which the member id is worth nothing: join again as a new member.
REJOIN_CODES = frozenset({"UNKNOWN_MEMBER", "FENCED_MEMBER_EPOCH"})
# Reasons after which trying again would not help.
FATAL_CODES = frozenset(
    {
        "FENCED_INSTANCE",
        "GROUP_FULL",
        "INVALID_GROUP_ID",
        "UNSUPPORTED_ASSIGNOR",
        "PERMISSION_DENIED",
        "UNSUPPORTED",
        "INVALID_REQUEST",
    }
)


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """What a member tells its coordinator, and its own limits."""

    group_id: str
    # Static membership; empty: dynamic (group.instance.id).
    instance_id: str = ""
    client_id: str = ""
    rack: str = ""
    # "uniform" or "range"; empty: the coordinator's default.
    assignor: str = ""
    # How long the member may stay silent (session.timeout.ms); zero: the coordinator decides.
    session_timeout_ms: int = 45_000
    # How often at least to send a heartbeat (heartbeat.interval.ms).
    heartbeat_interval_ms: int = 3_000
    # Longest time between two polls, and to give up a partition (max.poll.interval.ms).
    poll_interval_ms_max: int = 300_000
    # First pause after a failure; doubles (retry.backoff.ms).
    backoff_ms: int = 100


@dataclass(frozen=True, slots=True)
class FindCoordinator:
    """Look the coordinator up; answer with ``found`` or ``not_found``."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a Session stream to the coordinator that was found."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class SendToGroup:
    """Send a message on the open stream."""

    stream_id: int
    request: pb.SessionRequest


@dataclass(frozen=True, slots=True)
class CloseStream:
    """End the stream, after what was sent on it."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions are the member's from now on."""

    partitions: Owned


@dataclass(frozen=True, slots=True)
class Revoking:
    """Stop handing these out, finish and commit, then call ``released``."""

    partitions: Owned


@dataclass(frozen=True, slots=True)
class Lost:
    """These are somebody else's by now: hand nothing of them out, commit nothing."""

    partitions: Owned
    error: MillstreamError


@dataclass(frozen=True, slots=True)
class Failed:
    """The member cannot go on."""

    error: MillstreamError


Output = (
    FindCoordinator | OpenStream | SendToGroup | CloseStream | Assigned | Revoking | Lost | Failed
)
