"""Whatever part of the unsynced pages survives, every acknowledged batch is there afterwards."""

from random import Random

import pytest

from millstream_server.storage import FlushMode, LogConfig
from tests.fakes.killed_job import runs_to_its_end
from tests.fakes.storage import Appender, make_batch

CONFIG = LogConfig(preallocate_bytes=0, segment_bytes=6000, index_interval_bytes=600)


def run_until_power_loss(seed: int) -> None:
    random = Random(seed)
    appender = Appender(config=CONFIG, recovery_point_bytes=random.choice((500, 8000, 10**9)))
    expected: list[bytes] = []
    for life in range(3):
        unacknowledged: list[bytes] = []
        for _ in range(random.randint(1, 40)):
            value = random.randbytes(random.choice((3, 300, 5000)))
            batch = make_batch((value,), producer_id=5)
            unacknowledged.append(batch.data[42:])
            appender.submit(batch, epoch=life + 1)
            if random.random() < 0.5:
                appender.executor.run()
        acknowledged = appender.log.synced_end_offset - len(expected)
        survivors = expected + unacknowledged
        files = appender.files
        files.power_loss(random, keep=random.choice((0.0, 0.3, 0.7, 1.0)))
        appender = Appender(files, config=CONFIG)
        log = appender.log
        assert log.failure is None, (seed, log.failure)
        found = [data for _, data in appender.read_all()]
        assert len(found) >= len(expected) + acknowledged, seed
        assert found == survivors[: len(found)], seed
        assert log.end_offset == len(found)
        expected = found


@pytest.mark.parametrize("first_seed", range(0, 120, 20))
def test_fsync_mode_keeps_every_acknowledged_batch(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 20):
        run_until_power_loss(seed)


def test_power_loss_in_the_middle_of_a_job_keeps_what_was_acknowledged_before() -> None:
    """The power goes at every single operation of a job that writes, rolls and moves the recovery
    point."""

    for operation in range(200):
        appender = Appender(config=CONFIG, recovery_point_bytes=1000)
        for _ in range(5):
            appender.append(make_batch((b"before" * 150,)))
        before = appender.read_all()
        files = appender.files
        for _ in range(3):
            appender.submit(make_batch((b"during" * 200,)))
        job, _ = appender.executor.jobs.popleft()
        finished = runs_to_its_end(files, operation, job)
        copy = files.copy()
        copy.power_loss(Random(operation), keep=0.5)
        again = Appender(copy, config=CONFIG)
        assert again.log.failure is None, operation
        assert again.read_all()[:5] == before
        if finished:
            break
    else:
        raise AssertionError("the job never came to its end")


def test_page_cache_mode_keeps_a_prefix() -> None:
    config = LogConfig(preallocate_bytes=0, segment_bytes=6000, flush_mode=FlushMode.PAGE_CACHE)
    for seed in range(60):
        random = Random(seed)
        appender = Appender(config=config)
        written: list[bytes] = []
        for number in range(30):
            batch = make_batch((random.randbytes(random.choice((3, 900))),))
            written.append(batch.data[42:])
            appender.append(batch)
            if number == 10:
                appender.log.flush()
        appender.files.power_loss(random, keep=0.5)
        again = Appender(appender.files, config=config)
        assert again.log.failure is None, (seed, again.log.failure)
        found = [data for _, data in again.read_all()]
        assert len(found) >= 11, seed
        assert found == written[: len(found)], seed


def test_a_clean_stop_survives_power_loss_and_needs_no_scan() -> None:
    appender = Appender(config=CONFIG)
    for _ in range(30):
        appender.append(make_batch((b"x" * 500,), producer_id=3))
    expected = appender.read_all()
    appender.directory.close()
    appender.files.power_loss()
    again = Appender(appender.files, config=CONFIG)
    assert again.directory.clean_shutdown
    assert again.directory.recovery.scanned_bytes == 0
    assert again.read_all() == expected
    assert again.log.producers == appender.log.producers
