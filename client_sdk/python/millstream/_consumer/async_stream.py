"""A bidirectional gRPC stream under asyncio: a queue to send, callbacks for what arrives."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from millstream._errors import MillstreamError, UnavailableError
from millstream._errors.status import from_status

# How long the other side may take to end a stream after we did.
_GOODBYE_S = 1.0


class AsyncStream:
    """Owns the tasks of one stream. ``broken`` is called once unless ``close`` came first."""

    def __init__(
        self,
        open_call: Callable[[], Any],
        received: Callable[[Any], None],
        broken: Callable[[MillstreamError], None],
    ) -> None:
        self._received = received
        self._broken = broken
        self._waiting: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._call: Any = None
        self._task = asyncio.create_task(self._run(open_call), name="millstream-stream")

    def send(self, message: Any) -> None:
        """Send after everything sent before."""
        self._waiting.append(message)
        self._wake.set()

    def close(self, *, flush: bool) -> None:
        """End the stream; ``flush``: after what is waiting was sent."""
        if self._closing:
            return
        self._closing = True
        if flush:
            self._wake.set()
        else:
            self._task.cancel()

    def cancel(self) -> None:
        """End the stream and everything that was still to be sent."""
        self._closing = True
        self._task.cancel()

    @property
    def done(self) -> bool:
        """True if nothing of the stream runs any more."""
        return self._task.done()

    async def closed(self) -> None:
        """Wait until nothing of the stream runs any more."""
        await asyncio.wait((self._task,))

    async def _run(self, open_call: Callable[[], Any]) -> None:
        error: MillstreamError = UnavailableError("the stream ended")
        writer: asyncio.Task[None] | None = None
        try:
            self._call = open_call()
            writer = asyncio.create_task(self._write())
            await self._read()
        except asyncio.CancelledError:
            if not self._closing:
                raise  # somebody else wants the task to end
        except (grpc.RpcError, MillstreamError) as failure:
            error = from_status(failure)
        finally:
            if writer is not None:
                writer.cancel()
            if self._call is not None:
                self._call.cancel()
        if not self._closing:
            self._closing = True
            self._broken(error)

    async def _read(self) -> None:
        call = self._call
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                return  # ended well; any other end raises in `read`
            self._received(message)

    async def _write(self) -> None:
        call = self._call
        try:
            while True:
                while self._waiting:
                    await call.write(self._waiting.popleft())
                if self._closing:
                    await call.done_writing()
                    await asyncio.sleep(_GOODBYE_S)
                    call.cancel()
                    return
                self._wake.clear()
                await self._wake.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the reader gets the reason
