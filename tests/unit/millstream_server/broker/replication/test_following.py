"""What a follower does with what its leader says, each case a sentence of invariants 13 to 15."""

import asyncio
from pathlib import Path

import pytest

from millstream.record import parse_header
from millstream.record.batch import iterate_frames
from millstream_server.broker.partition import Role
from tests.fakes.broker_node import BrokerNode
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_leader import CATCH_UP, TAIL, ScriptedLeader, leader_frame
from tests.fakes.waiting import until


def offsets_and_epochs(node: BrokerNode) -> list[tuple[int, int]]:
    log = node.replica("logs").log
    data = log.read(log.start_offset, 1 << 20, log.written_end_offset)
    headers = [parse_header(data[one.batch_start : one.end]) for one in iterate_frames(data)]
    return [(header.base_offset, header.leader_epoch) for header in headers]


async def copied(leader: ScriptedLeader, epoch: int = 1, records: int = 4) -> None:
    """Let the follower copy some records of one epoch, all committed."""
    begun = await leader.begin()
    frames = [leader_frame(b"v", base_offset=n, leader_epoch=epoch) for n in range(records)]
    await leader.push(begun, *frames, high_watermark=records)
    await leader.reported(records)


async def test_an_empty_follower_begins_at_zero_and_reports_what_it_synced(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    assert (begun.end_offset, begun.leader_epoch) == (0, 1)
    assert not begun.begin.HasField("last_epoch")
    await leader.push(begun, leader_frame(b"a", b"b", base_offset=0), high_watermark=1)
    report = await leader.reported(2)
    assert report.end_offset == 2
    state = follower.replica("logs").state
    assert (state.role, state.high_watermark, state.end_offset) == (Role.FOLLOWING, 1, 2)
    assert {(one.follower_id, one.follower_epoch, one.leader_id) for one in leader.hellos} == {
        (1, 5, 2)
    }
    assert len({one.session_id for one in leader.hellos}) == 1


async def test_a_high_watermark_never_passes_the_follower_s_own_end(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, leader_frame(b"a", base_offset=0), high_watermark=50)
    await leader.reported(1)
    assert follower.replica("logs").state.high_watermark == 1


async def test_a_high_watermark_moves_without_records(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, leader_frame(b"a", base_offset=0), high_watermark=0)
    await leader.reported(1)
    await leader.push(begun, previous_offset=1, high_watermark=1)
    await until(lambda: follower.replica("logs").state.high_watermark == 1)


async def test_records_of_several_epochs_in_one_push_keep_their_epochs(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    metadata.change_partition("logs", 0, leader_epoch=6)
    begun = await leader.position(lambda one: one.HasField("begin") and one.leader_epoch == 6)
    frames = [leader_frame(b"x", base_offset=n, leader_epoch=(1, 1, 3, 6)[n]) for n in range(4)]
    await leader.push(begun, *frames)
    await leader.reported(4)
    assert offsets_and_epochs(follower) == [(0, 1), (1, 1), (2, 3), (3, 6)]
    entries = follower.replica("logs").log.epochs.entries
    assert [(one.epoch, one.start_offset) for one in entries] == [(1, 0), (3, 2), (6, 3)]


async def test_a_push_that_does_not_continue_the_log_starts_another_round(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, leader_frame(b"a", base_offset=0))
    await leader.reported(1)
    await leader.push(begun, leader_frame(b"c", base_offset=2), previous_offset=2)
    again = await leader.begin()
    assert again.begin.round > begun.begin.round
    assert (again.end_offset, again.begin.last_epoch) == (1, 1)


async def test_a_push_after_another_epoch_s_record_is_refused(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, leader_frame(b"a", base_offset=0))
    await leader.reported(1)
    frame = leader_frame(b"b", base_offset=1, leader_epoch=3)
    await leader.push(begun, frame, previous_offset=1, previous_epoch=2)
    await leader.begin()
    assert offsets_and_epochs(follower) == [(0, 1)]


async def test_a_push_of_an_earlier_round_changes_nothing(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, leader_frame(b"c", base_offset=2), previous_offset=2)
    again = await leader.begin()
    await leader.push(begun, leader_frame(b"a", base_offset=0), previous_offset=0)
    await leader.push(again, leader_frame(b"A", base_offset=0))
    await leader.reported(1)
    log = follower.replica("logs").log
    assert b"A" in log.read(0, 1 << 20, 1)


async def test_a_push_of_another_leader_epoch_is_not_stored(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, leader_frame(b"a", base_offset=0, leader_epoch=2), leader_epoch=2)
    await leader.begin()
    assert offsets_and_epochs(follower) == []


async def test_a_damaged_batch_is_not_stored(leader: ScriptedLeader, follower: BrokerNode) -> None:
    begun = await leader.begin()
    damaged = bytearray(leader_frame(b"abcdef", base_offset=0))
    damaged[-1] ^= 1
    await leader.push(begun, bytes(damaged))
    await leader.begin()
    assert offsets_and_epochs(follower) == []
    assert follower.app.counters.refused_pushes == 1


async def test_credit_comes_back_for_every_byte_pushed(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    granted = dict(leader.credit)
    value = bytes(1 << 20)
    for n in range(4):
        frame = leader_frame(value, base_offset=n)
        await leader.push(begun, frame, previous_offset=n, lane=(TAIL, CATCH_UP)[n % 2])
        await leader.reported(n + 1)
    # A dropped push gives its credit back as well; small rests go with the next message.
    await leader.push(begun, leader_frame(value, base_offset=9), previous_offset=9)
    await leader.begin()
    await until(
        lambda: all(leader.credit[lane] > granted[lane] - granted[lane] // 8 for lane in granted)
    )


async def test_a_diverged_log_is_cut_where_the_epochs_part(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    begun = await leader.begin()
    frames = [leader_frame(b"v", base_offset=n) for n in range(4)]
    await leader.push(begun, *frames, high_watermark=2)
    await leader.reported(4)
    metadata.change_partition("logs", 0, leader_epoch=2)
    begun = await leader.position(lambda one: one.HasField("begin") and one.leader_epoch == 2)
    assert (begun.end_offset, begun.begin.last_epoch) == (4, 1)
    await leader.push(begun, divergence={"epoch": 1, "end_offset": 3})
    again = await leader.begin()
    assert (again.end_offset, again.synced_end_offset) == (3, 3)
    await leader.push(again, leader_frame(b"w", base_offset=3, leader_epoch=2))
    await leader.reported(4)
    assert offsets_and_epochs(follower) == [(0, 1), (1, 1), (2, 1), (3, 2)]


async def test_epochs_without_records_go_too(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    await copied(leader)
    # It led for an epoch and wrote nothing (KAFKA-10706).
    metadata.change_partition("logs", 0, leader_epoch=2, leader_id=1)
    await follower.until_leading("logs")
    metadata.change_partition("logs", 0, leader_epoch=3, leader_id=2)
    begun = await leader.position(lambda one: one.HasField("begin") and one.leader_epoch == 3)
    assert begun.begin.last_epoch == 2
    await leader.push(begun, divergence={"epoch": 1, "end_offset": 4})
    again = await leader.begin()
    assert (again.end_offset, again.begin.last_epoch) == (4, 1)


async def test_nothing_committed_is_cut(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await copied(leader)
    leader.end_sessions()
    begun = await leader.begin()
    await leader.push(begun, divergence={"epoch": 1, "end_offset": 2})
    await until(lambda: bool(follower.view.executed))
    assert follower.view.executed[-1].HasField("report_damaged_logs")
    metadata.change_partition("logs", 0, isr=(2,))
    assert (await leader.begin()).end_offset == 0  # it copies anew
    [aside] = (tmp_path / "node-1").glob("*.damaged")
    [segment] = aside.glob("*.log")
    assert segment.read_bytes().count(b"\x7a") >= 4  # all that it had is there still


async def test_a_recovering_leader_s_log_counts_whatever_was_committed(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    await copied(leader)
    metadata.change_partition("logs", 0, leader_epoch=2, isr=(2,), recovering=True)
    begun = await leader.position(lambda one: one.HasField("begin") and one.leader_epoch == 2)
    await leader.push(begun, divergence={"epoch": 1, "end_offset": 2})
    again = await leader.begin()
    assert again.end_offset == 2
    assert follower.replica("logs").state.high_watermark == 2


async def test_a_follower_behind_the_leader_s_start_begins_anew_there(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    await copied(leader)
    metadata.change_partition("logs", 0, isr=(2,))
    leader.end_sessions()
    begun = await leader.begin()
    await leader.push(begun, reason="OFFSET_OUT_OF_RANGE", log_start_offset=90)
    again = await leader.begin()
    assert (again.end_offset, again.begin.HasField("last_epoch")) == (90, False)
    await leader.push(
        again, leader_frame(b"n", base_offset=90), previous_epoch=1, high_watermark=91
    )
    await leader.reported(91)
    log, state = follower.replica("logs").log, follower.replica("logs").state
    assert (log.start_offset, state.high_watermark) == (90, 91)


async def test_an_empty_log_that_began_within_a_batch_begins_before_it(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    await leader.push(await leader.begin(), reason="OFFSET_OUT_OF_RANGE", log_start_offset=90)
    begun = await leader.begin()
    assert begun.end_offset == 90
    await leader.push(begun, reason="OFFSET_OUT_OF_RANGE", log_start_offset=88)
    begun = await leader.begin()
    assert (begun.end_offset, begun.synced_end_offset) == (88, 88)
    frame = leader_frame(b"a", b"b", b"c", base_offset=88)
    await leader.push(begun, frame, high_watermark=91, log_start_offset=90)
    await leader.reported(91)
    log = follower.replica("logs").log
    await until(lambda: log.start_offset == 90)


async def test_records_that_the_leader_deleted_go_here_too(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    frames = [leader_frame(b"v", base_offset=n) for n in range(4)]
    await leader.push(begun, *frames, high_watermark=3)
    await leader.reported(4)
    await leader.push(begun, previous_offset=4, high_watermark=3, log_start_offset=2)
    await until(lambda: follower.replica("logs").log.start_offset == 2)


async def test_a_leader_that_does_not_know_the_epoch_yet_is_asked_again(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    begun = await leader.begin()
    await leader.push(begun, reason="UNKNOWN_LEADER_EPOCH")
    again = await leader.begin()
    await leader.push(again, leader_frame(b"a", base_offset=0))
    await leader.reported(1)


async def test_a_broken_session_is_opened_again_under_a_new_id(
    leader: ScriptedLeader, follower: BrokerNode
) -> None:
    await copied(leader)
    leader.end_sessions()
    begun = await leader.begin()
    assert begun.end_offset == 4
    assert len({one.session_id for one in leader.hellos}) == 2


async def test_an_elected_follower_leads_behind_everything_it_copied(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    await copied(leader)
    metadata.change_partition("logs", 0, leader_epoch=2, leader_id=1, isr=(1,))
    await follower.until_leading("logs")
    left = await leader.position(lambda one: one.leave)
    assert left.partition == 0
    state = follower.replica("logs").state
    assert (state.epoch_start_offset, state.high_watermark) == (4, 4)


async def test_a_new_registration_opens_a_new_session(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    await copied(leader)
    metadata.register(1, follower.port, epoch=9)
    await leader.begin()
    assert leader.hellos[-1].follower_epoch == 9


async def test_outside_of_the_in_sync_set_it_begins_anew_when_the_partition_epoch_steps(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    def epoch() -> int:
        return metadata.image.topic("logs").partitions[0].partition_epoch

    await leader.push(await leader.begin(), leader_frame(b"a", base_offset=0))
    await leader.reported(1)
    metadata.change_partition("logs", 0, min_isr=2)
    await until(lambda: follower.replica("logs").state.in_sync.partition_epoch == epoch())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):  # in sync, it only goes on
            await leader.begin()
    metadata.change_partition("logs", 0, isr=(2,))
    for _ in range(2):
        begun = await leader.begin()
        assert (begun.end_offset, begun.begin.partition_epoch) == (1, epoch())
        metadata.change_partition("logs", 0, min_isr=1 + epoch() % 2)
