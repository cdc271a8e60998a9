"""A follower whose disk is slow or full: what it tells its leader while work waits for the disk."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream_server.v1 import replication_service_pb2 as pb
from tests.fakes.broker_node import BrokerNode, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_leader import TAIL, ScriptedLeader, leader_frame
from tests.fakes.slow_files import SlowFiles
from tests.fakes.waiting import until

MIB = 1 << 20


@pytest.fixture
def files() -> SlowFiles:
    return SlowFiles()


@pytest.fixture
async def follower(
    metadata: FakeMetadata, leader: ScriptedLeader, tmp_path: Path, files: SlowFiles
) -> AsyncIterator[BrokerNode]:
    """Node 1, which follows node 2 in topic "logs"."""
    config = with_config(disk_retry_ms=10)
    node = BrokerNode(metadata, tmp_path / "node-1", node_id=1, config=config, files=files)
    await node.start(epoch=5)
    metadata.create_topic("logs", [2], replicas=[(2, 1)])
    yield node
    files.syncing.set()
    await node.stop()


async def begun_at(leader: ScriptedLeader, epoch: int) -> pb.FollowerPosition:
    return await leader.position(lambda one: one.HasField("begin") and one.leader_epoch == epoch)


async def follow_four_records(leader: ScriptedLeader) -> None:
    frames = [leader_frame(b"v", base_offset=n) for n in range(4)]
    await leader.push(await leader.begin(), *frames)
    await leader.reported(4)


async def follow_others(leader: ScriptedLeader, metadata: FakeMetadata) -> pb.FollowerPosition:
    """A second topic, whose records keep the disk busy."""
    metadata.create_topic("others", [2], replicas=[(2, 1)])
    return await leader.begin()


async def hold_cut_behind(
    leader: ScriptedLeader,
    follower: BrokerNode,
    files: SlowFiles,
    others: pb.FollowerPosition,
    begun: pb.FollowerPosition,
) -> None:
    """Topic "logs" is told to cut its log to three records while the disk syncs the others."""
    files.hold_syncs()
    await leader.push(others, leader_frame(b"v", base_offset=0))
    await until(files.sync_begun.is_set)
    await leader.push(begun, divergence={"epoch": 1, "end_offset": 3})
    await until(lambda: follower.app.writer.has_jobs(follower.replica("logs").log))


async def test_no_round_begins_while_a_cut_waits_for_the_disk(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, files: SlowFiles
) -> None:
    await follow_four_records(leader)
    others = await follow_others(leader, metadata)
    metadata.change_partition("logs", 0, leader_epoch=2)
    begun = await begun_at(leader, 2)
    # The next leader may have what this one lacks: it must not count on what is about to go.
    await hold_cut_behind(leader, follower, files, others, begun)
    metadata.change_partition("logs", 0, leader_epoch=3)
    await leader.position(lambda one: one.leave)
    files.syncing.set()
    begun = await begun_at(leader, 3)
    assert (begun.end_offset, begun.synced_end_offset) == (3, 3)
    await leader.push(begun, leader_frame(b"w", base_offset=3, leader_epoch=1))
    await leader.reported(4)


def spoil_second_batch(path: Path) -> None:
    """Flip a bit of its header; there are four."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4 + 12] ^= 1
    path.write_bytes(content)


async def test_rule_34_damage_met_by_a_cut_counts_though_its_round_is_over(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, files: SlowFiles
) -> None:
    await follow_four_records(leader)
    others = await follow_others(leader, metadata)
    metadata.change_partition("logs", 0, leader_epoch=2, isr=(2,))
    begun = await begun_at(leader, 2)
    log = follower.replica("logs").log
    await asyncio.to_thread(spoil_second_batch, Path(log.segments.active.store.path))
    await hold_cut_behind(leader, follower, files, others, begun)
    metadata.change_partition("logs", 0, leader_epoch=3, leader_id=None, isr=(), elr=(2,))
    await leader.position(lambda one: one.leave)
    files.syncing.set()
    await until((Path(log.path) / "mark").exists)  # what has to be done was begun


