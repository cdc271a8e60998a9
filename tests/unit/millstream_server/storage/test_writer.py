"""Group commit: order, bounds and who is told what."""

import pytest

from millstream_server.storage import LogConfig, StorageError, WriterOverloadedError
from tests.fakes.storage import Appender, make_batch


def syncs(appender: Appender) -> int:
    return sum(name == "sync" and path.endswith(".log") for name, path in appender.files.operations)


def test_everything_that_waits_is_one_write_and_one_sync() -> None:
    appender = Appender()
    appender.append(make_batch())
    appender.submit(make_batch())  # runs at once
    for _ in range(50):
        appender.submit(make_batch())  # wait for it
    appender.files.operations.clear()
    appender.executor.step()
    assert (len(appender.acknowledged), syncs(appender)) == (2, 1)
    appender.executor.step()
    assert (len(appender.acknowledged), syncs(appender)) == (52, 2)
    writes = [path for name, path in appender.files.operations if name == "write"]
    assert len([path for path in writes if path.endswith(".log")]) == 2
    assert appender.acknowledged == [(n, n + 1) for n in range(52)]


def test_nothing_is_acknowledged_before_its_sync() -> None:
    appender = Appender()
    appender.submit(make_batch())
    assert appender.acknowledged == []
    assert appender.log.synced_end_offset == 0
    job, done = appender.executor.jobs.popleft()
    job()
    assert appender.acknowledged == []
    done(None, None)
    assert appender.acknowledged == [(0, 1)]


def test_several_logs_share_a_job() -> None:
    appender = Appender()
    config = LogConfig(preallocate_bytes=0)
    logs = [appender.directory.create_log(bytes([n]) * 16, n, config) for n in range(3)]
    ends: list[tuple[int, int]] = []
    for log in logs:
        log.begin_epoch(1)
    appender.submit(make_batch())
    for number, log in enumerate(logs):
        staged = log.stage([make_batch()], 1, 0)

        def done(end: int, error: StorageError | None, number: int = number) -> None:
            assert error is None
            ends.append((number, end))

        appender.writer.submit(log, staged, done)
    appender.executor.step()
    appender.executor.step()
    assert ends == [(0, 1), (1, 1), (2, 1)]


def test_waiting_bytes_are_bounded() -> None:
    appender = Appender(waiting_bytes_max=300)
    size = 150
    appender.writer.admit(10_000)  # one append is always let through
    appender.submit(make_batch())
    appender.submit(make_batch())
    with pytest.raises(WriterOverloadedError):
        appender.writer.admit(size)
    appender.executor.run()
    assert appender.writer.waiting_bytes == 0
    appender.writer.admit(size)


def test_work_runs_between_what_was_submitted_before_and_after() -> None:
    appender = Appender()
    appender.submit(make_batch())
    seen: list[int] = []
    appender.submit(make_batch())
    appender.writer.run(
        appender.log, lambda: appender.log.written_end_offset, lambda end, _: seen.append(end or 0)
    )
    appender.submit(make_batch())
    appender.executor.run()
    assert seen == [2]
    assert len(appender.acknowledged) == 3


def test_idle_is_told_when_nothing_waits_any_more() -> None:
    appender = Appender()
    told: list[int] = []
    appender.writer.when_idle(lambda: told.append(0))
    assert told == [0]
    appender.submit(make_batch())
    appender.submit(make_batch())
    appender.writer.when_idle(lambda: told.append(len(appender.acknowledged)))
    appender.executor.step()
    assert told == [0]
    appender.executor.step()
    assert told == [0, 2]


def test_a_callback_may_append_again() -> None:
    appender = Appender()
    appender.append(make_batch())
    count = 0

    def again(_: int, error: StorageError | None) -> None:
        nonlocal count
        assert error is None
        count += 1
        if count < 5:
            log = appender.log
            appender.writer.submit(log, log.stage([make_batch()], 1, 0), again)

    again(0, None)
    appender.executor.run()
    assert count == 5
    assert appender.log.synced_end_offset == 5


def test_recovery_points_move_with_bytes_and_with_time() -> None:
    appender = Appender(recovery_point_bytes=1000)
    for _ in range(3):
        appender.append(make_batch((b"x" * 300,)))
    assert appender.log.recovery_point == 3
    appender.append(make_batch())
    appender.writer.maintain(0)
    appender.writer.maintain(29_999)
    assert appender.log.recovery_point == 3
    appender.writer.maintain(30_000)
    appender.executor.run()
    assert appender.log.recovery_point == 4
    again = Appender(appender.files)
    assert again.directory.recovery.scanned_bytes == 0


def test_flush_times_are_reported() -> None:
    appender = Appender()
    ticks = iter(range(100))
    appender.writer._timer = lambda: float(next(ticks))
    seen: list[float] = []
    appender.writer._observe_flush = seen.append
    appender.append(make_batch())
    assert seen == [1.0]


def test_what_is_written_is_told_before_it_is_synced() -> None:
    appender = Appender()
    told: list[tuple[int, int]] = []
    appender.writer.listen(
        appender.log, lambda end: told.append((end, appender.log.synced_end_offset))
    )
    appender.append(make_batch([b"a", b"b"]))
    appender.append(make_batch())
    assert told == [(2, 0), (3, 2)]
    appender.writer.listen(appender.log, None)
    appender.append(make_batch())
    assert len(told) == 2


def test_what_was_not_written_is_not_told() -> None:
    appender = Appender()
    told: list[int] = []
    appender.append(make_batch())
    appender.writer.listen(appender.log, told.append)
    appender.files.capacity_bytes = 0
    appender.append(make_batch())
    assert appender.errors
    assert told == []


def test_an_operation_that_hangs_is_seen_until_it_ends() -> None:
    appender = Appender()
    health = appender.directory.health
    assert health.stuck_ms() == 0
    appender.submit(make_batch())
    appender.clock.advance(2_000)  # the executor's thread is blocked by the disk
    assert health.stuck_ms() == 2_000
    appender.submit(make_batch())
    assert health.stuck_ms() == 2_000
    appender.executor.step()
    assert health.stuck_ms() == 0  # the next job has just begun
    appender.clock.advance(5)
    assert health.stuck_ms() == 5
    appender.executor.run()
    appender.clock.advance(60_000)
    assert health.stuck_ms() == 0


def test_a_long_job_of_short_operations_does_not_count_as_stuck() -> None:
    appender = Appender()
    seen: list[int] = []

    def slow() -> None:
        seen.append(appender.directory.health.stuck_ms())
        appender.clock.advance(1_000)

    appender.submit(make_batch())
    for _ in range(5):
        appender.writer.run(appender.log, slow, lambda _, error: None)
    appender.executor.run()
    assert seen == [0] * 5
