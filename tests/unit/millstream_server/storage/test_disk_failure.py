"""A full disk fails the append and nothing else; a broken one takes the directory offline."""

import errno

import pytest

from millstream_server.storage import (
    DirectoryOfflineError,
    DiskFullError,
    DiskRefusedError,
    FlushMode,
    LogConfig,
    StorageError,
)
from tests.fakes.memory_files import Fault, MemoryFiles
from tests.fakes.storage import TOPIC_ID, Appender, make_batch

CONFIG = LogConfig(preallocate_bytes=0, segment_bytes=6000)
BIG = b"x" * 1000


def filled(flush_mode: FlushMode = FlushMode.FSYNC) -> Appender:
    config = LogConfig(preallocate_bytes=0, segment_bytes=6000, flush_mode=flush_mode)
    appender = Appender(MemoryFiles(), config)
    for sequence in range(3):
        appender.append(make_batch((BIG,), producer_id=4, base_sequence=sequence))
    return appender


def fill_disk(appender: Appender, room: int) -> None:
    files = appender.files
    assert isinstance(files, MemoryFiles)
    files.capacity_bytes = 0
    files.capacity_bytes = 1 << 40
    free = files.free_bytes()
    assert free is not None
    files.capacity_bytes = (1 << 40) - free + room


@pytest.mark.parametrize("room", [0, 1, 50, 500, 1000])
def test_an_append_without_room_leaves_nothing_behind(room: int) -> None:
    appender = filled()
    expected = appender.read_all()
    producers = appender.log.producers.copy()
    fill_disk(appender, room)
    for sequence in (3, 4):
        appender.submit(make_batch((BIG,), producer_id=4, base_sequence=sequence))
    appender.executor.run()
    assert [type(error) for error in appender.errors] == [DiskFullError, DiskFullError]
    assert not any(error.indeterminate for error in appender.errors)
    log = appender.log
    assert log.end_offset == log.written_end_offset == log.synced_end_offset == 3
    assert log.producers == producers
    content = appender.files.content(f"{appender.folder}/{0:020d}.log")
    assert log.size_bytes == len(content)
    assert appender.read_all() == expected
    assert log.failure is None
    fill_disk(appender, 1 << 20)
    appender.append(make_batch((BIG,), producer_id=4, base_sequence=3))
    assert appender.acknowledged[-1] == (3, 4)
    assert len(appender.read_all()) == 4


def test_appends_that_fit_are_kept_when_a_later_one_of_the_same_job_does_not() -> None:
    appender = filled()
    fill_disk(appender, 2300)
    for _ in range(4):
        appender.submit(make_batch((BIG,)))
    appender.executor.run()
    assert appender.acknowledged[3:] == [(3, 4), (4, 5)]
    assert len(appender.errors) == 2
    again = Appender(appender.files.copy(), CONFIG)  # it also starts on a full disk
    assert again.log.end_offset == 5
    assert len(again.read_all()) == 5
    with pytest.raises(DiskFullError):
        again.log.begin_epoch(2)


def test_appends_staged_behind_a_failed_one_fail_with_it() -> None:
    appender = filled()
    fill_disk(appender, 10)
    appender.submit(make_batch((BIG,)))  # its job is made at once …
    appender.submit(make_batch((b"small",)))  # … and this waits behind it
    appender.executor.step()
    assert [type(error) for error in appender.errors] == [DiskFullError, DiskFullError]
    assert appender.writer.waiting_bytes == 0
    assert appender.log.end_offset == 3
    assert appender.log.in_flight == 0


def test_a_failed_append_leaves_no_gap_when_room_comes_back_within_the_job() -> None:
    appender = filled()
    appender.submit(make_batch())  # the job under way …
    appender.submit(make_batch((BIG,)))  # … and three steps of the next one
    appender.writer.run(appender.log, lambda: fill_disk(appender, 1 << 20), lambda *_: None)
    appender.submit(make_batch((b"behind",)))
    appender.executor.step()
    fill_disk(appender, 10)
    appender.executor.run()
    assert [type(error) for error in appender.errors] == [DiskFullError, DiskFullError]
    log = appender.log
    assert (log.written_end_offset, log.end_offset, log.in_flight) == (4, 4, 0)
    appender.append(make_batch((b"next",)))
    assert [base for base, _ in appender.read_all()] == [0, 1, 2, 3, 4]


def test_retention_without_descriptors_spares_the_directory() -> None:
    config = LogConfig(preallocate_bytes=0, segment_bytes=1500, retention_bytes=2000)
    appender = Appender(MemoryFiles(), config)
    for _ in range(4):
        appender.append(make_batch((BIG,)))
    again = Appender(appender.files.copy(), config)
    again.files.faults.append(Fault("open", "*", errno.EMFILE))
    errors: list[StorageError | None] = []
    log = again.log
    again.writer.run(log, lambda: log.retain(2_000, 4), lambda _, error: errors.append(error))
    again.executor.run()
    assert [type(error) for error in errors] == [DiskRefusedError]
    assert again.directory.offline_reason is None
    again.files.faults.clear()
    assert log.retain(2_000, 4) > 0


