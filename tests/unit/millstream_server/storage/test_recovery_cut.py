"""A torn tail is cut wherever it is torn: every byte of the last batches is tried (rule 34)."""

from collections.abc import Callable
from errno import ENOSPC
from itertools import count
from random import Random

import pytest

from millstream_server.storage import FlushMode, LogConfig, LogDamagedError
from millstream_server.storage.epochs import EpochStart
from millstream_server.storage.errors import DiskFullError
from millstream_server.storage.log import Log
from millstream_server.storage.log_upkeep import restart
from millstream_server.storage.producers import Decision
from tests.fakes.killed_job import runs_to_its_end
from tests.fakes.memory_files import Fault, MemoryFiles
from tests.fakes.storage import Appender, make_batch

PAGE_CACHE = LogConfig(preallocate_bytes=0, flush_mode=FlushMode.PAGE_CACHE, segment_bytes=4096)


def written_log(batches: int = 6) -> tuple[Appender, list[int]]:
    """A log of which nothing was synced, and where each batch ends in its only segment."""
    appender = Appender(config=PAGE_CACHE)
    ends = []
    for number in range(batches):
        appender.append(make_batch((b"value %d" % number, None), producer_id=9,
                                   base_sequence=2 * number))  # fmt: skip
        ends.append(appender.log.size_bytes)
    return appender, ends


def segment_path(appender: Appender, base: int = 0) -> str:
    return f"{appender.folder}/{base:020d}.log"


def reopened(files: MemoryFiles) -> Appender:
    return Appender(files, config=PAGE_CACHE)


def test_a_cut_at_every_byte_leaves_the_whole_batches_before_it() -> None:
    appender, ends = written_log()
    path = segment_path(appender)
    content = appender.files.content(path)
    expected = appender.read_all()
    for size in range(len(content) + 1):
        files = appender.files.copy()
        files.damage(path, content[:size])
        again = reopened(files)
        whole = sum(end <= size for end in ends)
        assert again.log.failure is None
        assert again.read_all() == expected[:whole]
        assert again.log.end_offset == 2 * whole
        assert again.directory.recovery.cut_bytes == size - ([0, *ends][whole])
        # Such a replica cannot prove that it lacks nothing (invariant 7).
        was_cut = size not in (0, *ends)
        assert again.directory.cut_logs == ([again.log.key] if was_cut else [])
        again.append(make_batch())
        assert again.acknowledged == [(2 * whole, 2 * whole + 1)]


def test_a_wrong_byte_anywhere_in_an_unsynced_tail_is_cut_with_all_behind_it() -> None:
    appender, ends = written_log(3)
    path = segment_path(appender)
    content = appender.files.content(path)
    expected = appender.read_all()
    for position in range(len(content)):
        files = appender.files.copy()
        spoilt = bytearray(content)
        spoilt[position] ^= 0x41
        files.damage(path, bytes(spoilt))
        again = reopened(files)
        whole = sum(end <= position for end in ends)
        assert again.log.failure is None
        assert again.read_all() == expected[:whole]


def test_zeros_behind_the_last_batch_are_cut() -> None:
    appender, _ = written_log()
    path = segment_path(appender)
    expected = appender.read_all()
    appender.files.damage(path, appender.files.content(path) + bytes(5000))
    again = reopened(appender.files)
    assert again.read_all() == expected
    assert again.directory.recovery.cut_bytes == 5000


def test_segments_behind_a_torn_one_are_removed() -> None:
    appender = Appender(config=PAGE_CACHE)
    for _ in range(100):
        appender.append(make_batch())
    assert appender.log.segment_count > 2
    path = segment_path(appender)
    files = appender.files.copy()
    files.damage(path, files.content(path)[:-1])
    again = reopened(files)
    assert again.log.failure is None
    assert again.log.segment_count == 1
    assert again.log.end_offset == appender.log.segments.all[1].base_offset - 1


def test_a_batch_written_after_a_sync_beyond_the_damage_proves_rot() -> None:
    appender = Appender()  # fsync mode: each batch says that all before it were synced
    for _ in range(4):
        appender.append(make_batch())
    path = segment_path(appender)
    content = appender.files.content(path)
    frame = len(content) // 4
    spoilt = bytearray(content)
    spoilt[frame + 60] ^= 1
    files = appender.files.copy()
    files.damage(path, bytes(spoilt))
    again = Appender(files)
    assert isinstance(again.log.failure, LogDamagedError)
    assert again.log.failure.offset == 1
    assert files.content(path) == bytes(spoilt)
    assert again.directory.recovery.damaged_logs == 1
    with pytest.raises(LogDamagedError):
        again.log.read(0, 1000, 1)


