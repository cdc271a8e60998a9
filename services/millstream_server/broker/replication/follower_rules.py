"""What a follower decides about its log, given what the leader says (invariants 13 to 15). Pure."""

from millstream_server.storage.epochs import EpochHistory


class TruncationBelowMarkError(Exception):
    """The leader's log parts from this one below what is known to be committed: nobody may cut
    here (invariant 14)."""


def continues(
    previous_offset: int, previous_epoch: int | None, end_offset: int, end_epoch: int | None
) -> bool:
    """True if a push fits the end of this log: the same offset, written before in the same leader
    epoch. A leader whose log begins there knows no epoch before it."""
    if previous_offset != end_offset:
        return False
    return previous_epoch is None or end_epoch is None or previous_epoch == end_epoch


def end_epoch(epochs: EpochHistory, start: int, end: int) -> int | None:
    """The leader epoch of the last record in a log from ``start`` to ``end``; None in an empty
    one, and for a record older than all epochs that are known still."""
    return epochs.epoch_of(end - 1) if end > start else None


def truncation_target(
    divergent_epoch: int, divergent_end: int, epochs: EpochHistory, start: int, end: int
) -> int:
    """Where to cut a log of these epochs, from ``start`` to ``end``, that parts from the leader's:
    the lesser of the leader's end of the epoch and this log's own (KIP-279)."""
    own = epochs.end_of(divergent_epoch, end)
    # Without such an epoch here, every record is of a newer one, which the leader lacks.
    return min(divergent_end, own.end_offset if own is not None else start)


def check_truncation(target: int, high_watermark: int, *, recovering: bool) -> None:
    """Raises TruncationBelowMarkError. After an unclean election the new leader's log counts,
    whatever was committed before (invariant 7)."""
    if target < high_watermark and not recovering:
        raise TruncationBelowMarkError(
            f"the leader asks to cut at {target}; all below {high_watermark} is committed"
        )
