"""One produce stream of the async producer: requests out, answers in, one task for each."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from millstream._client.async_io import AsyncClient
from millstream._client.methods import PRODUCE_PATH
from millstream._errors import ClientClosedError, MillstreamError, UnavailableError
from millstream._errors.status import from_status
from millstream._producer.call import ProduceCall
from millstream.v1.broker_service_pb2 import ProduceResponse


class AsyncProduceStream:
    """The stream to one node; once broken it stays so, and ``on_broken`` was called."""

    def __init__(
        self,
        client: AsyncClient,
        address: str,
        *,
        encode: Callable[[ProduceCall], bytes],
        on_written: Callable[[ProduceCall], None],
        on_response: Callable[[ProduceResponse], None],
        on_broken: "Callable[[AsyncProduceStream, MillstreamError], None]",
    ) -> None:
        self._encode = encode
        self._on_written = on_written
        self._on_response = on_response
        self._on_broken = on_broken
        self._queue: deque[ProduceCall] = deque()
        self._queued = asyncio.Event()
        self._reason: MillstreamError | None = None
        self._stream: Any = client.open_stream(PRODUCE_PATH, address)
        self._writing = asyncio.create_task(self._write(), name=f"millstream-write-{address}")
        self._reading = asyncio.create_task(self._read(address), name=f"millstream-read-{address}")

    def put(self, call: ProduceCall) -> None:
        """Send a request after those put before it."""
        self._queue.append(call)
        self._queued.set()

    def end(self, reason: MillstreamError) -> None:
        """Break the stream; ``on_broken`` follows with this reason."""
        self._reason = self._reason or reason
        self._stream.cancel()

    async def close(self) -> None:
        """End the stream and its tasks, silently."""
        self._on_broken = lambda stream, error: None
        self.end(ClientClosedError("the producer is closed"))
        self._writing.cancel()
        await asyncio.wait((self._writing, self._reading), timeout=1)

    async def _write(self) -> None:
        queue, stream = self._queue, self._stream
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                while queue:
                    call = queue.popleft()
                    await stream.write(self._encode(call))
                    self._on_written(call)
                self._queued.clear()
                await self._queued.wait()

    async def _read(self, address: str) -> None:
        error: MillstreamError = UnavailableError(f"{address} ended the stream")
        try:
            while True:
                data = await self._stream.read()
                if data is grpc.aio.EOF:
                    break
                self._on_response(ProduceResponse.FromString(data))
            status = await self._stream.code()
            if status is not grpc.StatusCode.OK:
                error = UnavailableError(f"{address}: {status.name}")
        except grpc.RpcError as failure:
            error = from_status(failure)
        except asyncio.CancelledError:
            # Cancelling the call raises this too; only our own cancellation has to go on.
            if self._reason is None:
                raise
        finally:
            self._writing.cancel()
            self._stream.cancel()
            reason = self._reason or error
            self._on_broken(self, reason if reason.retriable else _retriable(reason))


def _retriable(error: MillstreamError) -> MillstreamError:
    """A stream that ended for any reason is opened again; its requests' fate is unknown."""
    return UnavailableError(str(error))
