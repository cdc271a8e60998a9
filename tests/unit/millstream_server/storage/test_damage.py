"""Damage in the middle of a log: met by whoever reads there, never handed out, and cut only by an
operator's order (rules 31 and 34)."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from millstream.record import iterate_frames, parse_header
from millstream_server.storage import FlushMode, LogConfig, LogDamagedError, StorageError
from millstream_server.storage.log_upkeep import restart
from tests.fakes.memory_files import MemoryFiles
from tests.fakes.storage import TOPIC_ID, Appender, make_batch

CONFIG = LogConfig(preallocate_bytes=0, segment_bytes=2000)
PAGE_CACHE = LogConfig(preallocate_bytes=0, flush_mode=FlushMode.PAGE_CACHE)
RECORDS = 60


def filled(config: LogConfig = CONFIG, *, flushed: bool = True) -> Appender:
    """A log of several segments, a batch a record, all of one size; left by a kill."""
    appender = Appender(config=config)
    for number in range(RECORDS):
        appender.append(make_batch((b"value %02d" % number,)))
    if flushed:
        appender.log.flush()
    return appender


def bases(appender: Appender) -> list[int]:
    return [segment.base_offset for segment in appender.log.segments.all]


def path_of(appender: Appender, base: int) -> str:
    return f"{appender.folder}/{base:020d}.log"


def spoil(appender: Appender, base: int, change: Callable[[bytearray], None]) -> None:
    content = bytearray(appender.files.content(path_of(appender, base)))
    change(content)
    appender.files.damage(path_of(appender, base), bytes(content))


def flip_in_the_middle(content: bytearray) -> None:
    content[len(content) // 2] ^= 4


def flip_in_the_first_batch(content: bytearray) -> None:
    content[60] ^= 4


def zero_in_the_middle(content: bytearray) -> None:
    half = len(content) // 2
    content[half : half + 200] = bytes(200)


def lose_the_middle(content: bytearray) -> None:
    half = len(content) // 2
    del content[half : half + 100]


def lose_the_end(content: bytearray) -> None:
    del content[len(content) // 2 :]


def swap_two_batches(content: bytearray) -> None:
    """Every checksum holds afterwards."""
    size = 2 + content[1]
    content[size : 2 * size], content[2 * size : 3 * size] = (
        content[2 * size : 3 * size],
        content[size : 2 * size],
    )


DAMAGES = [
    flip_in_the_middle,
    zero_in_the_middle,
    lose_the_middle,
    lose_the_end,
    swap_two_batches,
]


def serve(appender: Appender, expected: dict[int, bytes], step: int) -> None:
    """Read from every offset; whatever comes must be what was written there. Raises
    LogDamagedError."""
    for offset in range(RECORDS):
        data = appender.log.read(offset, step, RECORDS)
        assert data
        for frame in iterate_frames(data):
            base = parse_header(data, frame.batch_start, frame.end).base_offset
            assert base == offset
            assert data[frame.batch_start + 42 : frame.end] == expected[offset]
            offset += 1


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("number", [0, 1, -1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_read_gives_what_is_right_or_takes_the_log_offline(
    damage: Callable[[bytearray], None], number: int, live: bool, step: int
) -> None:
    appender = filled()
    expected = dict(appender.read_all())
    spoil(appender, bases(appender)[number], damage)
    if not live:
        appender = Appender(appender.files, CONFIG)
    with pytest.raises(LogDamagedError):
        serve(appender, expected, step)
    assert isinstance(appender.log.failure, LogDamagedError)


@pytest.mark.parametrize("number", [1, -1])
def test_a_read_ends_wherever_the_file_was_cut_under_the_log(number: int) -> None:
    filled_once = filled()
    base = bases(filled_once)[number]
    size = len(filled_once.files.content(path_of(filled_once, base)))
    for cut in range(size - 150, size):
        appender = filled()
        expected = dict(appender.read_all())
        content = appender.files.content(path_of(appender, base))
        appender.files.damage(path_of(appender, base), content[:cut])
        with pytest.raises(LogDamagedError):
            serve(appender, expected, 1)


@pytest.mark.parametrize("target", [3, 25])
@pytest.mark.parametrize("again", [False, True])
def test_a_read_beside_a_truncation_takes_the_cut_for_no_damage(target: int, again: bool) -> None:
    appender = filled()
    log, files = appender.log, appender.files
    reads = 0

    def before(operation: str) -> None:
        nonlocal reads
        files.before = None
        for offset in range(RECORDS):
            try:
                log.read(offset, 1, RECORDS)
            except LogDamagedError:
                pytest.fail(f"damage at {offset} before {operation}")
            except StorageError:
                continue
        reads += 1
        files.before = before

    files.before = before
    if again:
        restart(log, RECORDS + 5)
    else:
        log.truncate_to(target)
    files.before = None
    assert reads > 3
    assert log.failure is None


def test_the_tail_is_verified_on_demand() -> None:
    appender = filled(PAGE_CACHE, flushed=False)
    assert appender.log.recovery_point == 0
    spoil(appender, 0, flip_in_the_first_batch)
    assert appender.log.read(0, 100_000, RECORDS)
    with pytest.raises(LogDamagedError):
        appender.log.read(0, 100_000, RECORDS, verified=True)


def test_a_closed_segment_is_always_verified() -> None:
    appender = filled(replace(PAGE_CACHE, segment_bytes=2000), flushed=False)
    assert (appender.log.recovery_point, len(bases(appender)) > 1) == (0, True)
    spoil(appender, 0, flip_in_the_first_batch)
    with pytest.raises(LogDamagedError):
        appender.log.read(0, 100_000, RECORDS)


@pytest.mark.parametrize("number", [0, 1, -1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_cut_by_order_the_log_holds_what_was_sound_before_the_damage(
    damage: Callable[[bytearray], None], number: int
) -> None:
    appender = filled()
    expected = appender.read_all()
    base = bases(appender)[number]
    spoil(appender, base, damage)
    appender = Appender(appender.files, CONFIG)
    appender.log.fail(LogDamagedError("found", offset=0, path=""))
    appender.directory.cut_damaged_log(TOPIC_ID, 0)
    end = appender.log.end_offset
    assert base <= end < RECORDS
    assert appender.read_all() == expected[:end]
    appender.append(make_batch((b"new",)), epoch=2)
    assert appender.acknowledged == [(end, end + 1)]
    again = Appender(appender.files, CONFIG)
    assert again.log.failure is None
    assert again.log.end_offset == end + 1
    assert again.directory.cut_logs == []


def test_cut_by_order_a_log_without_its_first_segment_begins_with_the_next() -> None:
    appender = filled()
    expected = appender.read_all()
    second = bases(appender)[1]
    appender.files.remove(path_of(appender, 0))
    appender = Appender(appender.files, CONFIG)
    assert isinstance(appender.log.failure, LogDamagedError)
    appender.directory.cut_damaged_log(TOPIC_ID, 0)
    assert appender.log.start_offset == second
    assert appender.read_all() == expected[second:]


def test_cut_by_order_deleted_records_do_not_come_back() -> None:
    appender = filled()
    second = bases(appender)[1]
    appender.log.delete_before(second + 3)
    spoil(appender, second, flip_in_the_first_batch)
    appender = Appender(appender.files, CONFIG)
    appender.directory.cut_damaged_log(TOPIC_ID, 0)
    assert appender.log.start_offset == appender.log.end_offset == second + 3
    appender.append(epoch=2)
    assert appender.acknowledged == [(second + 3, second + 4)]


def test_a_kill_while_a_log_is_cut_by_order_leaves_it_damaged_or_cut() -> None:
    appender = filled()
    expected = appender.read_all()
    base = bases(appender)[1]
    spoil(appender, base, flip_in_the_middle)
    Appender(files := appender.files.copy(), CONFIG).directory.cut_damaged_log(TOPIC_ID, 0)
    for kept in range(len(files.operations)):
        files = appender.files.copy()
        cutting = Appender(files, CONFIG)
        stop_after(files, kept)
        with contextlib.suppress(KeyboardInterrupt):
            cutting.directory.cut_damaged_log(TOPIC_ID, 0)
        files.before = None
        again = Appender(files, CONFIG)
        if again.log.failure is None:
            with contextlib.suppress(LogDamagedError):
                assert again.read_all() == expected[: again.log.end_offset]


def stop_after(files: MemoryFiles, operations: int) -> None:
    """End the process, as it were, before the next operation but so many."""
    left = operations

    def before(_: str) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1

    files.before = before
