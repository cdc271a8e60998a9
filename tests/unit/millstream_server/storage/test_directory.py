"""Whose directory it is, how it was left, and topics that come and go."""

import json
from random import Random

import pytest

from millstream_server.runtime.checkpoint import read_checkpoint, write_checkpoint
from millstream_server.runtime.system import SystemFiles
from millstream_server.storage import (
    DirectoryConfig,
    DirectoryMismatchError,
    DirectoryOfflineError,
    ForeignClusterError,
    ForeignNodeError,
    LogConfig,
    LogDirectory,
    LogGoneError,
    NewerFormatError,
    RecoveryProgress,
)
from tests.fakes.manual_clock import ManualClock
from tests.fakes.memory_files import Fault, MemoryFiles
from tests.fakes.storage import TOPIC_ID, Appender, make_batch

PATH = "/data/log"
SMALL = LogConfig(preallocate_bytes=0, segment_bytes=2000)


def open_directory(
    files: MemoryFiles, *, cluster_id: str = "cluster", node_id: int = 1, seed: int = 1
) -> LogDirectory:
    directory = LogDirectory(
        PATH, files, ManualClock(), DirectoryConfig(cluster_id, node_id), random=Random(seed)
    )
    directory.open()
    return directory


def test_a_new_directory_gets_an_id_that_stays() -> None:
    files = MemoryFiles()
    first = open_directory(files)
    assert len(first.directory_id) == 16
    assert first.clean_shutdown
    assert first.previous_node_epoch is None
    files.power_loss()
    assert open_directory(files, seed=2).directory_id == first.directory_id
    assert open_directory(MemoryFiles(), seed=2).directory_id != first.directory_id


def test_a_directory_of_another_node_cluster_or_newer_format_is_refused_unchanged() -> None:
    files = MemoryFiles()
    open_directory(files)
    files.operations.clear()
    with pytest.raises(ForeignNodeError, match="belongs to node 1, not to 2"):
        open_directory(files, node_id=2)
    with pytest.raises(ForeignClusterError, match="belongs to cluster cluster, not to other"):
        open_directory(files, cluster_id="other")
    identity = json.loads(read_checkpoint(files, f"{PATH}/identity") or b"")
    newer = json.dumps({**identity, "format_version": 2, "something": "new"})
    write_checkpoint(files, f"{PATH}/identity", newer.encode())
    files.operations.clear()
    with pytest.raises(NewerFormatError, match="start the newer version"):
        open_directory(files)
    assert {name for name, _ in files.operations} <= {"make_directory", "open", "read", "size"}


def test_an_identity_that_is_damaged_or_gone_is_not_guessed() -> None:
    appender = Appender()
    appender.append(make_batch())
    files = appender.files.copy()
    files.damage(f"{PATH}/identity", b"rubbish")
    with pytest.raises(DirectoryMismatchError, match="cannot be read"):
        open_directory(files)
    files.remove(f"{PATH}/identity")
    with pytest.raises(DirectoryMismatchError, match="identity file is missing"):
        open_directory(files)


def test_the_clean_shutdown_marker_holds_for_one_start_and_one_epoch() -> None:
    files = MemoryFiles()
    directory = open_directory(files)
    directory.record_node_epoch(7)
    directory.close()
    files.power_loss()
    second = open_directory(files)
    assert (second.clean_shutdown, second.previous_node_epoch) == (True, 7)
    second.record_node_epoch(9)
    third = open_directory(files)  # the second one was killed
    assert (third.clean_shutdown, third.previous_node_epoch) == (False, 9)
    third.close()
    write_checkpoint(files, f"{PATH}/node-epoch", b'{"node_epoch": 12}')
    assert not open_directory(files).clean_shutdown


def test_a_log_that_is_there_is_returned_with_new_settings() -> None:
    appender = Appender(config=SMALL)
    log = appender.log
    again = appender.directory.create_log(TOPIC_ID, 0, LogConfig(segment_bytes=5000))
    assert again is log
    assert log.config.segment_bytes == 5000


def test_a_new_log_survives_power_loss() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.files.power_loss()
    assert list(Appender(appender.files).directory.logs) == [(TOPIC_ID, 0)]


