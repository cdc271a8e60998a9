"""Snapshots on disk, and their way to another voter in parts."""

import pytest

from millstream_raft.directory_errors import DirectoryDamaged, NewerFormat
from millstream_raft.raft_messages import LogEntry, Position, SnapshotPart
from millstream_raft.snapshot_file import (
    Snapshot,
    SnapshotAssembly,
    SnapshotFile,
    encode_snapshot,
)
from tests.fakes.crash_files import Crash, CrashFiles
from tests.fakes.raft_cluster import NodeStopped, stop_node

PATH = "/raft/snapshot"
TEN = Position(10, 2)


def snapshot(index: int = 10, state: bytes = b"state" * 100) -> Snapshot:
    return Snapshot(LogEntry(b"\0last", index, 2), LogEntry(b"\0previous", index - 1, 2), state)


def load(files: CrashFiles) -> SnapshotFile:
    return SnapshotFile("/raft", files, stop_node)


def test_written_snapshot_survives_power_loss():
    files = CrashFiles()
    load(files).write(snapshot())
    found = load(files.after_power_loss())
    assert found.last == Position(10, 2)
    taken = found.take()
    assert taken is not None
    assert (taken.state, taken.last, taken.previous) == (
        snapshot().state,
        snapshot().last,
        snapshot().previous,
    )
    assert found.take() is None, "kept in memory only until it is restored"


def test_crash_at_every_operation_leaves_the_old_one_or_the_new_one():
    for crash_at in range(5):
        files = CrashFiles()
        store = load(files)
        store.write(snapshot(10))
        files.crash_at = len(files.operations) + crash_at
        with pytest.raises(Crash):
            store.write(snapshot(20))
        for found in (files.after_power_loss(), files.after_kill()):
            assert load(found).last in (Position(10, 2), Position(20, 2))


def test_failed_sync_stops_the_node():
    files = CrashFiles()
    store = load(files)
    files.failing_syncs = 1
    with pytest.raises(NodeStopped, match="cannot write"):
        store.write(snapshot())


def test_damage_is_refused():
    files = CrashFiles()
    load(files).write(snapshot())
    content = files.content(PATH)
    for at in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[at] ^= 1
        files.change(PATH, bytes(damaged))
        with pytest.raises((DirectoryDamaged, NewerFormat)):
            load(files)


def test_journal_that_begins_behind_the_snapshot_is_refused():
    files = CrashFiles()
    store = load(files)
    store.check_reaches(LogEntry(b"\1", 1, 0))
    with pytest.raises(DirectoryDamaged, match="reaches only 0"):
        store.check_reaches(LogEntry(b"\0", 9, 1))
    store.write(snapshot(10))
    store.check_reaches(LogEntry(b"\0", 9, 2))
    with pytest.raises(DirectoryDamaged, match="reaches only 10"):
        store.check_reaches(LogEntry(b"\0", 11, 2))


def parts_of(data: bytes, last: Position = TEN) -> list[SnapshotPart]:
    return [
        SnapshotPart(last, at, data[at : at + 100], at + 100 >= len(data))
        for at in range(0, len(data), 100)
    ]


def test_parts_of_the_file_make_the_file_again():
    files = CrashFiles()
    store = load(files)
    store.write(snapshot())
    sender = store.open_for_sending(100)
    assert sender is not None
    assembly = SnapshotAssembly(1 << 20)
    whole = None
    while whole is None:
        whole = assembly.add(sender.next_part())
    received = load(CrashFiles())
    assert received.install(whole, Position(10, 2))
    assert received.last == Position(10, 2)
    taken = received.take()
    assert taken is not None
    assert taken.state == snapshot().state


def test_lost_part_is_never_bridged():
    assembly = SnapshotAssembly(1 << 20)
    parts = parts_of(encode_snapshot(snapshot()))
    for part in parts[:2] + parts[3:]:
        assert assembly.add(part) is None
    results = [assembly.add(part) for part in parts]
    assert results[-1] == encode_snapshot(snapshot()), "a new first part begins anew"


def test_parts_of_two_snapshots_are_never_joined():
    assembly = SnapshotAssembly(1 << 20)
    old = parts_of(encode_snapshot(snapshot(10)), last=Position(10, 2))
    new = parts_of(encode_snapshot(snapshot(20)), last=Position(20, 2))
    assert assembly.add(old[0]) is None
    assert all(assembly.add(part) is None for part in new[1:])


def test_snapshot_larger_than_allowed_is_dropped():
    assembly = SnapshotAssembly(150)
    assert all(assembly.add(part) is None for part in parts_of(encode_snapshot(snapshot())))


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (encode_snapshot(snapshot())[:-1], Position(10, 2)),
        (encode_snapshot(snapshot()), Position(11, 2)),
        (b"", Position(10, 2)),
    ],
)
def test_received_file_that_is_not_whole_changes_nothing(data, last):
    files = CrashFiles()
    store = load(files)
    assert not store.install(data, last)
    assert store.last is None
    assert files.operations == []


def test_sender_goes_on_with_the_file_it_began():
    files = CrashFiles()
    store = load(files)
    store.write(snapshot(10))
    sender = store.open_for_sending(100)
    assert sender is not None
    first = sender.next_part()
    store.write(snapshot(20, b"other" * 200))
    assert sender.next_part().last == first.last == Position(10, 2)
    sender.close()


def test_nothing_is_sent_without_a_snapshot():
    assert load(CrashFiles()).open_for_sending(100) is None
