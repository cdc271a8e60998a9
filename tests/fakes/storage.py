"""What storage tests need beside files: an executor stepped by hand, batches, a directory."""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from millstream.record import build_batch, encode_records, iterate_frames, parse_header
from millstream_server.runtime.ports import Files, T
from millstream_server.storage import (
    DirectoryConfig,
    DirectoryWriter,
    IncomingBatch,
    Log,
    LogConfig,
    LogDirectory,
    StorageError,
)
from tests.fakes.manual_clock import ManualClock
from tests.fakes.memory_files import MemoryFiles

TOPIC_ID = bytes(range(16))


class ManualExecutor:
    """Jobs wait until ``step`` runs one; ``done`` is called at once after the job."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Callable[[], Any], Callable[..., None]]] = deque()

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """See ``Executor``."""
        self.jobs.append((job, done))

    def post(self, callback: Callable[[], None]) -> None:
        """See ``Executor``: the event loop has time at once, while the job runs."""
        callback()

    def pending(self) -> int:
        """See ``Executor``."""
        return len(self.jobs)

    def close(self) -> None:
        """See ``Executor``."""
        self.run()

    def step(self) -> None:
        """Run the oldest job."""
        job, done = self.jobs.popleft()
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - handed on, as the real one does
            done(None, error)
            return
        done(result, None)

    def run(self) -> None:
        """Run jobs until none is left."""
        while self.jobs:
            self.step()


def make_batch(
    values: Sequence[bytes | None] = (b"value",),
    *,
    producer_id: int = 0,
    producer_epoch: int = 0,
    base_sequence: int = 0,
    timestamp_ms: int = 1_000,
) -> IncomingBatch:
    """A batch as a producer sends it."""
    data = build_batch(
        encode_records(values),
        record_count=len(values),
        base_timestamp_ms=timestamp_ms,
        max_timestamp_ms=timestamp_ms,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )
    return IncomingBatch(data, parse_header(data))


class Appender:
    """A directory with one log, its writer, and the outcomes of appends."""

    def __init__(
        self,
        files: Files | None = None,
        config: LogConfig | None = None,
        *,
        path: str = "/data/log",
        **settings: Any,
    ) -> None:
        self.files = files or MemoryFiles()
        self.path = path
        self.config = config or LogConfig(preallocate_bytes=0)
        self.clock = ManualClock()
        self.executor = ManualExecutor()
        self.directory = LogDirectory(
            path,
            self.files,
            self.clock,
            DirectoryConfig("cluster", 1, log_defaults=self.config, **settings),
            random=Random(1),
        )
        self.directory.open()
        self.writer = DirectoryWriter(self.directory, self.executor)
        # (base offset, end offset) of appends that were acknowledged, in order.
        self.acknowledged: list[tuple[int, int]] = []
        self.errors: list[StorageError] = []

    @property
    def log(self) -> Log:
        """The log of partition 0, made on first use."""
        found = self.directory.logs.get((TOPIC_ID, 0))
        return found or self.directory.create_log(TOPIC_ID, 0, self.config)

    @property
    def folder(self) -> str:
        """Path of the log's folder."""
        return self.log.path

    def submit(self, *batches: IncomingBatch, epoch: int = 1, now_ms: int = 1_000) -> None:
        """Stage and submit one append; it waits for ``executor``."""
        if self.log.epochs.latest != epoch:
            self.executor.run()
            self.log.begin_epoch(epoch)
        staged = self.log.stage(batches or (make_batch(),), epoch, now_ms)

        def done(_: int, error: StorageError | None) -> None:
            if error is None:
                self.acknowledged.append((staged.base_offset, staged.end_offset))
            else:
                self.errors.append(error)

        self.writer.submit(self.log, staged, done)

    def append(self, *batches: IncomingBatch, epoch: int = 1, now_ms: int = 1_000) -> None:
        """``submit`` and run everything that waits."""
        self.submit(*batches, epoch=epoch, now_ms=now_ms)
        self.executor.run()

    def read_all(self) -> list[tuple[int, bytes]]:
        """(base offset, producer's bytes) of every batch, read as a consumer would."""
        out: list[tuple[int, bytes]] = []
        offset = self.log.start_offset
        while data := self.log.read(offset, 100_000, self.log.written_end_offset):
            for frame in iterate_frames(data):
                header = parse_header(data, frame.batch_start, frame.end)
                out.append((header.base_offset, data[frame.batch_start + 42 : frame.end]))
                offset = header.next_offset
        return out