def test_a_deleted_topic_is_set_aside_then_removed_in_bounded_steps() -> None:
    appender = Appender(config=SMALL, trash_files_per_turn=3)
    for _ in range(30):
        appender.append(make_batch())
    log = appender.log
    assert appender.directory.set_aside_log(TOPIC_ID, 0)
    assert not appender.directory.set_aside_log(TOPIC_ID, 0)
    assert appender.directory.logs == {}
    with pytest.raises(LogGoneError):
        log.read(0, 100, 1)
    new = appender.log  # the same partition made anew has nothing of the old
    assert new.end_offset == 0
    appender.append(make_batch())
    again = Appender(appender.files, SMALL, trash_files_per_turn=3)  # leftovers are found
    assert again.log.end_offset == 1
    turns = 1
    while again.directory.trash.empty():
        turns += 1
    assert turns > 2
    names = appender.files.list_directory(PATH)
    assert not [name for name in names if name.endswith(".deleted")]


@pytest.mark.parametrize("operation", ["write", "sync", "open"])
def test_a_log_that_goes_while_it_is_written_takes_nothing_with_it(operation: str) -> None:
    appender = Appender(config=SMALL)
    for _ in range(13):
        appender.append(make_batch())
    other = appender.directory.create_log(bytes(16), 1, SMALL)
    files = appender.files
    before = files.fault_for

    def fault_for(name: str, path: str) -> Fault | None:
        if name == operation and path.endswith(".log") and (TOPIC_ID, 0) in appender.directory.logs:
            appender.directory.set_aside_log(TOPIC_ID, 0)
        return before(name, path)

    log = appender.log
    staged = log.stage([make_batch((b"x" * 900,))], 1, 0)
    errors: list[object] = []
    appender.writer.submit(log, staged, lambda _, error: errors.append(error))
    files.fault_for = fault_for  # type: ignore[method-assign]
    appender.executor.run()
    assert appender.directory.offline_reason is None
    assert len(errors) == 1
    assert errors[0] is None or isinstance(errors[0], LogGoneError)
    other.begin_epoch(1)
    assert other.failure is None


def test_recovery_tells_how_far_it_is() -> None:
    appender = Appender(config=SMALL)
    appender.append(make_batch())
    for number in range(4):
        appender.directory.create_log(bytes([number]) * 16, number, SMALL)
    seen: list[RecoveryProgress] = []
    directory = LogDirectory(
        PATH, appender.files.copy(), ManualClock(), DirectoryConfig("cluster", 1),
        random=Random(1),
    )  # fmt: skip
    directory.open(seen.append)
    assert [one.logs_done for one in seen if one.logs_total != 5] == []
    assert seen[-1] == directory.recovery
    assert (seen[-1].logs_done, seen[-1].scanned_bytes) == (5, appender.log.size_bytes)


def test_lost_points_cost_a_whole_scan_and_nothing_else() -> None:
    appender = Appender(config=SMALL)
    for _ in range(40):
        appender.append(make_batch())
    expected = appender.read_all()
    appender.directory.close()
    appender.files.damage(f"{PATH}/log-points", b"rubbish")
    again = Appender(appender.files, SMALL)
    assert again.read_all() == expected
    assert again.directory.recovery.scanned_bytes == again.log.size_bytes


def test_a_sync_that_fails_while_opening_keeps_the_directory_offline() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.files.faults.append(Fault("sync", "*.log"))
    directory = LogDirectory(
        PATH, appender.files, ManualClock(), DirectoryConfig("cluster", 1), random=Random(1)
    )
    with pytest.raises(DirectoryOfflineError):
        directory.open()
    assert directory.offline_reason is not None


def test_foreign_names_in_the_folder_are_left_alone() -> None:
    files = MemoryFiles()
    open_directory(files)
    files.make_directory(f"{PATH}/lost+found")
    write_checkpoint(files, f"{PATH}/notes", b"mine")
    directory = open_directory(files)
    assert directory.logs == {}
    assert files.exists(f"{PATH}/lost+found")
    assert read_checkpoint(files, f"{PATH}/notes") == b"mine"


def test_it_works_on_a_real_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("data") / "log")
    config = LogConfig(segment_bytes=20_000)
    appender = Appender(SystemFiles(), config, path=path)
    for sequence in range(60):
        appender.append(make_batch((b"x" * 1000,), producer_id=3, base_sequence=sequence))
    expected = appender.read_all()
    killed = Appender(SystemFiles(), config, path=path)
    assert killed.read_all() == expected
    assert killed.log.segment_count > 3
    killed.directory.record_node_epoch(1)
    killed.directory.close()
    clean = Appender(SystemFiles(), config, path=path)
    assert clean.directory.clean_shutdown
    assert clean.directory.recovery.scanned_bytes == 0
    assert clean.read_all() == expected
    clean.log.delete_before(40)
    while clean.directory.trash.empty():
        pass
    clean.directory.set_aside_log(TOPIC_ID, 0)
    while clean.directory.trash.empty():
        pass
    assert SystemFiles().list_directory(path) == ["identity", "log-points", "node-epoch"]