def test_the_last_synced_batch_is_a_torn_tail_because_nothing_says_otherwise() -> None:
    appender = Appender()
    for _ in range(4):
        appender.append(make_batch())
    path = segment_path(appender)
    content = appender.files.content(path)
    appender.files.damage(path, content[:-1])
    again = Appender(appender.files)
    assert again.log.failure is None
    assert again.log.end_offset == 3


@pytest.mark.parametrize("missing", [1, 40, 200])
def test_bytes_missing_below_the_recovery_point_are_rot(missing: int) -> None:
    appender = Appender()
    for _ in range(4):
        appender.append(make_batch())
    appender.log.flush()
    path = segment_path(appender)
    content = appender.files.content(path)
    appender.files.damage(path, content[:-missing])
    again = Appender(appender.files)
    assert isinstance(again.log.failure, LogDamagedError)
    assert appender.files.content(path) == content[:-missing]
    third = Appender(appender.files)  # and it stays so
    assert isinstance(third.log.failure, LogDamagedError)


def test_a_missing_segment_below_the_recovery_point_is_rot() -> None:
    appender = Appender(config=LogConfig(preallocate_bytes=0, segment_bytes=1024))
    for _ in range(60):
        appender.append(make_batch())
    bases = [segment.base_offset for segment in appender.log.segments.all]
    for base in (bases[0], bases[-1]):
        files = appender.files.copy()
        files.remove(segment_path(appender, base))
        again = Appender(files, config=appender.config)
        assert isinstance(again.log.failure, LogDamagedError)
    files = appender.files.copy()
    for base in bases:
        files.remove(segment_path(appender, base))
    assert isinstance(Appender(files, config=appender.config).log.failure, LogDamagedError)


def test_only_what_lies_above_the_recovery_point_is_scanned() -> None:
    appender = Appender(config=LogConfig(preallocate_bytes=0, segment_bytes=64 * 1024))
    value = b"x" * 1000
    for _ in range(300):
        appender.append(make_batch((value,)))
    appender.log.flush()
    tail = 0
    for _ in range(5):
        before = appender.log.size_bytes
        appender.append(make_batch((value,)))
        tail += appender.log.size_bytes - before
    files = appender.files.copy()
    files.power_loss()
    files.bytes_read = 0
    again = Appender(files, config=appender.config)
    assert again.log.end_offset == 305
    assert again.directory.recovery.scanned_bytes == tail
    assert files.bytes_read < 5 * tail  # far from the 300 kB of the log


def test_scanning_sees_the_disk_and_not_the_page_cache() -> None:
    """A failed sync leaves clean pages in the cache that the disk never got (ATC'20)."""
    appender, _ = written_log(2)
    path = segment_path(appender)
    appender.files._inode(path).clean()  # as after a failed write-back
    again = reopened(appender.files)
    assert again.log.end_offset == 0


def test_recovery_syncs_before_it_trusts() -> None:
    appender, _ = written_log(2)
    again = reopened(appender.files)
    assert again.log.synced_end_offset == 4
    appender.files.power_loss()
    assert reopened(appender.files).log.end_offset == 4


@pytest.mark.parametrize("kept", [0, 2])
def test_a_log_that_ends_below_its_start_begins_anew_there(kept: int) -> None:
    """The start is durable at once, the records that it is among are not (KAFKA-9491)."""
    appender, ends = written_log()
    appender.log.delete_before(7)
    files, path = appender.files, segment_path(appender)
    files.damage(path, files.content(path)[: [0, *ends][kept]])
    for _ in range(2):  # killed before it was registered
        again = reopened(files)
        log = again.log
        assert (log.failure, log.start_offset, log.end_offset, log.size_bytes) == (None, 7, 7, 0)
        assert [(one.epoch, one.start_offset) for one in log.epochs.entries] == [(1, 7)]
        # What stood there is lost: it can prove no place (invariant 7).
        assert again.directory.cut_logs == [log.key]
        assert files.list_directory(again.folder).count(f"{0:020d}.log") == 0
    again.append(make_batch((b"next",)))
    assert again.acknowledged == [(7, 8)]
    assert reopened(files).log.end_offset == 8


