"""What is removed by time, by size and on request."""

from dataclasses import replace

import pytest

from millstream_server.storage import FlushMode, LogConfig, OffsetOutOfRangeError
from millstream_server.storage.producers import Decision
from millstream_server.storage.retention import SegmentFacts, start_after_retention
from tests.fakes.memory_files import Fault
from tests.fakes.storage import Appender, make_batch

HOUR = 3_600_000
CLOSED = [
    SegmentFacts(10, 100, 1 * HOUR, 1 * HOUR),
    SegmentFacts(20, 100, 2 * HOUR, 2 * HOUR),
    SegmentFacts(30, 100, 3 * HOUR, 3 * HOUR),
]


def start(config: LogConfig, now_ms: int, end_offset: int = 99) -> int:
    return start_after_retention(
        CLOSED, 50, config, start_offset=3, end_offset=end_offset, now_ms=now_ms
    )


@pytest.mark.parametrize(
    ("now_hours", "kept_from"), [(1, 3), (2, 3), (2.01, 10), (3.5, 20), (9, 30)]
)
def test_segments_go_when_their_newest_record_is_too_old(now_hours: float, kept_from: int) -> None:
    assert start(LogConfig(retention_ms=HOUR), int(now_hours * HOUR)) == kept_from


@pytest.mark.parametrize(
    ("limit", "kept_from"), [(350, 3), (349, 3), (251, 3), (250, 10), (150, 20), (0, 30)]
)
def test_segments_go_while_the_log_stays_at_or_above_its_size(limit: int, kept_from: int) -> None:
    assert start(LogConfig(retention_ms=None, retention_bytes=limit), 0) == kept_from


def test_nothing_beyond_the_given_end_goes() -> None:
    assert start(LogConfig(retention_ms=0), 99 * HOUR, end_offset=25) == 20


def test_timestamps_from_the_future_are_ignored() -> None:
    facts = [SegmentFacts(10, 100, 10**15, HOUR)]
    config = LogConfig(retention_ms=HOUR)
    kept = start_after_retention(
        facts, 0, config, start_offset=0, end_offset=10, now_ms=int(1.5 * HOUR)
    )
    gone = start_after_retention(facts, 0, config, start_offset=0, end_offset=10, now_ms=3 * HOUR)
    assert (kept, gone) == (0, 10)


def test_append_time_decides_where_the_topic_says_so() -> None:
    facts = [SegmentFacts(10, 100, 0, 5 * HOUR)]
    config = LogConfig(retention_ms=HOUR, log_append_time=True)
    assert (
        start_after_retention(facts, 0, config, start_offset=0, end_offset=10, now_ms=5 * HOUR) == 0
    )


SMALL = LogConfig(preallocate_bytes=0, segment_bytes=1500, retention_ms=HOUR, segment_ms=HOUR)


def filled(config: LogConfig = SMALL) -> Appender:
    appender = Appender(config=config)
    for number in range(40):
        appender.append(
            make_batch((b"v%d" % number,), producer_id=1 + number // 20,
                       base_sequence=number % 20, timestamp_ms=number * 60_000),
            now_ms=number * 60_000,
        )  # fmt: skip
    return appender


@pytest.mark.parametrize("reopen", [False, True])
def test_old_segments_of_a_log_are_removed(reopen: bool) -> None:
    appender = filled()
    if reopen:
        appender = Appender(appender.files.copy(), SMALL)
    before, expected = appender.log.size_bytes, appender.read_all()
    removed = appender.log.retain(90 * 60_000, 40)
    log = appender.log
    assert 0 < log.start_offset <= 30
    assert removed == before - log.size_bytes > 0
    assert appender.read_all() == [row for row in expected if row[0] >= log.start_offset]
    assert log.epochs.entries[0].start_offset == log.start_offset
    with pytest.raises(OffsetOutOfRangeError):
        log.read(0, 100, 40)
    appender.files.power_loss()
    again = Appender(appender.files, SMALL)
    assert again.log.failure is None
    assert again.log.start_offset == log.start_offset


