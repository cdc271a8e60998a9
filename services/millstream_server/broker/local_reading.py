"""Reading partitions led here for `Subscribe`: waits for news, reads, decodes on a thread."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.decoding import Decoded, Window, decode_run
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.jobs import run_job
from millstream_server.broker.offsets import resolve
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.storage.errors import StorageError

_NO_STOP = (1 << 63) - 1


class _Position:
    """Where one partition is read."""

    __slots__ = ("next_offset", "replica", "stop_offset", "stop_timestamp_ms")

    def __init__(self, replica: Replica, next_offset: int) -> None:
        self.replica = replica
        self.next_offset = next_offset
        self.stop_offset = _NO_STOP
        self.stop_timestamp_ms: int | None = None

    @property
    def done(self) -> bool:
        return self.next_offset >= self.stop_offset

    @property
    def readable(self) -> bool:
        return self.next_offset < min(self.stop_offset, self.replica.state.high_watermark)


class LocalReading:
    """A ``Reader`` of some partitions, in turn."""

    def __init__(
        self, hosted: HostedPartitions, replicas: Sequence[Replica], request: pb.SubscribeRequest
    ) -> None:
        self._hosted = hosted
        self._replicas = replicas
        self._request = request
        self._wake = asyncio.Event()
        self._refusal: Refusal | None = None

    def moved(self) -> None:
        """See ``Reader``."""
        self._wake.set()

    def lost(self, refusal: Refusal) -> None:
        """See ``Reader``."""
        self._refusal = refusal
        self._wake.set()

    async def batches(self) -> AsyncIterator[list[pb.SubscribedRecord]]:
        """The records of one run after the other; ends when every partition is at its stop.

        Raises Refusal.
        """
        for replica in self._replicas:
            replica.readers[self] = None
        try:
            positions = [await self._start(replica) for replica in self._replicas]
            while positions := [position for position in positions if not position.done]:
                if self._refusal is not None:
                    raise self._refusal
                self._wake.clear()
                idle = True
                for position in positions:
                    if not position.readable:
                        continue
                    idle = False
                    decoded = await self._read(position)
                    position.next_offset = decoded.next_offset
                    if decoded.stopped:
                        position.stop_offset = decoded.next_offset
                    if decoded.records:
                        yield decoded.records
                if idle:
                    await self._wake.wait()
        finally:
            for replica in self._replicas:
                replica.readers.pop(self, None)

    async def _start(self, replica: Replica) -> _Position:
        end_offset = replica.end_offset_for_clients()
        request = self._request
        start: int | None = end_offset
        if request.HasField("start"):
            start, _ = await resolve(self._hosted, replica, request.start, end_offset)
        position = _Position(replica, end_offset if start is None else start)
        if request.HasField("stop"):
            stop = request.stop
            if stop.WhichOneof("kind") == "offset":
                position.stop_offset = stop.offset
            else:
                found, _ = await resolve(self._hosted, replica, stop, end_offset)
                if found is not None:
                    position.stop_offset = found
                else:  # no record is as new yet
                    position.stop_timestamp_ms = stop.timestamp_ms
        return position

    async def _read(self, position: _Position) -> Decoded:
        replica = position.replica
        replica.check_readable()
        replica.check_offset(position.next_offset)
        number = replica.state.number
        window = Window(
            number, position.next_offset, position.stop_offset, position.stop_timestamp_ms
        )
        job = partial(
            _read_and_decode,
            replica,
            window,
            self._hosted.config.subscribe_message_bytes,
            self._request.text,
            replica.settings.log_append_time,
        )
        try:
            size, decoded = await run_job(self._hosted.reads, job)
        except StorageError as error:
            raise replica.read_refusal(error) from None
        except ValueError as error:
            raise Refusal("LOG_DAMAGED", f"partition {number}: {error}") from None
        replica.counters.bytes_out += size
        replica.counters.records_out += len(decoded.records)
        return decoded


def _read_and_decode(
    replica: Replica, window: Window, bytes_max: int, text: bool, log_append_time: bool
) -> tuple[int, Decoded]:
    run = replica.read(window.start_offset, bytes_max, window.stop_offset, verified=True)
    decoded = decode_run(run.data, window, text=text, log_append_time=log_append_time)
    return len(run.data), decoded
