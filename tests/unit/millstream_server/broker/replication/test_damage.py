"""A replica whose log is damaged leaves every set, then copies its log anew (invariants 6, 34)."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream_server.broker.partition import Role
from millstream_server.runtime.system import SystemFiles
from millstream_server.storage.errors import LogDamagedError, StorageError
from tests.fakes.broker_node import BrokerNode
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_leader import ScriptedLeader, leader_frame
from tests.fakes.waiting import until


async def follow_one_record(leader: ScriptedLeader) -> None:
    await leader.push(await leader.begin(), leader_frame(b"a", base_offset=0))
    await leader.reported(1)


def find_rot(node: BrokerNode) -> None:
    """As a read of old bytes would."""
    replica = node.replica("logs")
    error = LogDamagedError("bytes are missing", offset=0, path="some.log")
    replica.log.fail(error)
    node.app.hosted.note_failure(replica, error)


def reports(node: BrokerNode, kind: str) -> list[object]:
    return [one for one in node.view.executed if one.WhichOneof("kind") == kind]


def refuse_once(
    monkeypatch: pytest.MonkeyPatch, call: str, code: int, matches: Callable[[str], bool]
) -> list[str]:
    """The first call of this name whose last path matches fails; that path is put in the list."""
    real = getattr(SystemFiles, call)
    refused: list[str] = []

    def refuse(files: SystemFiles, *paths: str) -> None:
        if matches(paths[-1]) and not refused:
            refused.append(paths[-1])
            raise OSError(code, os.strerror(code))
        real(files, *paths)

    monkeypatch.setattr(SystemFiles, call, refuse)
    return refused


async def test_a_damaged_replica_is_reported_and_keeps_its_log_while_others_count_on_it(
    leader: ScriptedLeader, follower: BrokerNode, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    find_rot(follower)
    await until(lambda: bool(reports(follower, "report_damaged_logs")))
    report = follower.view.executed[-1].report_damaged_logs
    assert (report.node_id, report.node_epoch) == (1, 5)
    assert report.logs[0].reason == "bytes are missing"
    assert not list((tmp_path / "node-1").glob("*.damaged"))


async def test_out_of_every_set_it_sets_the_damaged_log_aside_and_copies_anew(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    find_rot(follower)
    await until(lambda: bool(reports(follower, "report_damaged_logs")))
    metadata.change_partition("logs", 0, isr=(2,))
    begun = await leader.begin()
    assert begun.end_offset == 0
    await leader.push(begun, leader_frame(b"a", base_offset=0), high_watermark=1)
    await leader.reported(1)
    aside = list((tmp_path / "node-1").glob("*.damaged"))
    assert len(aside) == 1
    assert any(path.stat().st_size for path in aside[0].iterdir() if path.suffix == ".log")


async def test_without_a_place_it_waits_until_nobody_can_be_proposing_it(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, isr=(2,))
    epoch = metadata.image.topic("logs").partitions[0].partition_epoch
    assert (await leader.begin()).begin.partition_epoch == epoch
    find_rot(follower)
    await until(lambda: bool(reports(follower, "report_damaged_logs")))
    assert follower.view.executed[-1].report_damaged_logs.logs[0].partition_epoch == epoch
    await asyncio.sleep(0.02)
    assert not list((tmp_path / "node-1").glob("*.damaged"))
    metadata.change_partition("logs", 0, damaged=(1,))
    begun = await leader.begin()
    assert (begun.end_offset, begun.begin.partition_epoch) == (0, epoch + 1)
    assert list((tmp_path / "node-1").glob("*.damaged"))


async def test_damaged_again_it_waits_again(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, isr=(2,))
    await leader.begin()
    for times in (1, 2):
        find_rot(follower)
        await until(lambda times=times: len(reports(follower, "report_damaged_logs")) == times)
        await asyncio.sleep(0.02)
        assert len(list((tmp_path / "node-1").glob("*.damaged"))) == times - 1
        metadata.change_partition("logs", 0, damaged=(1,))
        assert (await leader.begin()).end_offset == 0


async def test_damaged_while_a_round_waits_for_the_disk_it_does_not_begin(
    leader: ScriptedLeader, follower: BrokerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follow_one_record(leader)
    writer = follower.app.hosted.writer
    held: list[Callable[[object, StorageError | None], None]] = []
    with monkeypatch.context() as patched:
        patched.setattr(writer, "has_jobs", lambda log: True)
        patched.setattr(writer, "run", lambda log, job, done: held.append(done))
        leader.end_sessions()
        await until(lambda: bool(held))
    find_rot(follower)
    held[0](None, None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await leader.begin()


async def test_proposed_in_spite_of_the_rot_that_it_found_it_reports_that_again(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, isr=(2,))
    await leader.begin()
    find_rot(follower)
    await until(lambda: bool(reports(follower, "report_damaged_logs")))
    metadata.change_partition("logs", 0, isr=(2, 1))
    await until(lambda: len(reports(follower, "report_damaged_logs")) == 2)
    assert not list((tmp_path / "node-1").glob("*.damaged"))


async def test_without_a_leader_the_damaged_log_stays_where_it_is(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, isr=(), leader_id=None, leader_epoch=2)
    await until(lambda: follower.replica("logs").state.role is Role.IDLE)
    find_rot(follower)
    metadata.change_partition("logs", 0, min_isr=1)
    epoch = metadata.image.topic("logs").partitions[0].partition_epoch
    await until(lambda: follower.replica("logs").state.in_sync.partition_epoch == epoch)
    assert not list((tmp_path / "node-1").glob("*.damaged"))
    assert not reports(follower, "report_damaged_logs")


async def test_a_replica_that_lost_its_place_tells_how_far_its_log_reaches(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    frames = [leader_frame(b"v", base_offset=n) for n in range(3)]
    await leader.push(await leader.begin(), *frames)
    await leader.reported(3)
    metadata.change_partition(
        "logs", 0, isr=(), last_known_elr=(1, 2), leader_id=None, leader_epoch=2
    )
    await until(lambda: bool(reports(follower, "report_recovered_logs")))
    log = follower.view.executed[-1].report_recovered_logs.logs[0]
    assert (log.last_epoch, log.synced_end_offset) == (1, 3)


async def test_rule_34_damage_that_was_met_outlives_a_restart(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata, tmp_path: Path
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, isr=(), leader_id=None, leader_epoch=2)
    find_rot(follower)
    marked = Path(follower.replica("logs").log.path) / "mark"
    await until(marked.exists)
    await follower.stop()
    again = BrokerNode(metadata, tmp_path / "node-1", node_id=1)
    await again.start(epoch=6)
    assert again.app.directory.damaged_logs()
    metadata.change_partition("logs", 0, isr=(2,), leader_id=2, leader_epoch=3)
    await until(lambda: bool(reports(again, "report_damaged_logs")))
    metadata.change_partition("logs", 0, damaged=(1,))
    assert (await leader.begin()).end_offset == 0
    await again.stop()


async def test_rule_34_a_damaged_log_that_the_disk_does_not_set_aside_is_not_copied_on(
    leader: ScriptedLeader,
    follower: BrokerNode,
    metadata: FakeMetadata,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await follow_one_record(leader)
    refused = refuse_once(
        monkeypatch, "rename", errno.EROFS, lambda target: target.endswith(".damaged")
    )
    find_rot(follower)
    await until(lambda: bool(reports(follower, "report_damaged_logs")))
    metadata.change_partition("logs", 0, isr=(2,), damaged=(1,))
    assert (await leader.begin()).end_offset == 0
    assert refused
    assert len(list((tmp_path / "node-1").glob("*.damaged"))) == 1


async def test_moved_back_with_a_damaged_log_it_knows_its_epochs_from_the_first(
    leader: ScriptedLeader,
    follower: BrokerNode,
    metadata: FakeMetadata,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, replicas=(2,), isr=(2,))
    await until(lambda: not follower.app.hosted.replicas)
    directory = follower.app.directory
    (log,) = directory.logs.values()
    log.fail(LogDamagedError("bytes are missing", offset=0, path="some.log"))
    mark, known = directory.mark_damaged_log, []

    def note(topic_id: bytes, number: int) -> None:
        known.append(follower.replica("logs").state.leader_epoch)
        mark(topic_id, number)

    monkeypatch.setattr(directory, "mark_damaged_log", note)
    metadata.change_partition("logs", 0, replicas=(2, 1), leader_epoch=4)
    await until(lambda: bool(reports(follower, "report_damaged_logs")))
    assert known == [4]


async def test_rule_34_damage_met_while_fenced_is_marked_as_well(
    leader: ScriptedLeader, follower: BrokerNode, metadata: FakeMetadata
) -> None:
    await follow_one_record(leader)
    metadata.change_node(1, fenced=True)
    find_rot(follower)
    await until((Path(follower.replica("logs").log.path) / "mark").exists)
    assert not reports(follower, "report_damaged_logs")


async def test_damaged_again_after_a_renaming_that_was_not_synced_it_waits_again(
    leader: ScriptedLeader,
    follower: BrokerNode,
    metadata: FakeMetadata,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await follow_one_record(leader)
    metadata.change_partition("logs", 0, isr=(2,))
    await leader.begin()
    find_rot(follower)
    await until(lambda: len(reports(follower, "report_damaged_logs")) == 1)
    folder = follower.app.directory.path
    refused = refuse_once(monkeypatch, "sync_directory", errno.EMFILE, lambda path: path == folder)
    metadata.change_partition("logs", 0, damaged=(1,))
    assert (await leader.begin()).end_offset == 0
    assert refused
    find_rot(follower)
    await until(lambda: len(reports(follower, "report_damaged_logs")) == 2)
    assert len(list((tmp_path / "node-1").glob("*.damaged"))) == 1
