"""Appending to and reading from one log."""

from random import Random

import pytest

from millstream.record import iterate_frames, parse_header
from millstream_server.storage import (
    BatchTooLargeError,
    Decision,
    FlushMode,
    FoundOffset,
    LogBusyError,
    LogConfig,
    LogDamagedError,
    OffsetOutOfRangeError,
    StaleEpochError,
)
from tests.fakes.storage import Appender, make_batch

SMALL = LogConfig(preallocate_bytes=0, segment_bytes=2000, index_interval_bytes=300)


def bases(data: bytes) -> list[int]:
    return [
        parse_header(data, frame.batch_start, frame.end).base_offset
        for frame in iterate_frames(data)
    ]


def test_offsets_are_dense_and_the_broker_fields_are_filled_in() -> None:
    appender = Appender()
    appender.append(make_batch((b"a", b"b")), make_batch((b"c",)), now_ms=77)
    appender.append(make_batch((b"d",)), epoch=5, now_ms=78)
    data = appender.log.read(0, 10_000, 99)
    headers = [parse_header(data, f.batch_start, f.end) for f in iterate_frames(data)]
    assert [h[1:5] for h in headers] == [(0, 0, 1, 77), (0, 2, 1, 77), (3, 3, 5, 78)]
    assert appender.acknowledged == [(0, 3), (3, 4)]
    assert appender.log.synced_end_offset == 4


@pytest.mark.parametrize("config", [SMALL, LogConfig(preallocate_bytes=0)])
def test_every_read_begins_with_the_batch_that_holds_the_offset(config: LogConfig) -> None:
    random = Random(3)
    appender = Appender(config=config)
    starts: list[int] = []
    sizes: list[int] = []
    for _ in range(40):
        batch = make_batch([random.randbytes(random.choice((1, 200)))] * random.randint(1, 4))
        starts.append(appender.log.end_offset)
        before = appender.log.size_bytes
        appender.append(batch)
        sizes.append(appender.log.size_bytes - before)
    end = appender.log.end_offset
    boundaries = [*starts, end]
    reopened = Appender(appender.files.copy(), config)  # reads there are cold and verified
    for log in (appender.log, reopened.log):
        for _ in range(300):
            offset, limit = random.randrange(end), random.choice(boundaries)
            bytes_max = random.choice((1, 300, 1000, 100_000))
            data = log.read(offset, bytes_max, limit)
            found = bases(data)
            holder = max(number for number, start in enumerate(starts) if start <= offset)
            if boundaries[holder + 1] > limit:
                assert found == []
                continue
            assert found == starts[holder : holder + len(found)]
            assert found
            assert boundaries[holder + len(found)] <= limit
            assert len(data) <= bytes_max or len(found) == 1
            follows = holder + len(found)
            room = follows < len(starts) and len(data) + sizes[follows] <= bytes_max
            segment_end = any(s.base_offset == boundaries[follows] for s in log.segments.all)
            assert not room or segment_end or boundaries[follows + 1] > limit


def test_reads_outside_the_log_say_where_it_is() -> None:
    appender = Appender()
    appender.append(make_batch())
    assert appender.log.read(1, 100, 5) == b""
    with pytest.raises(OffsetOutOfRangeError) as caught:
        appender.log.read(2, 100, 5)
    assert (caught.value.start_offset, caught.value.end_offset) == (0, 1)


def test_staged_batches_cannot_be_read_before_they_are_written() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.submit(make_batch())
    assert (appender.log.end_offset, appender.log.written_end_offset) == (2, 1)
    assert appender.log.read(1, 100, 2) == b""
    appender.executor.run()
    assert bases(appender.log.read(1, 100, 2)) == [1]


def test_tail_reads_need_no_search() -> None:
    appender = Appender()
    for _ in range(100):
        appender.append(make_batch())
    assert appender.log.reads_from_memory(95)
    count = len(appender.files.operations)
    appender.log.read(95, 10_000, 100)
    assert [name for name, _ in appender.files.operations[count:]] == ["read"]
    appender.log.flush()
    assert not appender.log.reads_from_memory(95)


def test_only_the_newest_epoch_may_append() -> None:
    appender = Appender()
    log = appender.log
    with pytest.raises(StaleEpochError):
        log.stage([make_batch()], 1, 0)
    assert log.begin_epoch(2) == 0
    log.stage([make_batch()], 2, 0)
    with pytest.raises(StaleEpochError):
        log.stage([make_batch()], 1, 0)
    with pytest.raises(StaleEpochError):
        log.begin_epoch(1)


def test_an_epoch_is_durable_before_it_has_a_record() -> None:
    appender = Appender()
    appender.append(make_batch(), epoch=3)
    assert appender.log.begin_epoch(8) == 1
    appender.files.power_loss()
    again = Appender(appender.files)
    assert again.log.epochs.entries == ((3, 0), (8, 1))


def test_an_epoch_begins_behind_everything_submitted_before() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.submit(make_batch())
    begun: list[object] = []
    appender.writer.begin_epoch(appender.log, 2, lambda start, error: begun.append((start, error)))
    with pytest.raises(LogBusyError):
        appender.log.stage([make_batch()], 1, 0)
    appender.executor.run()
    assert begun == [(2, None)]
    appender.append(make_batch(), epoch=2)
    assert appender.log.epochs.entries == ((1, 0), (2, 2))


def test_lost_epochs_are_rebuilt_from_the_headers() -> None:
    appender = Appender()
    for epoch in (1, 1, 4, 9):
        appender.append(make_batch(), epoch=epoch)
    appender.log.flush()
    for spoil in (b"rubbish", None):
        files = appender.files.copy()
        path = f"{appender.folder}/leader-epochs"
        if spoil is None:
            files.remove(path)
        else:
            files.damage(path, spoil)
        assert Appender(files).log.epochs.entries == ((1, 0), (4, 2), (9, 3))


