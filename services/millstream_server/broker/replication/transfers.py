"""What a leader pushes of one partition to one follower: whether it may begin, and how far it is.

Pure. A transfer begins where the follower's log ends, if both logs agree up to there; it ends with
the leader epoch, the session, or an error. Within it offsets only grow::

    reported_end ≤ next_offset ≤ the leader's written end
"""

import enum
from typing import NamedTuple

from millstream_server.broker.refusal import Refusal
from millstream_server.storage.epochs import EpochEnd, EpochHistory


class Lane(enum.IntEnum):
    """Which stream of a session; the numbers are those of the wire."""

    TAIL = 1
    CATCH_UP = 2


class LaneBounds(NamedTuple):
    """A transfer that is further behind than ``enter`` goes on the lane for catching up, and leaves
    it again when less than ``leave`` is missing. Bytes."""

    enter: int
    leave: int


class LeaderLog(NamedTuple):
    """The leader's log as the beginning of a transfer sees it."""

    epochs: EpochHistory
    start_offset: int
    # What may be pushed.
    end_offset: int


def divergence_of(
    last_epoch: int | None, end_offset: int, log: LeaderLog, *, complete: bool = False
) -> EpochEnd | None:
    """Where a follower's log, which ends at ``end_offset`` and whose newest epoch is
    ``last_epoch``, parts from the leader's (invariant 14); None if it does not. ``complete``: the
    follower is known to hold everything committed, and so what was deleted here up to its end.
    Raises BeginElsewhere where nothing can tell, for what the follower has was deleted here."""
    if last_epoch is None:
        # An empty log; one that begins beyond this one's end has nothing to do with it.
        return EpochEnd(0, log.end_offset) if end_offset > log.end_offset else None
    found = log.epochs.end_of(last_epoch, log.end_offset)
    if found is None:
        # All epochs known here are newer: the logs can meet only where this one begins. What the
        # follower has below may differ from what stood there, down to where the batches begin.
        if end_offset > log.start_offset:
            return EpochEnd(last_epoch, log.start_offset)
        if end_offset and not (complete and end_offset == log.start_offset):
            raise BeginElsewhere(end_offset, log.start_offset)
        return None
    if found.epoch < last_epoch or found.end_offset < end_offset:
        return found
    return None


class BeginElsewhere(Refusal):
    """The follower's end is no place to push from: records are missing there, it lies within a
    batch, or nothing tells that the logs agree up to there. ``offset`` is where an empty log may
    begin, at a batch of which only the last records may be left."""

    def __init__(self, end_offset: int, offset: int) -> None:
        super().__init__(
            "OFFSET_OUT_OF_RANGE", f"a log that ends at {end_offset} is to begin anew at {offset}"
        )
        self.offset = offset


class Transfer:
    """See the module's docstring."""

    __slots__ = (
        "lane",
        "leader_epoch",
        "next_offset",
        "reported_end",
        "reported_synced_end",
        "round",
        "told_start",
        "told_watermark",
    )

    def __init__(
        self, round_number: int, leader_epoch: int, end_offset: int, synced_end_offset: int
    ) -> None:
        self.round = round_number
        self.leader_epoch = leader_epoch
        self.lane = Lane.TAIL
        # What to push next.
        self.next_offset = end_offset
        self.reported_end = end_offset
        self.reported_synced_end = synced_end_offset
        # High watermark and log start that the follower heard last.
        self.told_watermark = -1
        self.told_start = -1

    def choose_lane(self, behind_bytes: int, bounds: LaneBounds) -> Lane | None:
        """The lane for the next push; None while pushes on the other lane are under way, which
        this one could overtake."""
        on_tail = self.lane is Lane.TAIL
        wanted = (
            Lane.CATCH_UP
            if behind_bytes > (bounds.enter if on_tail else bounds.leave)
            else Lane.TAIL
        )
        if wanted is not self.lane:
            if self.reported_end < self.next_offset:
                return None
            self.lane = wanted
        return wanted

    def pushed(self, next_offset: int) -> None:
        """Everything below an offset is on its way."""
        if next_offset <= self.next_offset:
            raise ValueError(f"a push ends at {next_offset}, not beyond {self.next_offset}")
        self.next_offset = next_offset

    def reported(self, end_offset: int, synced_end_offset: int) -> None:
        """The follower has it up to here. Raises Refusal INVALID_REQUEST for what cannot be."""
        if not self.reported_end <= end_offset <= self.next_offset:
            raise Refusal(
                "INVALID_REQUEST",
                f"end_offset: {end_offset} is not between {self.reported_end}, reported before, "
                f"and {self.next_offset}, pushed so far",
            )
        if not self.reported_synced_end <= synced_end_offset <= end_offset:
            raise Refusal(
                "INVALID_REQUEST",
                f"synced_end_offset: {synced_end_offset} is not between "
                f"{self.reported_synced_end}, reported before, and {end_offset}",
            )
        self.reported_end = end_offset
        self.reported_synced_end = synced_end_offset