def test_a_quiet_log_is_emptied_too() -> None:
    appender = filled()
    appender.log.retain(10**9, 40)
    assert appender.log.start_offset == 40
    assert appender.log.size_bytes == 0
    appender.append(make_batch(producer_id=2, base_sequence=0))
    assert appender.acknowledged[-1] == (40, 41)


@pytest.mark.parametrize(("expiry_ms", "known"), [(1_000, [2]), (10_000, [1, 2])])
def test_producers_below_the_start_are_forgotten_once_they_are_silent_for_long(
    expiry_ms: int, known: list[int]
) -> None:
    config = replace(SMALL, producer_expiry_ms=expiry_ms)
    appender = Appender(config=config)
    appender.append(make_batch(producer_id=1), now_ms=1_000)
    appender.append(make_batch(producer_id=2), now_ms=5_000)
    appender.log.delete_before(1)
    appender.log.check_producers([], 0)
    assert [producer_id for producer_id, _ in appender.log.producers] == known
    appender.log.flush()
    again = Appender(appender.files.copy(), config)
    again.log.check_producers([], 0)
    assert [producer_id for producer_id, _ in again.log.producers] == known


def test_rule_21_what_is_repeated_after_its_record_was_deleted_is_not_appended_again() -> None:
    appender = Appender(config=SMALL)
    first = make_batch(producer_id=1)
    appender.append(first)
    appender.log.delete_before(1)
    [verdict] = appender.log.check_producers([first.header], 0)
    assert verdict.decision is Decision.DUPLICATE_HIT


def test_records_are_deleted_up_to_any_offset_and_stay_so() -> None:
    appender = filled()
    expected = appender.read_all()
    assert appender.log.delete_before(17) == 17
    assert appender.log.delete_before(5) == 17
    assert appender.log.segments.all[0].base_offset <= 17
    with pytest.raises(OffsetOutOfRangeError):
        appender.log.delete_before(41)
    appender.files.power_loss()
    again = Appender(appender.files, SMALL)
    assert again.log.start_offset == 17
    assert again.read_all() == expected[17:]
    assert again.log.delete_before(40) == 40
    again.append(make_batch())
    assert again.acknowledged == [(40, 41)]


def test_a_start_that_cannot_be_remembered_is_not_moved() -> None:
    appender = filled()
    appender.files.faults.append(Fault("write", "*log-points*", 28))
    with pytest.raises(Exception, match="no room"):
        appender.log.delete_before(20)
    assert appender.log.start_offset == 0
    assert len(appender.read_all()) == 40


def test_segments_also_roll_by_age() -> None:
    appender = Appender(config=LogConfig(preallocate_bytes=0, segment_ms=1000))
    for now in (0, 500, 999, 1000, 1500, 2001):
        appender.append(make_batch(), now_ms=now)
    assert [segment.base_offset for segment in appender.log.segments.all] == [0, 3, 5]


def test_page_cache_logs_are_synced_in_the_background() -> None:
    config = LogConfig(preallocate_bytes=0, flush_mode=FlushMode.PAGE_CACHE, segment_bytes=1500)
    appender = filled(config)
    assert appender.log.synced_end_offset == 0
    appender.writer.maintain(0)
    appender.writer.maintain(1000)
    assert not appender.executor.jobs
    appender.writer.maintain(5000)
    appender.executor.run()
    assert appender.log.synced_end_offset == appender.log.recovery_point == 40
    appender.files.power_loss()
    again = Appender(appender.files, config)
    assert again.log.end_offset == 40
    assert again.directory.recovery.scanned_bytes == 0
    again.writer.maintain(99_000)
    assert not again.executor.jobs


def test_a_read_that_retention_overtakes_is_refused_not_moved_on() -> None:
    appender = Appender(config=LogConfig(preallocate_bytes=0, segment_bytes=2000))
    for _ in range(9):
        appender.append(make_batch((b"x" * 900,)))
    log = appender.log
    seen_start = log.start_offset
    log.delete_before(5)
    log.start_offset = seen_start  # what a reader saw that was held up before it chose a segment
    with pytest.raises(OffsetOutOfRangeError):
        log.read(0, 1000, 9)
