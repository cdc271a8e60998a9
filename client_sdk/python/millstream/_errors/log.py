"""Errors about offsets, producer state and groups; the whole tree is in ``_errors``."""

from millstream._errors.base import MillstreamError


class OffsetError(MillstreamError):
    """An offset that cannot be read or committed."""


class OffsetOutOfRangeError(OffsetError):
    """The offset lies outside the log."""

    code = "OFFSET_OUT_OF_RANGE"


class OffsetNotAvailableError(OffsetError):
    """The offset is ahead of what may be read yet."""

    code = "OFFSET_NOT_AVAILABLE"
    retriable = True


class LogTruncatedError(OffsetError):
    """The log was truncated below the reader's position."""

    code = "LOG_TRUNCATED"


class NoCommittedOffsetError(OffsetError):
    """There is no committed offset, and auto.offset.reset is none."""

    code = "NO_COMMITTED_OFFSET"


class InvalidCommitOffsetError(OffsetError):
    """The offset lies beyond the end of the log, or before a committed one."""

    code = "INVALID_COMMIT_OFFSET"


class ProducerStateError(MillstreamError):
    """What the partition knows of this producer does not fit what it sends."""


class OutOfOrderSequenceError(ProducerStateError):
    """A sequence number is neither a repeat nor the next one."""

    code = "OUT_OF_ORDER_SEQUENCE"


class DuplicateSequenceError(ProducerStateError):
    """The batch was appended before; its offset is no longer known."""

    code = "DUPLICATE_SEQUENCE"


class UnknownProducerError(ProducerStateError):
    """The partition knows nothing of this producer."""

    code = "UNKNOWN_PRODUCER"


class InvalidProducerEpochError(ProducerStateError):
    """A newer epoch of this producer id exists."""

    code = "INVALID_PRODUCER_EPOCH"
    fatal = True


class GroupError(MillstreamError):
    """The group, or this member's place in it, has changed."""


class NotCoordinatorError(GroupError):
    """The coordinator does not own the group (any more)."""

    code = "NOT_COORDINATOR"
    retriable = True


class CoordinatorLoadingError(GroupError):
    """No coordinator owns the group yet, or it is still loading."""

    code = "COORDINATOR_LOADING"
    retriable = True


class UnknownMemberError(GroupError):
    """The member id is unknown or its session ended: join again."""

    code = "UNKNOWN_MEMBER"


class FencedMemberEpochError(GroupError):
    """The member's epoch is not the coordinator's: join again."""

    code = "FENCED_MEMBER_EPOCH"


class StaleMemberEpochError(GroupError):
    """A commit or heartbeat carries an older member epoch."""

    code = "STALE_MEMBER_EPOCH"
    retriable = True


class FencedInstanceError(GroupError):
    """Another member took this group.instance.id over."""

    code = "FENCED_INSTANCE"
    fatal = True


class UnreleasedInstanceError(GroupError):
    """Another live member holds this group.instance.id."""

    code = "UNRELEASED_INSTANCE"
    retriable = True


class InvalidGroupIdError(GroupError):
    """The group id is empty or too long."""

    code = "INVALID_GROUP_ID"


class UnknownGroupError(GroupError):
    """No group has this id."""

    code = "UNKNOWN_GROUP"


class GroupNotEmptyError(GroupError):
    """The group has members."""

    code = "GROUP_NOT_EMPTY"


class GroupFullError(GroupError):
    """The group has as many members as it may have."""

    code = "GROUP_FULL"


class UnsupportedAssignorError(GroupError):
    """No assignor of this name is known."""

    code = "UNSUPPORTED_ASSIGNOR"
