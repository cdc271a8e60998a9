"""One partition that this broker copies: begin, pushes, truncation, reports.

A round begins with a ``begin`` that tells the leader where this log ends. The leader answers with
a divergence, which is cut away before the next round, or with pushes. Whatever does not fit ends
the round, and the next one begins from what this log then holds. The phases::

    RESTING   nothing is asked of the leader: no session, a pause, or work on the log to wait for
    BEGUN     the round is told, or about to be; its pushes are taken
    CUTTING   the log is being cut back
"""

import enum
from collections import deque
from functools import partial
from typing import Any

import structlog

from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.replication.follower_rules import (
    TruncationBelowMarkError,
    check_truncation,
    continues,
    end_epoch,
    truncation_target,
)
from millstream_server.broker.replication.follower_session import FollowerLane, Session
from millstream_server.runtime.errors import reason_name
from millstream_server.storage.errors import (
    LogDamagedError,
    LogGoneError,
    MalformedAppendError,
    StorageError,
)
from millstream_server.storage.follower import EpochRun, take_frames
from millstream_server.storage.log_upkeep import restart
from millstream_server.v1 import replication_service_pb2 as pb

_log = structlog.get_logger()
# Until the leader's image, or this one, has caught up with the other.
_EPOCH_RETRY_S = 0.03
# After what will not be over so soon: a full disk, a damaged push, a leader without its log.
_TROUBLE_RETRY_S = 0.5
_EPOCH_REASONS = frozenset(
    {"UNKNOWN_LEADER_EPOCH", "NOT_LEADER", "LEADER_NOT_AVAILABLE", "FENCED_LEADER_EPOCH"}
)


class Phase(enum.Enum):
    """See the module's docstring."""

    RESTING = "resting"
    BEGUN = "begun"
    CUTTING = "cutting"


