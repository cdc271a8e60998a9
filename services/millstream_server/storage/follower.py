"""What a follower does with the bytes that its leader pushed, before it stages them.

Pure. Both checksums are verified (invariant 31), and the batches must continue the log without a
gap, in epochs that never go back. A new epoch is begun durably before its first append (invariant
9), so the batches come apart by epoch::

    for run in take_frames(data, log.end_offset, log.epochs.latest):
        if run.epoch != log.epochs.latest:
            writer.begin_epoch(log, run.epoch, …)      # and wait for it
        writer.submit(log, log.stage_as_follower(run.batches), done)
"""

from typing import NamedTuple

from millstream.record import CorruptBatchError, iterate_frames, parse_header, verify_batch
from millstream_server.storage.appends import IncomingBatch
from millstream_server.storage.errors import MalformedAppendError


class EpochRun(NamedTuple):
    """Batches of one leader epoch that follow one another."""

    epoch: int
    batches: list[IncomingBatch]


def take_frames(data: bytes, end_offset: int, latest_epoch: int | None) -> list[EpochRun]:
    """The batches in a leader's bytes, by epoch. Raises MalformedAppendError."""
    runs: list[EpochRun] = []
    epoch = -1 if latest_epoch is None else latest_epoch
    try:
        for frame in iterate_frames(data):
            batch = data[frame.batch_start : frame.end]
            header = parse_header(batch)
            verify_batch(batch, header)
            if header.base_offset != end_offset:
                raise MalformedAppendError(
                    f"the leader sent offset {header.base_offset}, this log ends at {end_offset}"
                )
            if header.leader_epoch < epoch:
                raise MalformedAppendError(
                    f"the leader sent epoch {header.leader_epoch} after epoch {epoch}"
                )
            if not runs or header.leader_epoch != epoch:
                epoch = header.leader_epoch
                runs.append(EpochRun(epoch, []))
            runs[-1].batches.append(IncomingBatch(batch, header))
            end_offset = header.next_offset
    except CorruptBatchError as error:
        raise MalformedAppendError(f"the leader sent a damaged batch: {error}") from None
    return runs
