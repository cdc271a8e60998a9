"""Every error that the SDK raises: one class per reason of ``errors.proto``, and the client's own.

In brackets: r retriable (the same call may succeed later), m it may do so after newer metadata,
i indeterminate (the change may have happened all the same), f fatal (this client cannot go on)::

    MillstreamError
    +- RequestError
    |    InvalidRequestError, TopicAlreadyExistsError, InvalidTopicNameError,
    |    InvalidPartitionCountError, InvalidReplicationFactorError, InvalidConfigError,
    |    RecordTooLargeError, RequestTooLargeError, CorruptBatchError, UnsupportedCodecError,
    |    UnsupportedError, PermissionDeniedError, InternalTopicError, UnknownSessionError,
    |    VersionConflictError[r], UnknownNodeError, NodeInUseError, ElectionNotNeededError,
    |    EligibleLeadersNotAvailableError[r], NoReassignmentInProgressError,
    |    InvalidReplicaAssignmentError
    +- PlacementError
    |    UnknownTopicError[mr], UnknownPartitionError[mr], NotLeaderError[mr],
    |    LeaderNotAvailableError[mr], FencedLeaderEpochError[mr], UnknownLeaderEpochError[mr],
    |    NotEnoughReplicasError[r], NotEnoughReplicasAfterAppendError[ir],
    |    StaleNodeEpochError[mr], NodeIdInUseError, ClusterMismatchError[f]
    +- ServerError
    |    InternalServerError[i], ThrottledError[r], TimedOutError[ir],
    |    NodeShuttingDownError[mr], StorageError[ir], DiskFullError[r], LogDamagedError,
    |    NotControllerError[r], QuorumUnavailableError[ir], UnavailableError[ir]
    +- OffsetError
    |    OffsetOutOfRangeError, OffsetNotAvailableError[r], LogTruncatedError,
    |    NoCommittedOffsetError, InvalidCommitOffsetError
    +- ProducerStateError
    |    OutOfOrderSequenceError, DuplicateSequenceError, UnknownProducerError,
    |    InvalidProducerEpochError[f]
    +- GroupError
    |    NotCoordinatorError[r], CoordinatorLoadingError[r], UnknownMemberError,
    |    FencedMemberEpochError, StaleMemberEpochError[r], FencedInstanceError[f],
    |    UnreleasedInstanceError[r], InvalidGroupIdError, UnknownGroupError, GroupNotEmptyError,
    |    GroupFullError, UnsupportedAssignorError
    +- ClientError
    |    ClientClosedError, ForkedError[f], BufferFullError[r], PurgedError

Branch on classes or on ``error.code``; never on the text, which is for people.
"""

from millstream._errors.base import MillstreamError
from millstream._errors.log import (
    CoordinatorLoadingError,
    DuplicateSequenceError,
    FencedInstanceError,
    FencedMemberEpochError,
    GroupError,
    GroupFullError,
    GroupNotEmptyError,
    InvalidCommitOffsetError,
    InvalidGroupIdError,
    InvalidProducerEpochError,
    LogTruncatedError,
    NoCommittedOffsetError,
    NotCoordinatorError,
    OffsetError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    ProducerStateError,
    StaleMemberEpochError,
    UnknownGroupError,
    UnknownMemberError,
    UnknownProducerError,
    UnreleasedInstanceError,
    UnsupportedAssignorError,
)
from millstream._errors.request import (
    CorruptBatchError,
    ElectionNotNeededError,
    EligibleLeadersNotAvailableError,
    InternalTopicError,
    InvalidConfigError,
    InvalidPartitionCountError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicNameError,
    NodeInUseError,
    NoReassignmentInProgressError,
    PermissionDeniedError,
    RecordTooLargeError,
    RequestError,
    RequestTooLargeError,
    TopicAlreadyExistsError,
    UnknownNodeError,
    UnknownSessionError,
    UnsupportedCodecError,
    UnsupportedError,
    VersionConflictError,
)

__all__ = [
    "BufferFullError", "ClientClosedError", "ClientError", "ClusterMismatchError",
    "CoordinatorLoadingError", "CorruptBatchError", "DiskFullError", "DuplicateSequenceError",
    "ElectionNotNeededError", "EligibleLeadersNotAvailableError", "FencedInstanceError",
    "FencedLeaderEpochError", "FencedMemberEpochError", "ForkedError", "GroupError",
    "GroupFullError", "GroupNotEmptyError", "InternalServerError", "InternalTopicError",
    "InvalidCommitOffsetError", "InvalidConfigError", "InvalidGroupIdError",
    "InvalidPartitionCountError", "InvalidProducerEpochError", "InvalidReplicaAssignmentError",
    "InvalidReplicationFactorError", "InvalidRequestError", "InvalidTopicNameError",
    "LeaderNotAvailableError", "LogDamagedError", "LogTruncatedError", "MillstreamError",
    "NoCommittedOffsetError", "NoReassignmentInProgressError", "NodeIdInUseError", "NodeInUseError",
    "NodeShuttingDownError", "NotControllerError", "NotCoordinatorError",
    "NotEnoughReplicasAfterAppendError", "NotEnoughReplicasError", "NotLeaderError", "OffsetError",
    "OffsetNotAvailableError", "OffsetOutOfRangeError", "OutOfOrderSequenceError",
    "PermissionDeniedError", "PlacementError", "ProducerStateError", "PurgedError",
    "QuorumUnavailableError", "RecordTooLargeError", "RequestError", "RequestTooLargeError",
    "ServerError", "StaleMemberEpochError", "StaleNodeEpochError", "StorageError", "ThrottledError",
    "TimedOutError", "TopicAlreadyExistsError", "UnavailableError", "UnknownGroupError",
    "UnknownLeaderEpochError", "UnknownMemberError", "UnknownNodeError", "UnknownPartitionError",
    "UnknownProducerError", "UnknownSessionError", "UnknownTopicError", "UnreleasedInstanceError",
    "UnsupportedAssignorError", "UnsupportedCodecError", "UnsupportedError", "VersionConflictError",
]  # fmt: skip


