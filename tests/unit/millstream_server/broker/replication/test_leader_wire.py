"""What a leader writes by hand is what the `.proto` says."""

from hypothesis import given
from hypothesis import strategies as st

from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replication.leader_wire import (
    ENTRY_BYTES,
    divergence_entry,
    error_entry,
    join_entries,
    progress_entry,
    push_entry,
    welcome_message,
)
from millstream_server.broker.replication.transfers import Transfer
from millstream_server.runtime.errors import reason_name
from millstream_server.storage.epochs import EpochEnd
from millstream_server.v1 import replication_service_pb2 as pb
from tests.fakes.broker_node import batch_of

KEY = (bytes(range(16)), 7)
OFFSETS = st.integers(0, (1 << 63) - 1)


def parse(*entries: tuple[bytes, ...]) -> pb.ReplicateResponse:
    return pb.ReplicateResponse.FromString(join_entries(entries))


def transfer(offset: int) -> Transfer:
    return Transfer(3, 5, offset, 0)


@given(OFFSETS, OFFSETS, OFFSETS, st.none() | st.integers(0, 1 << 31), st.binary(max_size=400))
def test_a_push_is_what_the_proto_says(
    offset: int, mark: int, start: int, epoch: int | None, frames: bytes
) -> None:
    entry = push_entry(KEY, transfer(offset), epoch, frames, mark, start)
    (parsed,) = parse(entry).partitions
    assert parsed == pb.ReplicatedPartition(
        topic_id=KEY[0],
        partition=7,
        leader_epoch=5,
        round=3,
        high_watermark=mark,
        log_start_offset=start,
        previous_offset=offset,
        previous_epoch=epoch,
        frames=frames,
    )
    assert parsed.HasField("previous_epoch") == (epoch is not None)
    assert sum(map(len, entry)) - len(frames) <= ENTRY_BYTES


def test_entries_of_all_kinds_share_a_message() -> None:
    frames = batch_of(b"value")
    push, news, parted, failed = parse(
        push_entry(KEY, transfer(9), 4, frames, 8, 2),
        progress_entry(KEY, transfer(9), 8, 2),
        divergence_entry(KEY, 6, 5, EpochEnd(4, 7), 8, 2),
        error_entry(KEY, 6, 5, Refusal("NOT_LEADER", "no"), 2),
    ).partitions
    assert push.frames == frames
    assert (news.high_watermark, news.log_start_offset, news.frames) == (8, 2, b"")
    assert (parted.divergence.epoch, parted.divergence.end_offset, parted.round) == (4, 7, 6)
    assert (reason_name(failed.error), failed.message, failed.leader_epoch) == (
        "NOT_LEADER",
        "no",
        5,
    )


def test_the_welcome_names_the_leaders_registration() -> None:
    assert pb.ReplicateResponse.FromString(welcome_message(12)).welcome.leader_node_epoch == 12
