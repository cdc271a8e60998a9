"""How fast a log directory writes, and how long a start takes after a kill.

    python tests/benchmarks/storage_bench.py [--folder DIR] [--seconds 3] [--restart-mib 1024]

Prints one line per measure and, as the last line, one JSON object with all figures. Writes to a
temporary folder on the disk that holds ``--folder`` and removes it at the end.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from random import SystemRandom

from millstream.record import build_batch, encode_records, parse_header
from millstream_server.runtime.system import SystemClock, SystemFiles, ThreadExecutor
from millstream_server.storage import (
    DirectoryConfig,
    DirectoryWriter,
    FlushMode,
    IncomingBatch,
    Log,
    LogConfig,
    LogDirectory,
    StorageError,
)

RECORD = b'{"level": "info", "message": "request served", "path": "/v1/items", "ms": 12.5, "n": 1}'
RECORD_BYTES = 100


def batch_of(size: int) -> IncomingBatch:
    """A batch of 100-byte records of about that many bytes."""
    value = RECORD.ljust(RECORD_BYTES)
    count = size // (RECORD_BYTES + 4)
    payload = encode_records([value] * count)
    data = build_batch(
        payload, record_count=count, base_timestamp_ms=1_700_000_000_000,
        max_timestamp_ms=1_700_000_000_000,
    )  # fmt: skip
    return IncomingBatch(data, parse_header(data))


def directory_at(path: str) -> LogDirectory:
    """A directory on the real disk, opened."""
    config = DirectoryConfig("bench", 1)
    directory = LogDirectory(path, SystemFiles(), SystemClock(), config, random=SystemRandom())
    directory.open()
    return directory


class Load:
    """Keeps a number of appends in flight in each of some logs until time is up."""

    def __init__(self, writer: DirectoryWriter, batch: IncomingBatch, bytes_max: int) -> None:
        self.writer = writer
        self.batch = batch
        self.bytes_left = bytes_max
        self.completed = 0
        self.deadline = 0.0
        self.latencies: list[float] = []
        self.finished = asyncio.get_running_loop().create_future()

    def next(self, log: Log) -> None:
        """Append once more to a log, unless time or bytes are used up."""
        if time.perf_counter() > self.deadline or self.bytes_left <= 0:
            if not self.finished.done():
                self.finished.set_result(None)
            return
        began = time.perf_counter()
        self.bytes_left -= len(self.batch.data)
        staged = log.stage([self.batch], 1, 1_700_000_000_000)

        def done(_: int, error: StorageError | None) -> None:
            if error is not None:
                raise error
            self.completed += 1
            self.latencies.append(time.perf_counter() - began)
            self.next(log)

        if log.can_write_now:
            self.writer.write_now(log, staged)
            asyncio.get_running_loop().call_soon(done, 0, None)
        else:
            self.writer.submit(log, staged, done)


async def measure_appends(
    folder: str, mode: FlushMode, batch_bytes: int, *, seconds: float, bytes_max: int = 1 << 62,
    logs: int = 3, in_flight: int = 4,
) -> dict[str, float]:  # fmt: skip
    """Appends a second and their latency, from ``logs`` logs with some appends in flight each."""
    directory = directory_at(f"{folder}/log")
    writer = DirectoryWriter(directory, ThreadExecutor("log-directory", asyncio.get_running_loop()))
    batch = batch_of(batch_bytes)
    load = Load(writer, batch, bytes_max)
    made = [
        directory.create_log(bytes([n]) * 16, n, LogConfig(flush_mode=mode)) for n in range(logs)
    ]
    for log in made:
        log.begin_epoch(1)
    began, cpu = time.perf_counter(), time.process_time()
    load.deadline = began + seconds
    for log in made:
        for _ in range(in_flight):
            load.next(log)
    await load.finished
    idle = asyncio.get_running_loop().create_future()
    writer.when_idle(lambda: idle.set_result(None))
    await idle
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    records = load.completed * batch.header.record_count
    latencies = sorted(load.latencies)
    return {
        "appends_per_second": round(load.completed / elapsed),
        "mb_per_second": round(load.completed * len(batch.data) / elapsed / 1e6),
        "records_per_second": round(records / elapsed),
        "cpu_us_per_append": round(cpu / load.completed * 1e6),
        "append_ms_p50": round(latencies[len(latencies) // 2] * 1e3, 2),
        "append_ms_p99": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
    }


def measure_start(folder: str) -> dict[str, float]:
    """Open a directory that was left without a clean stop."""
    began = time.perf_counter()
    directory = directory_at(f"{folder}/log")
    elapsed = time.perf_counter() - began
    return {
        "start_ms": round(elapsed * 1e3, 1),
        "scanned_mib": round(directory.recovery.scanned_bytes / (1 << 20), 1),
        "log_mib": round(sum(log.size_bytes for log in directory.logs.values()) / (1 << 20)),
        "clean": directory.clean_shutdown,
    }


def main() -> None:
    """Run every measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None, help="where to write; default: the temporary one")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--restart-mib", type=int, default=1024)
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for mode in (FlushMode.FSYNC, FlushMode.PAGE_CACHE):
        for kib in (4, 64, 256):
            folder = tempfile.mkdtemp(dir=arguments.folder)
            name = f"{mode.value} {kib} KiB"
            try:
                run = measure_appends(
                    folder, mode, kib * 1024, seconds=arguments.seconds, bytes_max=2 << 30
                )
                figures[name] = asyncio.run(run)
            finally:
                shutil.rmtree(folder)
            print(name, figures[name], flush=True)
    folder = tempfile.mkdtemp(dir=arguments.folder)
    try:
        # Most of what may lie above the recovery point: a start has to scan that much.
        size = (arguments.restart_mib << 20) + (24 << 20)
        asyncio.run(
            measure_appends(folder, FlushMode.FSYNC, 64 * 1024, seconds=600, bytes_max=size, logs=1)
        )
        figures["start after a kill"] = measure_start(folder)
        print("start after a kill", figures["start after a kill"])
        directory = directory_at(f"{folder}/log")
        directory.close()
        figures["start after a clean stop"] = measure_start(folder)
        print("start after a clean stop", figures["start after a clean stop"])
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