class PlacementError(MillstreamError):
    """The metadata in use is out of date, or the partition cannot be served just now."""


class UnknownTopicError(PlacementError):
    """No topic has this name or id."""

    code = "UNKNOWN_TOPIC"
    retriable = True
    refresh_metadata = True


class UnknownPartitionError(PlacementError):
    """The topic has no partition of this number."""

    code = "UNKNOWN_PARTITION"
    retriable = True
    refresh_metadata = True


class NotLeaderError(PlacementError):
    """The broker does not lead the partition (any more)."""

    code = "NOT_LEADER"
    retriable = True
    refresh_metadata = True


class LeaderNotAvailableError(PlacementError):
    """The partition has no leader at present."""

    code = "LEADER_NOT_AVAILABLE"
    retriable = True
    refresh_metadata = True


class FencedLeaderEpochError(PlacementError):
    """The request was made under an older leader epoch."""

    code = "FENCED_LEADER_EPOCH"
    retriable = True
    refresh_metadata = True


class UnknownLeaderEpochError(PlacementError):
    """The broker has not heard of the leader epoch yet."""

    code = "UNKNOWN_LEADER_EPOCH"
    retriable = True
    refresh_metadata = True


class NotEnoughReplicasError(PlacementError):
    """Too few in-sync replicas; nothing was appended."""

    code = "NOT_ENOUGH_REPLICAS"
    retriable = True


class NotEnoughReplicasAfterAppendError(PlacementError):
    """The in-sync set shrank after the append."""

    code = "NOT_ENOUGH_REPLICAS_AFTER_APPEND"
    retriable = True
    indeterminate = True


class StaleNodeEpochError(PlacementError):
    """A newer incarnation of the node has registered."""

    code = "STALE_NODE_EPOCH"
    retriable = True
    refresh_metadata = True


class NodeIdInUseError(PlacementError):
    """Another live node uses this id."""

    code = "NODE_ID_IN_USE"


class ClusterMismatchError(PlacementError):
    """The node belongs to another cluster."""

    code = "CLUSTER_MISMATCH"
    fatal = True


class ServerError(MillstreamError):
    """The server, its disk or the way to it is in trouble."""


class InternalServerError(ServerError):
    """A bug or an unforeseen condition on the server."""

    code = "INTERNAL"
    indeterminate = True


class ThrottledError(ServerError):
    """A limit of the server is reached; `retry_after_ms` says how long to wait."""

    code = "THROTTLED"
    retriable = True


class TimedOutError(ServerError, TimeoutError):
    """The deadline passed."""

    code = "TIMED_OUT"
    retriable = True
    indeterminate = True


class NodeShuttingDownError(ServerError):
    """The node is starting or stopping."""

    code = "NODE_SHUTTING_DOWN"
    retriable = True
    refresh_metadata = True


class StorageError(ServerError):
    """The disk refused a write or a sync."""

    code = "STORAGE_ERROR"
    retriable = True
    indeterminate = True


class DiskFullError(ServerError):
    """No space is left on the server's disk."""

    code = "DISK_FULL"
    retriable = True


class LogDamagedError(ServerError):
    """The log is damaged and no other copy exists; an operator has to act."""

    code = "LOG_DAMAGED"


class NotControllerError(ServerError):
    """The metadata node is not the active controller."""

    code = "NOT_CONTROLLER"
    retriable = True


class QuorumUnavailableError(ServerError):
    """The metadata quorum could not be reached in time."""

    code = "QUORUM_UNAVAILABLE"
    retriable = True
    indeterminate = True


class UnavailableError(ServerError):
    """The node could not be reached."""

    code = "UNAVAILABLE"
    retriable = True
    indeterminate = True


class ClientError(MillstreamError):
    """The client itself cannot do what was asked."""


class ClientClosedError(ClientError):
    """The client is closed, or was never started."""

    code = "CLIENT_CLOSED"


class ForkedError(ClientError):
    """The process forked after the client was made; make a new client in the child."""

    code = "FORKED"
    fatal = True


class BufferFullError(ClientError, BufferError):
    """buffer.memory is used up and did not become free in time; nothing was sent."""

    code = "BUFFER_FULL"
    retriable = True


class PurgedError(ClientError):
    """The record was dropped by purge() or close() before it was acknowledged."""

    code = "PURGED"