async def test_rule_15_a_cut_that_found_no_room_for_the_recovery_point_is_tried_again(
    leader: ScriptedLeader,
    follower: BrokerNode,
    metadata: FakeMetadata,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await follow_four_records(leader)
    metadata.change_partition("logs", 0, leader_epoch=2, isr=(2,))
    begun = await begun_at(leader, 2)
    log = follower.replica("logs").log
    lower = log.lower_recovery_point
    refused: list[int] = []

    def refuse_once(offset: int) -> None:
        if not refused:
            refused.append(offset)
            raise OSError(errno.ENOSPC, "injected")
        lower(offset)

    monkeypatch.setattr(log, "lower_recovery_point", refuse_once)
    await leader.push(begun, divergence={"epoch": 1, "end_offset": 3})
    again = await leader.begin()
    assert (refused, again.end_offset) == ([3], 4)
    await leader.push(again, divergence={"epoch": 1, "end_offset": 3})
    assert (await leader.begin()).end_offset == 3
    assert follower.app.hosted.offline is None


async def test_an_epoch_does_not_begin_where_the_records_before_it_found_no_room(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, files: SlowFiles
) -> None:
    metadata.change_partition("logs", 0, leader_epoch=6)
    begun = await begun_at(leader, 6)
    await leader.push(begun, *(leader_frame(b"v", base_offset=n) for n in range(2)))
    await leader.reported(2)
    files.write_error = errno.ENOSPC
    rest = [leader_frame(b"v", base_offset=n, leader_epoch=(1, 3)[n - 2]) for n in (2, 3)]
    await leader.push(begun, *rest, previous_offset=2)
    again = await leader.begin()
    assert (again.end_offset, again.begin.last_epoch) == (2, 1)
    files.write_error = 0
    while again.end_offset < 4:  # until the disk is tried again
        await leader.push(again, *rest)
        again = await leader.position()
    entries = follower.replica("logs").log.epochs.entries
    assert [(one.epoch, one.start_offset) for one in entries] == [(1, 0), (3, 3)]


async def all_credit_is_back(leader: ScriptedLeader, granted: int) -> None:
    """But for the small change that goes with a later message."""
    await until(lambda: granted - granted // 8 < leader.credit[TAIL] <= granted)


async def test_credit_comes_back_for_what_is_written_after_its_round(
    leader: ScriptedLeader, follower: BrokerNode, files: SlowFiles
) -> None:
    begun = await leader.begin()
    granted = leader.credit[TAIL]
    files.hold_syncs()
    for n in range(4):
        frame = leader_frame(bytes(MIB), base_offset=n)
        await leader.push(begun, frame, previous_offset=n)
    await until(lambda: follower.replica("logs").log.in_flight == 4)
    await leader.push(begun, leader_frame(b"x", base_offset=9), previous_offset=9)
    await until(lambda: follower.app.counters.refused_pushes == 1)
    files.syncing.set()
    assert (await leader.begin()).end_offset == 4
    await all_credit_is_back(leader, granted)


async def test_credit_comes_back_for_what_an_earlier_leader_epoch_pushed(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, files: SlowFiles
) -> None:
    begun = await leader.begin()
    granted = leader.credit[TAIL]
    files.hold_syncs()
    await leader.push(begun, leader_frame(bytes(MIB), base_offset=0))
    await until(files.sync_begun.is_set)
    # The first waits in the writer, the rest for their epoch to begin.
    rest = [leader_frame(bytes(MIB), base_offset=n, leader_epoch=n + 1) for n in (1, 2)]
    metadata.change_partition("logs", 0, leader_epoch=7)
    await leader.position(lambda one: one.leave)
    files.syncing.set()
    begun = await begun_at(leader, 7)
    files.hold_syncs()
    for n, frame in enumerate(rest, start=1):
        await leader.push(begun, frame, previous_offset=n)
    await until(lambda: follower.replica("logs").log.epoch_pending or files.sync_begun.is_set())
    metadata.change_partition("logs", 0, leader_epoch=8)
    await leader.position(lambda one: one.leave)
    files.syncing.set()
    await begun_at(leader, 8)
    await all_credit_is_back(leader, granted)


async def test_credit_of_an_earlier_session_is_not_given_to_the_next(
    leader: ScriptedLeader, follower: BrokerNode, files: SlowFiles
) -> None:
    begun = await leader.begin()
    granted = leader.credit[TAIL]
    files.hold_syncs()
    for n in range(4):
        frame = leader_frame(bytes(MIB), base_offset=n)
        await leader.push(begun, frame, previous_offset=n)
    await until(lambda: follower.replica("logs").log.in_flight == 4)
    leader.end_sessions()
    await until(lambda: len(leader.hellos) == 4)
    files.syncing.set()
    begun = await leader.begin()
    await leader.push(begun, leader_frame(bytes(3 * MIB), base_offset=4))
    await leader.reported(5)
    await until(lambda: leader.credit[TAIL] > granted - granted // 8)
    assert leader.credit[TAIL] == granted


async def test_what_was_written_before_the_mode_became_fsync_is_synced_and_reported(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    metadata.change_partition("logs", 0, leader_epoch=2, flush_mode="page_cache")
    begun = await begun_at(leader, 2)
    await leader.push(begun, leader_frame(b"v", base_offset=0))
    report = await leader.position(lambda one: one.end_offset == 1)
    assert report.synced_end_offset == 0
    metadata.change_partition("logs", 0, flush_mode="fsync")
    await leader.reported(1)