def test_retention_makes_room_although_the_full_disk_takes_no_new_names() -> None:
    config = LogConfig(preallocate_bytes=0, segment_bytes=1500, retention_bytes=2000)
    appender = Appender(MemoryFiles(), config)
    for _ in range(4):
        appender.append(make_batch((BIG,)))
    appender.files.faults.append(Fault("rename", "*/*.log", errno.ENOSPC))
    assert appender.log.retain(2_000, 4) > 0
    assert appender.directory.offline_reason is None
    assert [base for base, _ in appender.read_all()] == [2, 3]
    while appender.directory.trash.empty():
        pass
    kept = [name for name in appender.files.list_directory(appender.folder) if ".log" in name]
    assert len(kept) == 2


def test_a_log_set_aside_on_a_full_disk_is_removed_all_the_same() -> None:
    appender = filled()
    assert appender.log.size_bytes
    fill_disk(appender, 0)
    assert appender.directory.set_aside_log(TOPIC_ID, 0)
    while appender.directory.trash.empty():
        pass
    free = appender.files.free_bytes()
    assert free is not None
    assert free > 3 * len(BIG)


def test_a_failed_roll_is_definite_and_the_open_segment_goes_on() -> None:
    appender = filled()
    for _ in range(2):
        appender.append(make_batch((BIG,)))
    appender.files.faults.append(Fault("open", "*/00000000000000000005.log", errno.EMFILE, times=1))
    appender.append(make_batch((BIG,)))
    assert type(appender.errors[0]) is DiskRefusedError
    appender.append(make_batch((BIG,)))
    assert appender.acknowledged[-1] == (5, 6)
    assert appender.log.segment_count == 2
    assert Appender(appender.files, CONFIG).log.end_offset == 6


def test_page_cache_appends_are_undone_as_well() -> None:
    appender = filled(FlushMode.PAGE_CACHE)
    fill_disk(appender, 100)
    log = appender.log
    staged = log.stage([make_batch((BIG,))], 1, 1000)
    assert log.can_write_now
    with pytest.raises(DiskFullError):
        appender.writer.write_now(log, staged)
    assert (log.end_offset, log.in_flight) == (3, 0)
    fill_disk(appender, 1 << 20)
    staged = log.stage([make_batch((BIG,))], 1, 1000)
    appender.writer.write_now(log, staged)
    assert log.written_end_offset == 4


def test_a_full_disk_does_not_move_the_recovery_point_and_later_does() -> None:
    appender = filled()
    before = appender.log.recovery_point
    fill_disk(appender, 0)
    appender.log.flush()
    assert appender.log.failure is None
    assert appender.log.recovery_point == before
    fill_disk(appender, 1 << 20)
    appender.log.flush()
    assert appender.log.recovery_point == 3


def test_an_epoch_that_cannot_be_recorded_is_not_begun() -> None:
    appender = filled()
    fill_disk(appender, 0)
    with pytest.raises(DiskFullError):
        appender.log.begin_epoch(2)
    assert appender.log.epochs.latest == 1


@pytest.mark.parametrize(
    ("operation", "error"),
    [("write", errno.EIO), ("sync", errno.EIO), ("sync", errno.ENOSPC)],
)
def test_a_device_error_is_fatal_for_the_directory(operation: str, error: int) -> None:
    appender = filled()
    appender.files.faults.append(Fault(operation, "*.log", error, times=1))
    other = appender.directory.create_log(bytes(16), 0, CONFIG)
    appender.submit(make_batch())
    appender.submit(make_batch())
    appender.executor.run()
    assert [type(found) for found in appender.errors] == [DirectoryOfflineError] * 2
    assert all(found.indeterminate for found in appender.errors)
    assert len(appender.acknowledged) == 3
    assert appender.directory.offline_reason is not None
    for log in (appender.log, other):
        with pytest.raises(DirectoryOfflineError):
            log.read(0, 100, 3)
    with pytest.raises(DirectoryOfflineError):
        appender.writer.admit(1)
    count = len(appender.files.operations)
    appender.directory.close()
    after = {name for name, _ in appender.files.operations[count:]}
    assert not after & {"write", "sync", "rename"}  # never tried again
    again = Appender(appender.files, CONFIG)
    assert not again.directory.clean_shutdown
    assert again.log.end_offset >= 3


def test_a_tail_that_cannot_be_cut_is_fatal() -> None:
    appender = filled()
    appender.files.faults += [
        Fault("write", "*.log", errno.ENOSPC, short_bytes=10),
        Fault("truncate", "*.log", errno.ENOSPC),
    ]
    appender.append(make_batch())
    assert isinstance(appender.errors[0], DirectoryOfflineError)


def test_a_read_error_of_the_device_is_fatal() -> None:
    appender = filled()
    appender.files.faults.append(Fault("read", "*.log", errno.EIO, times=1))
    with pytest.raises(DirectoryOfflineError):
        appender.log.read(0, 100, 3)
    with pytest.raises(DirectoryOfflineError):
        appender.log.read(0, 100, 3)


def test_a_defect_in_a_job_is_never_taken_for_success() -> None:
    appender = filled()

    def broken() -> None:
        raise ZeroDivisionError

    outcomes: list[object] = []
    appender.writer.run(appender.log, broken, lambda _, error: outcomes.append(error))
    appender.executor.run()
    assert isinstance(outcomes[0], DirectoryOfflineError)