def test_a_batch_above_the_limit_is_refused_and_changes_nothing() -> None:
    appender = Appender(config=LogConfig(max_message_bytes=300))
    appender.append(make_batch())
    with pytest.raises(BatchTooLargeError):
        appender.log.stage([make_batch(), make_batch((b"x" * 300,))], 1, 0)
    assert appender.log.end_offset == 1
    assert appender.log.in_flight == 0


def test_producers_are_remembered_across_kill_and_clean_stop() -> None:
    appender = Appender(config=SMALL)
    for sequence in range(30):
        appender.append(make_batch(producer_id=11, base_sequence=sequence))
    headers = [make_batch(producer_id=11, base_sequence=n).header for n in (28, 30, 31, 40)]
    expected = [verdict.decision for verdict in appender.log.check_producers(headers, 0)]
    assert expected == [
        Decision.DUPLICATE_HIT,
        Decision.APPEND,
        Decision.APPEND,
        Decision.OUT_OF_ORDER,
    ]
    files = appender.files.copy()
    appender.directory.close()
    for left in (files, appender.files):
        log = Appender(left, SMALL).log
        assert [verdict.decision for verdict in log.check_producers(headers, 0)] == expected


def test_lost_snapshots_cost_a_replay_and_nothing_else() -> None:
    appender = Appender(config=SMALL)
    for sequence in range(30):
        appender.append(make_batch(producer_id=11, base_sequence=sequence))
    expected = appender.log.producers
    for name in appender.files.list_directory(appender.folder):
        if name.endswith(".producers"):
            appender.files.damage(f"{appender.folder}/{name}", b"rubbish")
    assert Appender(appender.files, SMALL).log.producers == expected


def test_silent_producers_expire_in_answers_only() -> None:
    appender = Appender(config=LogConfig(preallocate_bytes=0, producer_expiry_ms=1000))
    first, second = (make_batch(producer_id=2, base_sequence=n) for n in (0, 1))
    assert appender.log.check_producers([first.header], 0)[0].decision is Decision.APPEND
    appender.append(first)
    state = appender.log.producers.copy()
    assert appender.log.check_producers([second.header], 10)[0].decision is Decision.APPEND
    late = appender.log.check_producers([second.header], 2000)
    assert late[0].decision is Decision.UNKNOWN_PRODUCER
    assert appender.log.producers == state


@pytest.mark.parametrize("append_time", [False, True])
def test_an_offset_is_found_by_time(append_time: bool) -> None:
    config = LogConfig(
        preallocate_bytes=0, segment_bytes=2000, index_interval_bytes=300,
        log_append_time=append_time,
    )  # fmt: skip
    appender = Appender(config=config)
    for number in range(40):
        time = 1000 + 10 * number
        appender.append(make_batch((b"v",) * 2, timestamp_ms=0 if append_time else time),
                        now_ms=time if append_time else 5)  # fmt: skip
    again = Appender(appender.files.copy(), config)
    for log in (appender.log, again.log):
        assert log.find_offset(0, 80) == FoundOffset(0, 1000)
        for number in range(40):
            assert log.find_offset(991 + 10 * number, 80) == (2 * number, 1000 + 10 * number)
        assert log.find_offset(1391, 80) is None
        assert log.find_offset(1390, 78) is None


def test_rot_met_by_a_read_takes_the_log_offline() -> None:
    appender = Appender(config=SMALL)
    for _ in range(30):
        appender.append(make_batch((b"x" * 50,)))
    path = f"{appender.folder}/{0:020d}.log"
    spoilt = bytearray(appender.files.content(path))
    spoilt[150] ^= 1
    appender.files.damage(path, bytes(spoilt))
    with pytest.raises(LogDamagedError):
        appender.log.read(0, 5000, 30)
    assert isinstance(appender.log.failure, LogDamagedError)
    assert appender.directory.damaged_logs() == [appender.log.key]
    assert appender.files.content(path) == bytes(spoilt)


def test_page_cache_appends_count_as_written_at_once() -> None:
    config = LogConfig(preallocate_bytes=0, flush_mode=FlushMode.PAGE_CACHE)
    appender = Appender(config=config)
    appender.append(make_batch())
    log = appender.log
    appender.writer.write_now(log, log.stage([make_batch()], 1, 0))
    assert (log.written_end_offset, log.synced_end_offset) == (2, 0)
    appender.submit()
    staged = log.stage([make_batch()], 1, 0)
    assert not log.can_write_now
    with pytest.raises(LogBusyError):
        log.write_now(staged)


def test_truncation_takes_epochs_producers_and_segments_back() -> None:
    appender = Appender(config=SMALL)
    for number in range(40):
        epoch = 1 + number // 20
        appender.append(make_batch(producer_id=6, base_sequence=number), epoch=epoch)
    log = appender.log
    expected = appender.read_all()
    generation = log.generation
    assert log.truncate_to(15) == 15
    assert log.generation > generation
    assert log.epochs.entries == ((1, 0),)
    assert appender.read_all() == expected[:15]
    assert log.recovery_point <= 15
    assert log.producers.get(6).batches[-1].first_sequence == 14  # type: ignore[union-attr]
    appender.files.power_loss()
    again = Appender(appender.files, SMALL)
    assert again.log.failure is None
    assert again.read_all() == expected[:15]
    again.append(make_batch((b"new",)), epoch=3)
    assert again.acknowledged == [(15, 16)]


def test_truncation_waits_for_appends_in_flight() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.submit(make_batch())
    with pytest.raises(LogBusyError):
        appender.log.truncate_to(0)