def test_wherever_a_start_that_begins_a_log_anew_is_killed_the_next_one_finds_the_same() -> None:
    appender = Appender(config=PAGE_CACHE)
    for number in range(12):
        appender.append(make_batch((b"v",)), epoch=1 + number // 3)
    appender.log.delete_before(11)
    appender.files.power_loss(keep=0.0)
    found = set()
    for operations in count():
        files = appender.files.copy()
        ended = runs_to_its_end(files, operations, lambda files=files: reopened(files))
        files.power_loss(keep=0.0)
        again = reopened(files)
        log = again.log
        found.add((log.start_offset, log.end_offset, log.epochs.entries, *again.directory.cut_logs))
        if ended:
            break
    # Offset 11 was committed in epoch 4, whatever was lost of it (invariant 7).
    assert found == {(11, 11, (EpochStart(4, 11),), appender.log.key)}


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize(
    ("start", "job"),
    [
        (3, lambda log: restart(log, 50)),
        (12, lambda log: restart(log, 8)),
        (0, lambda log: log.truncate_to(5)),
        (0, lambda log: log.truncate_to(6)),
        (3, lambda log: log.truncate_to(2)),
        (4, lambda log: log.truncate_to(2)),
    ],
)
def test_rule_34_no_stop_in_the_midst_of_a_cut_makes_rot_of_a_sound_log(
    start: int, job: Callable[[Log], object], seed: int | None
) -> None:
    """Killed, or without power, which keeps any part of what was not synced; whether starts and
    ends lie within a batch or not, and in segments of two batches each."""
    small = LogConfig(preallocate_bytes=0, segment_bytes=1024)
    for operations in count():
        appender = Appender(config=small)
        for _ in range(6):
            appender.append(make_batch((bytes(150), bytes(150))))
        appender.log.flush()
        if start:
            appender.log.delete_before(start)
        assert len(appender.log.segments.all) == {0: 3, 3: 3, 4: 2, 12: 1}[start]
        ended = runs_to_its_end(appender.files, operations, lambda one=appender: job(one.log))
        if seed is not None:
            appender.files.power_loss(Random(f"{seed}/{operations}"), 0.5)
        log = Appender(appender.files, config=small).log
        assert log.failure is None, (operations, log.failure)
        assert log.start_offset <= log.end_offset
        if ended:
            break


@pytest.mark.parametrize("offset", [12, 50])
@pytest.mark.parametrize("seed", [None, *range(6)])
def test_rule_7_wherever_a_restart_is_killed_the_log_ends_no_earlier_than_before(
    offset: int, seed: int | None
) -> None:
    """It may be taken for whole afterwards: nothing tells that a part of it is gone."""
    for operations in count():
        appender = Appender(config=LogConfig(preallocate_bytes=0, segment_bytes=1024))
        for number in range(12):
            appender.append(make_batch((bytes(300),), producer_id=1, base_sequence=number))
        ended = runs_to_its_end(
            appender.files, operations, lambda one=appender: restart(one.log, offset)
        )
        if seed is not None:
            appender.files.power_loss(Random(f"{seed}/{operations}"), 0.5 if seed else 0.0)
        log = Appender(appender.files).log
        assert log.end_offset in (12, offset)
        anew = log.segments.active.size == 0
        # If the leader could not tell by the epoch, it would have to be done.
        assert log.epochs.latest or anew
        # What a producer wrote last may be among what was deleted at the leader (21).
        assert not (anew and log.producers.get(1))
        if ended:
            break


def test_a_cut_within_the_batch_that_holds_the_start_leaves_a_log_that_begins_there() -> None:
    appender = Appender()
    appender.append(make_batch((b"a",)))
    appender.append(make_batch((b"b", b"c", b"d", b"e")))
    appender.log.delete_before(2)
    assert appender.log.truncate_to(4) == 2
    assert (appender.log.start_offset, appender.log.end_offset) == (2, 2)
    log = Appender(appender.files).log
    assert (log.start_offset, log.end_offset) == (2, 2)


def test_rule_21_a_cut_down_to_the_start_forgets_no_producer_of_deleted_records() -> None:
    appender = Appender()
    first = make_batch(producer_id=1)
    appender.append(first)
    appender.log.delete_before(1)
    for _ in range(4):  # snapshots that are above the cut
        appender.append(make_batch(), epoch=2)
        appender.log.flush()
    assert appender.log.truncate_to(1) == 1
    killed = Appender(appender.files.copy())
    appender.directory.close()
    for one in (appender, killed, Appender(appender.files)):
        [verdict] = one.log.check_producers([first.header], 0)
        assert verdict.decision is Decision.DUPLICATE_HIT


def test_a_restart_that_a_full_disk_ends_leaves_an_empty_log_that_any_leader_agrees_with() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.files.faults.append(Fault("write", "*leader-epochs*", ENOSPC))
    with pytest.raises(DiskFullError):
        restart(appender.log, 9)
    assert (appender.log.start_offset, appender.log.end_offset) == (9, 9)
    assert appender.log.epochs.latest is None
