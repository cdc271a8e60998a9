"""Errors of requests that are at fault themselves; the whole tree is in ``_errors``."""

from millstream._errors.base import MillstreamError


class RequestError(MillstreamError):
    """The request itself is at fault; trying it again unchanged fails again."""


class InvalidRequestError(RequestError):
    """The request is malformed; the message names the field."""

    code = "INVALID_REQUEST"


class TopicAlreadyExistsError(RequestError):
    """A topic of this name exists already."""

    code = "TOPIC_ALREADY_EXISTS"


class InvalidTopicNameError(RequestError):
    """The topic name is empty, too long or has characters that are not allowed."""

    code = "INVALID_TOPIC_NAME"


class InvalidPartitionCountError(RequestError):
    """The number of partitions is out of range, or would shrink."""

    code = "INVALID_PARTITION_COUNT"


class InvalidReplicationFactorError(RequestError):
    """The replication factor is out of range or exceeds the usable brokers."""

    code = "INVALID_REPLICATION_FACTOR"


class InvalidConfigError(RequestError):
    """A configuration key is unknown or its value is not allowed."""

    code = "INVALID_CONFIG"


class RecordTooLargeError(RequestError):
    """A record exceeds max.request.size or the topic's max.message.bytes."""

    code = "RECORD_TOO_LARGE"


class RequestTooLargeError(RequestError):
    """The request exceeds the server's limit."""

    code = "REQUEST_TOO_LARGE"


class CorruptBatchError(RequestError):
    """A checksum does not match, or a batch is malformed."""

    code = "CORRUPT_BATCH"


class UnsupportedCodecError(RequestError):
    """The codec is unknown, or its library is not installed."""

    code = "UNSUPPORTED_CODEC"


class UnsupportedError(RequestError):
    """The feature is not supported by this version."""

    code = "UNSUPPORTED"


class PermissionDeniedError(RequestError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class InternalTopicError(RequestError):
    """An internal topic may be written by its owner only."""

    code = "INTERNAL_TOPIC"


class UnknownSessionError(RequestError):
    """The request session expired; the request was not executed."""

    code = "UNKNOWN_SESSION"


class VersionConflictError(RequestError):
    """The object changed since it was read."""

    code = "VERSION_CONFLICT"
    retriable = True


class UnknownNodeError(RequestError):
    """No node is registered under this id."""

    code = "UNKNOWN_NODE"


class NodeInUseError(RequestError):
    """The node is in its session, has replicas or owns shards."""

    code = "NODE_IN_USE"


class ElectionNotNeededError(RequestError):
    """The partition is led as the election wants it, or by a replica that holds everything."""

    code = "ELECTION_NOT_NEEDED"


class EligibleLeadersNotAvailableError(RequestError):
    """No replica that may be elected is available."""

    code = "ELIGIBLE_LEADERS_NOT_AVAILABLE"
    retriable = True


class NoReassignmentInProgressError(RequestError):
    """The partition is not being reassigned."""

    code = "NO_REASSIGNMENT_IN_PROGRESS"


class InvalidReplicaAssignmentError(RequestError):
    """The replicas are none, repeated, unknown or leaving the cluster."""

    code = "INVALID_REPLICA_ASSIGNMENT"
