"""Readers on threads beside the writer, on a real disk."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from millstream.record import iterate_frames, parse_header, verify_batch
from millstream_server.runtime.system import SystemClock, SystemFiles, ThreadExecutor
from millstream_server.storage import (
    DirectoryConfig,
    DirectoryWriter,
    FlushMode,
    Log,
    LogConfig,
    LogDirectory,
    OffsetOutOfRangeError,
    StorageError,
)
from tests.fakes.storage import TOPIC_ID, make_batch

APPENDS = 600


def read_until_the_end(log: Log, seed: int) -> int:
    """Read at random and near the end until the log is complete; returns batches verified."""
    random = Random(seed)
    verified = 0
    while True:
        end = log.written_end_offset
        offset = random.randint(log.start_offset, end) if random.random() < 0.5 else max(0, end - 3)
        try:
            data = log.read(offset, 3000, end)
        except OffsetOutOfRangeError:
            assert offset < log.start_offset
            continue
        expected = None
        for frame in iterate_frames(data):
            batch = data[frame.batch_start : frame.end]
            header = parse_header(batch)
            verify_batch(batch, header)
            assert header.next_offset <= end
            assert header.base_offset == expected or (
                expected is None and header.base_offset <= offset < header.next_offset
            )
            expected = header.next_offset
            verified += 1
        if end == APPENDS:
            return verified


@pytest.mark.parametrize("mode", list(FlushMode))
async def test_reads_are_right_beside_appends_rolls_and_retention(
    tmp_path: Path, mode: FlushMode
) -> None:
    loop = asyncio.get_running_loop()
    executor = ThreadExecutor("log-directory", loop)
    directory = LogDirectory(
        str(tmp_path / "log"), SystemFiles(), SystemClock(), DirectoryConfig("cluster", 1),
        random=Random(1),
    )  # fmt: skip
    directory.open()
    config = LogConfig(
        segment_bytes=10_000, retention_bytes=40_000, index_interval_bytes=500, flush_mode=mode,
        preallocate_bytes=4096,
    )  # fmt: skip
    log = directory.create_log(TOPIC_ID, 0, config)
    log.begin_epoch(1)
    writer = DirectoryWriter(directory, executor)
    readers = [asyncio.create_task(asyncio.to_thread(read_until_the_end, log, n)) for n in range(2)]
    failures: list[object] = []

    def done(_: object, error: StorageError | None) -> None:
        failures.extend([error] if error else [])

    for number in range(APPENDS):
        staged = log.stage([make_batch((b"%d" % number * 20,))], 1, number)
        if log.can_write_now:
            writer.write_now(log, staged)
        else:
            writer.submit(log, staged, done)
        if number % 50 == 0:
            writer.run(log, lambda: log.retain(0, log.written_end_offset), done)
            writer.run(log, log.flush, done)
        await asyncio.sleep(0)
    idle = loop.create_future()
    writer.when_idle(lambda: idle.set_result(None))
    await idle
    assert min(await asyncio.gather(*readers)) > 0
    assert failures == []
    assert log.start_offset > 0
    directory.close()
    executor.close()
