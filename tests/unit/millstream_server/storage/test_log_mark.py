"""What a log must not lose sight of when the process ends: a cut that nobody has heard of (rule 7),
damage that was met (rule 34)."""

import errno

import pytest

from millstream_server.storage import (
    DiskFullError,
    FlushMode,
    LogConfig,
    LogDamagedError,
    StorageError,
)
from millstream_server.storage.errors import LogGoneError
from millstream_server.storage.log_mark import MARK_FILE, mark_cut, read_mark
from millstream_server.storage.log_upkeep import restart
from tests.fakes.killed_job import runs_to_its_end
from tests.fakes.memory_files import Fault, MemoryFiles
from tests.fakes.storage import TOPIC_ID, Appender, make_batch

KEY = (TOPIC_ID, 0)


def filled() -> Appender:
    """Four synced batches under node epoch 3; left by a kill."""
    appender = Appender()
    appender.directory.record_node_epoch(3)
    for _ in range(4):
        appender.append(make_batch())
    return appender


def tail_spoilt() -> MemoryFiles:
    """No later header tells that the last batch was synced: recovery takes it for a torn tail."""
    appender = filled()
    path = f"{appender.folder}/{0:020d}.log"
    content = bytearray(appender.files.content(path))
    content[-1] ^= 1
    appender.files.damage(path, bytes(content))
    return appender.files