class FollowedPartition:
    """The copying of one partition under one leader epoch. Everything runs on the event loop."""

    def __init__(self, replica: Replica, hosted: HostedPartitions, leader_epoch: int) -> None:
        self.replica = replica
        self.leader_epoch = leader_epoch
        self.phase = Phase.RESTING
        self.round = 0
        # Partition epoch known here when the round began.
        self._begun_at = 0
        self._hosted = hosted
        self._fsync = replica.state.fsync
        self._log = replica.log
        self._session: Session | None = None
        # Steps whenever what was under way must not be taken for the present: a new session, the
        # end of a round, the end of following.
        self._turn = 0
        self._begin_due = False
        # (written end, synced end) told last.
        self._told = (-1, -1)
        # The end of the log once everything taken is staged, the epoch of the record before it
        # and the newest epoch.
        self._end = 0
        self._end_epoch: int | None = None
        self._newest_epoch: int | None = None
        # Taken and not yet staged, each with its lane and the bytes of credit to give back.
        self._runs: deque[tuple[EpochRun, FollowerLane, int]] = deque()
        # The leader's high watermark and log start, as heard last.
        self._mark = 0
        self._leader_start = 0
        self._start_moving = False

    @property
    def key(self) -> tuple[bytes, int]:
        """Topic id and number."""
        return self.replica.state.topic_id, self.replica.state.number

    # The session

    def attach(self, session: Session) -> None:
        """A session with the leader is there: begin."""
        self._session = session
        self._begin_now()

    def detach(self) -> None:
        """The session is over, or this leader epoch is. What was staged stays staged."""
        self._session = None
        self._rest()

    def mode_may_have_changed(self) -> None:
        """Look at the flush mode anew. What was written before it became fsync must be synced once
        and told, or it never counts at the leader (invariant 10)."""
        before, self._fsync = self._fsync, self.replica.state.fsync
        if before or not self._fsync:
            return

        def synced(_: object, error: StorageError | None) -> None:
            if error is not None:
                self._hosted.note_failure(self.replica, error)
            elif self._session is not None:
                self._session.report_soon(self)

        self._hosted.writer.run(self._log, self._log.flush, synced)

    def place_may_have_changed(self) -> None:
        """Outside of the in-sync set, begin anew whenever the partition epoch stepped: nobody joins
        by what was told in a round that was begun before (invariant 12)."""
        state = self.replica.state
        stepped = self._begun_at < state.in_sync.partition_epoch
        if stepped and self.phase is Phase.BEGUN and state.node_id not in state.in_sync.committed:
            self._begin_now()

    def position(self) -> pb.FollowerPosition | None:
        """What to tell the leader now; None if it knows it already."""
        log = self._log
        if self.phase is not Phase.BEGUN:
            return None
        ends = (log.written_end_offset, log.synced_end_offset)
        if ends == self._told and not self._begin_due:
            return None
        self._told = ends
        begin = None
        if self._begin_due:
            self._begin_due = False
            begin = pb.FollowerBegin(
                round=self.round, last_epoch=log.epochs.latest, partition_epoch=self._begun_at
            )
        return pb.FollowerPosition(
            topic_id=self.key[0],
            partition=self.key[1],
            leader_epoch=self.leader_epoch,
            end_offset=ends[0],
            synced_end_offset=ends[1],
            begin=begin,
        )

    def _rest(self) -> None:
        """End the round."""
        self._turn += 1
        self.phase = Phase.RESTING
        self._begin_due = False
        while self._runs:
            _, lane, size = self._runs.popleft()
            lane.give_back(size)

    def _begin(self) -> None:
        """Begin a round once nothing is under way to the disk any more."""
        turn = self._turn
        log = self._log
        if log.failure is not None:
            return

        def settled(_: object, error: StorageError | None) -> None:
            if not self._ended(turn, error):
                self._round_begins(self._session)

        behind = self.replica.state.fsync and log.synced_end_offset < log.end_offset
        if log.in_flight or self._hosted.writer.has_jobs(log) or behind:
            # A cut that an earlier leader asked for lowers the end that would be told. In fsync
            # mode what was written before must be synced once, or it never counts.
            # Else only the writer's turn is waited for.
            self._hosted.writer.run(log, log.flush if behind else lambda: None, settled)
        else:
            self._round_begins(self._session)

    def _round_begins(self, session: Session | None) -> None:
        log = self._log
        if session is None or log.failure is not None:  # rot may have been met while this waited
            return
        self.phase = Phase.BEGUN
        self.round = session.next_round()
        self._begun_at = self.replica.state.in_sync.partition_epoch
        self._begin_due = True
        self._end = log.end_offset
        self._end_epoch = end_epoch(log.epochs, log.start_offset, self._end)
        self._newest_epoch = log.epochs.latest
        self._tell_partition()
        session.report_soon(self)

    def _begin_now(self) -> None:
        self._rest()
        self._begin()

    def _begin_later(self, delay_s: float) -> None:
        self._rest()
        turn = self._turn

        def again() -> None:
            if turn == self._turn:
                self._begin()

        self._hosted.call_later(delay_s, again)

    # Pushes

    def take(self, push: Any, lane: FollowerLane) -> None:
        """Take in a ``ReplicatedPartition``. Every byte of credit it used is given back, now or
        when the bytes are written."""
        frames = push.frames  # each look at the field copies it
        size = len(frames)
        if self.phase is not Phase.BEGUN or self._begin_due or push.round != self.round:
            lane.give_back(size)
            return
        if push.error:
            self._refused(reason_name(push.error), push)
        elif push.leader_epoch != self.leader_epoch:
            # One of the two images is behind; it is the image that says who leads.
            lane.give_back(size)
            self._begin_later(_EPOCH_RETRY_S)
        elif push.HasField("divergence"):
            self._cut(push.divergence)
        else:
            self._mark, self._leader_start = push.high_watermark, push.log_start_offset
            if size:
                self._take_frames(push, frames, lane)
            if self.phase is Phase.BEGUN:
                self._tell_partition()

    def _take_frames(self, push: Any, frames: bytes, lane: FollowerLane) -> None:
        size = len(frames)
        previous_epoch = push.previous_epoch if push.HasField("previous_epoch") else None
        try:
            if not continues(push.previous_offset, previous_epoch, self._end, self._end_epoch):
                raise MalformedAppendError(
                    f"the push begins at {push.previous_offset} after epoch {previous_epoch}, the "
                    f"log ends at {self._end} with epoch {self._end_epoch}"
                )
            runs = take_frames(frames, self._end, self._newest_epoch)
        except MalformedAppendError as error:
            _log.warning("push refused", partition=str(self.replica.state), error=str(error))
            self._hosted.counters.refused_pushes += 1
            lane.give_back(size)
            self._begin_later(_EPOCH_RETRY_S)
            return
        last = runs[-1]
        self._end = last.batches[-1].header.next_offset
        self._end_epoch = self._newest_epoch = last.epoch
        for run in runs:
            self._runs.append((run, lane, size if run is last else 0))
        self._hosted.counters.replication_bytes_in += size
        self._stage()

    def _stage(self) -> None:
        """Stage what was taken; a new epoch is begun durably before its first append (9)."""
        log, writer = self._log, self._hosted.writer
        while self._runs and not log.epoch_pending:
            run, lane, size = self._runs[0]
            if run.epoch != log.epochs.latest:
                writer.begin_epoch(
                    log,
                    run.epoch,
                    partial(self._epoch_begun, self._turn),
                    at_offset=run.batches[0].header.base_offset,
                )
                return
            try:
                self._hosted.take_room(size, essential=self.replica.internal)
                staged = log.stage_as_follower(run.batches)
                if log.can_write_now:
                    writer.write_now(log, staged)
                    self._runs.popleft()
                    self._written(self._turn, lane, size, log.synced_end_offset, None)
                    continue
            except StorageError as error:
                self._trouble(error)
                return
            except Refusal as refusal:  # the disk is full
                _log.debug("copying waits", partition=str(self.replica.state), why=refusal.message)
                self._begin_later(_TROUBLE_RETRY_S)
                return
            self._runs.popleft()
            writer.submit(log, staged, partial(self._written, self._turn, lane, size))

    def _epoch_begun(self, turn: int, _: object, error: StorageError | None) -> None:
        if not self._ended(turn, error):
            self._stage()

    def _written(
        self, turn: int, lane: FollowerLane, size: int, _: int, error: StorageError | None
    ) -> None:
        lane.give_back(size)
        if self._ended(turn, error) or self._session is None:
            return
        self._tell_partition()
        self._session.report_soon(self)

    def _tell_partition(self) -> None:
        log = self._log
        self.replica.copied(
            log.end_offset, log.written_end_offset, log.synced_end_offset, self._mark
        )
        # Records that the leader deleted go here too, as far as they are committed.
        start = min(self._leader_start, self.replica.state.high_watermark)
        if start > log.start_offset and not self._start_moving:
            self._move_start(start)

    def _move_start(self, start: int) -> None:
        self._start_moving = True

        def moved(_: object, error: StorageError | None) -> None:
            self._start_moving = False
            if error is not None:
                self._hosted.note_failure(self.replica, error)
            elif self.phase is Phase.BEGUN:
                self._tell_partition()  # it may have moved on meanwhile

        self._hosted.writer.run(self._log, partial(self._log.delete_before, start), moved)

    # Answers other than records

    def _ended(self, turn: int, error: StorageError | None) -> bool:
        """True if what was begun in a turn failed, or is not for the present any more. What failed
        then concerns the log all the same: nobody else may ever meet its damage."""
        if turn == self._turn and error is not None:
            self._trouble(error)
        elif error is not None and not isinstance(error, LogGoneError):
            self._hosted.note_failure(self.replica, error)
        return turn != self._turn or error is not None

    def _trouble(self, error: StorageError) -> None:
        self._hosted.note_failure(self.replica, error)
        self._begin_later(_TROUBLE_RETRY_S)

    def _refused(self, reason: str, push: Any) -> None:
        log, start = self._log, push.log_start_offset
        empty = log.start_offset == log.end_offset
        if reason == "OFFSET_OUT_OF_RANGE" and (empty or start >= log.end_offset):
            # The leader has deleted what would come next here, or everything that is here; or an
            # empty log began in a batch, or knows epochs that the leader has forgotten.
            self._run_cut(partial(restart, log, start))
            return
        soon = reason in _EPOCH_REASONS
        if not soon:
            partition = str(self.replica.state)
            _log.warning("not replicated", partition=partition, reason=reason, message=push.message)
        self._begin_later(_EPOCH_RETRY_S if soon else _TROUBLE_RETRY_S)

    def _cut(self, to: Any) -> None:
        log = self._log
        ends = log.start_offset, log.end_offset
        target = truncation_target(to.epoch, to.end_offset, log.epochs, *ends)
        self._run_cut(partial(log.truncate_to, target), target)

    def _run_cut(self, job: Any, target: int | None = None) -> None:
        state = self.replica.state
        if target is not None:
            image_state = self._hosted.cluster.image.partition(*self.key)
            recovering = image_state is not None and image_state.recovering
            try:
                check_truncation(target, state.high_watermark, recovering=recovering)
            except TruncationBelowMarkError as error:
                # Most likely it slept through a recovery. What it has may be all that is left of
                # something: it is set aside for people, and the log is copied anew.
                self._rest()
                apart = LogDamagedError(str(error), offset=target, path=self._log.path)
                self._log.fail(apart)
                self._hosted.note_failure(self.replica, apart)
                return
        self._rest()
        self.phase = Phase.CUTTING
        turn = self._turn
        before = self._log.end_offset

        def cut(_: object, error: StorageError | None) -> None:
            # Also of a job that failed after its cut: the ends are what the log says.
            if self._log.end_offset < state.high_watermark:
                # Other records will stand there: nobody may read on as if nothing was.
                lost = Refusal("OFFSET_NOT_AVAILABLE", "the log was cut after a loss")
                self.replica.lose_readers(lost)
            state.cut_copy(self._log.start_offset, self._log.end_offset)
            if error is None:
                _log.info("log cut back", partition=str(state), end_before=before)
            if not self._ended(turn, error):
                self.phase = Phase.RESTING
                self._begin()

        self._hosted.writer.run(self._log, job, cut)