def damaged() -> Appender:
    """A log in which a read met damage below the recovery point."""
    appender = filled()
    appender.log.flush()
    path = f"{appender.folder}/{0:020d}.log"
    content = bytearray(appender.files.content(path))
    content[len(content) // 4 - 1] ^= 1
    appender.files.damage(path, bytes(content))
    with pytest.raises(LogDamagedError):
        appender.log.read(0, 100_000, 4)
    return appender


def test_rule_7_a_cut_is_told_by_every_start_until_the_controller_has_heard() -> None:
    files = tail_spoilt()
    for _ in range(3):  # killed each time before it was registered
        again = Appender(files)
        assert again.log.end_offset == 3
        assert (again.directory.cut_logs, again.directory.previous_node_epoch) == ([KEY], 3)
    again.directory.record_node_epoch(4)
    files.power_loss()
    later = Appender(files)
    assert (later.directory.cut_logs, later.directory.previous_node_epoch) == ([], 4)


def test_rule_7_a_disk_without_room_for_the_mark_gives_up_the_proof_of_all_logs() -> None:
    files = tail_spoilt()
    files.faults.append(Fault("write", f"*{MARK_FILE}*", error=errno.ENOSPC))
    first = Appender(files)
    assert first.directory.cut_logs == [KEY]
    files.power_loss()
    assert Appender(files).directory.previous_node_epoch is None


def test_rule_7_a_kill_at_any_step_of_a_cut_leaves_what_tells_it() -> None:
    probe = tail_spoilt()
    before = len(probe.operations)
    Appender(probe)
    steps = len(probe.operations) - before
    for kept in range(steps):
        files = tail_spoilt()
        assert not runs_to_its_end(files, kept, lambda files=files: Appender(files))
        files.power_loss()
        again = Appender(files)
        assert again.directory.cut_logs == [KEY] or again.directory.previous_node_epoch is None


def test_rule_7_a_stop_before_the_controller_has_heard_makes_no_unclean_stop_a_clean_one() -> None:
    appender = filled()
    appender.files.power_loss()
    unheard = Appender(appender.files)
    assert not unheard.directory.clean_shutdown
    unheard.directory.close()
    again = Appender(appender.files)
    assert not again.directory.clean_shutdown
    again.directory.record_node_epoch(4)
    again.directory.close()
    clean = Appender(appender.files)
    assert (clean.directory.clean_shutdown, clean.directory.previous_node_epoch) == (True, 4)
    clean.directory.close()  # nor has anybody heard of this start, but there is nothing to hear
    assert Appender(appender.files).directory.clean_shutdown


@pytest.mark.parametrize("clean", [False, True])
def test_rule_34_damage_is_not_forgotten_by_a_restart(clean: bool) -> None:
    appender = damaged()
    if clean:
        appender.directory.close()
    else:
        appender.directory.mark_damaged_log(*KEY)
        appender.directory.mark_damaged_log(*KEY)
        appender.files.power_loss()
    again = Appender(appender.files)
    if not clean:  # else the log was closed
        assert str(again.log.failure) == str(appender.log.failure)
    assert isinstance(again.log.failure, LogDamagedError)
    assert again.directory.cut_logs == [KEY]
    again.directory.record_node_epoch(4)  # the mark stays until the log is set aside
    assert isinstance(Appender(appender.files).log.failure, LogDamagedError)


def test_a_sound_log_is_not_marked_as_damaged() -> None:
    appender = filled()
    appender.directory.mark_damaged_log(*KEY)
    assert read_mark(appender.files, appender.folder) is None


def test_damage_outdoes_a_cut_and_a_mark_that_cannot_be_read_is_damage() -> None:
    appender = damaged()
    mark_cut(appender.files, appender.folder)
    appender.directory.mark_damaged_log(*KEY)
    mark = read_mark(appender.files, appender.folder)
    assert mark is not None
    assert mark.rot is not None
    appender.files.damage(f"{appender.folder}/{MARK_FILE}", b"rubbish")
    assert isinstance(Appender(appender.files).log.failure, LogDamagedError)


def test_a_mark_goes_with_its_log_and_by_an_operators_order_to_cut() -> None:
    appender = damaged()
    appender.directory.mark_damaged_log(*KEY)
    assert appender.directory.set_aside_log(*KEY, damaged=True)
    assert appender.log.failure is None
    assert appender.log.end_offset == 0

    appender = damaged()
    appender.directory.mark_damaged_log(*KEY)
    appender.directory.cut_damaged_log(*KEY)
    appender.files.power_loss()
    again = Appender(appender.files)
    assert (again.log.failure, again.log.end_offset) == (None, 0)


@pytest.mark.parametrize("reason", [errno.EROFS, errno.ENOSPC])
def test_rule_34_a_damaged_log_that_cannot_be_set_aside_stays_what_it_is(reason: int) -> None:
    appender = damaged()
    appender.files.faults.append(Fault("rename", error=reason, times=1))
    with pytest.raises(StorageError):
        appender.directory.set_aside_log(*KEY, damaged=True)
    assert appender.directory.offline_reason is None
    log = appender.directory.create_log(*KEY, LogConfig(preallocate_bytes=0))
    assert isinstance(log.failure, LogDamagedError)
    assert appender.directory.set_aside_log(*KEY, damaged=True)
    assert appender.log.end_offset == 0


def test_a_log_that_cannot_be_set_aside_goes_on() -> None:
    appender = filled()
    appender.files.faults.append(Fault("rename", error=errno.EROFS, times=1))
    with pytest.raises(StorageError):
        appender.directory.set_aside_log(*KEY)
    appender.append(make_batch())
    assert appender.acknowledged[-1] == (4, 5)


def test_a_log_whose_renaming_is_not_synced_yet_leaves_nothing_behind() -> None:
    appender = filled()
    appender.log.flush()
    appender.files.faults.append(
        Fault("sync_directory", appender.directory.path, error=errno.EMFILE, times=1)
    )
    with pytest.raises(StorageError):
        appender.directory.set_aside_log(*KEY)
    assert (appender.log.failure, appender.log.end_offset) == (None, 0)  # a new one
    while appender.directory.trash.empty():
        pass
    names = appender.files.list_directory(appender.directory.path)
    assert not [name for name in names if name.endswith(".deleted")]


def test_a_read_beside_the_renaming_takes_no_segment_for_missing() -> None:
    config = LogConfig(preallocate_bytes=0, segment_bytes=1024)
    appender = Appender(config=config)
    for _ in range(40):
        appender.append(make_batch())
    log = appender.log
    appender.files.rename(log.path, f"{log.path}.0.deleted")
    log.is_moving = True
    with pytest.raises(LogGoneError):
        log.read(0, 100, 40)
    assert log.failure is None


def test_a_sync_that_outlasts_its_log_writes_nothing_into_the_next_one() -> None:
    appender = Appender(config=LogConfig(preallocate_bytes=0, flush_mode=FlushMode.PAGE_CACHE))
    appender.append(make_batch())
    old = appender.log

    def set_aside(operation: str) -> None:
        if operation == "sync":
            appender.files.before = None
            appender.directory.set_aside_log(*KEY)
            appender.directory.create_log(*KEY, LogConfig(preallocate_bytes=0))

    appender.files.before = set_aside
    with pytest.raises(LogGoneError):
        old.flush()
    assert f"{1:020d}.producers" not in appender.files.list_directory(appender.folder)
    assert (appender.log.recovery_point, appender.directory.offline_reason) == (0, None)


def test_a_disk_without_room_for_the_recovery_point_cuts_nothing_and_works_on() -> None:
    appender = filled()
    appender.log.flush()
    appender.files.faults.append(Fault("write", "*log-points*", error=errno.ENOSPC, times=1))
    with pytest.raises(DiskFullError):
        appender.log.truncate_to(2)
    assert (appender.log.end_offset, appender.directory.offline_reason) == (4, None)
    assert appender.log.truncate_to(2) == 2


def test_a_disk_without_room_for_the_recovery_point_begins_no_log_anew_and_works_on() -> None:
    appender = filled()
    appender.log.flush()
    appender.files.faults.append(Fault("write", "*log-points*", error=errno.ENOSPC, times=1))
    with pytest.raises(DiskFullError):
        restart(appender.log, 9)
    assert (appender.log.end_offset, appender.directory.offline_reason) == (4, None)
    assert restart(appender.log, 9) == 9


def test_a_disk_that_fills_up_during_a_cut_below_the_start_is_asked_for_the_new_start_again() -> (
    None
):
    appender = Appender()
    for _ in range(3):
        appender.append(make_batch((b"a", b"b", b"c")))
    appender.log.delete_before(4)
    appender.log.flush()
    fault = Fault("write", "*log-points*", error=errno.ENOSPC, skip=1, times=2)
    appender.files.faults.append(fault)
    for _ in range(2):
        with pytest.raises(DiskFullError):
            appender.log.truncate_to(2)
        assert (appender.log.start_offset, appender.log.end_offset) == (2, 2)
    assert appender.directory.offline_reason is None
    assert appender.log.truncate_to(2) == 2
    appender.append(make_batch())
    again = Appender(appender.files).log
    assert (again.failure, again.start_offset, again.end_offset) == (None, 2, 3)
