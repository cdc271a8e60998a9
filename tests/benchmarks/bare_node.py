"""One process of the bare path (see ``bare_path``): leads one file and follows two.

``python -m tests.benchmarks.bare_node NUMBER FOLDER FLUSH_MODE`` prints its port, reads the ports
of all three from stdin, and serves until stdin ends. Every message is raw bytes, and every
position in a message is a number of bytes, for nothing here knows of records::

    Produce     in: a batch                      out: bytes of this stream that all three have
    Replicate   in: bytes that the follower has  out: batches, joined while the stream was busy
    Fetch       in: bytes to go back at first    out: what all three have, as it comes
"""

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from millstream_server.runtime.grpc_server import SERVER_OPTIONS
from millstream_server.runtime.memory import keep_big_blocks_on_the_heap
from millstream_server.runtime.ports import File
from millstream_server.runtime.system import SystemFiles, ThreadExecutor

SERVICE = "bare.Path"
NODES = 3
# As of our brokers: bytes in one message to a follower or a reader, and bytes preallocated.
_MESSAGE_BYTES = 256 * 1024
_ALLOCATE_BYTES = 8 * 1024 * 1024
_Context = grpc.aio.ServicerContext[Any, Any]
_Written = Callable[[int], None]


class BareFile:
    """A file that grows at its end."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.end = 0
        self._allocated = 0

    def append(self, buffers: list[bytes]) -> None:
        """Write at the end."""
        if self._allocated - self.end < _ALLOCATE_BYTES // 2:
            begin = max(self._allocated, self.end)
            self.file.allocate(begin, _ALLOCATE_BYTES)
            self._allocated = begin + _ALLOCATE_BYTES
        self.file.write(self.end, buffers)
        self.end += sum(map(len, buffers))


class BareDisk:
    """Writes: on the loop, or, synced, on one thread for all files, as much at once as waits."""

    def __init__(self, *, fsync: bool) -> None:
        loop = asyncio.get_running_loop()
        self._thread = ThreadExecutor("disk", loop) if fsync else None
        self._waiting: dict[BareFile, tuple[list[bytes], _Written]] = {}
        self._running = False

    def append(self, file: BareFile, data: bytes, written: _Written) -> None:
        """Write; then tell ``written`` the end of the file."""
        if self._thread is None:
            file.append([data])
            written(file.end)
            return
        self._waiting.setdefault(file, ([], written))[0].append(data)
        if not self._running:
            self._start(self._thread)

    def _start(self, thread: ThreadExecutor) -> None:
        work, self._waiting = self._waiting, {}
        self._running = True

        def write() -> None:
            for file, (buffers, _) in work.items():
                file.append(buffers)
            for file in work:
                file.file.sync()

        def done(_nothing: None, error: BaseException | None) -> None:
            self._running = False
            if error is not None:
                raise error
            if self._waiting:
                self._start(thread)
            for file, (_, written) in work.items():
                written(file.end)

        thread.submit(write, done)


class Outbox:
    """What waits to be written to one stream."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Send as well."""
        self._waiting.append(data)
        self._wake.set()

    def replace(self, data: bytes) -> None:
        """Send instead of what waits."""
        self._waiting.clear()
        self.put(data)

    async def send(self, write: Callable[[bytes], Any]) -> None:
        """Write until cancelled; one message is on its way at a time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await write(self._take())

    def _take(self) -> bytes:
        waiting = self._waiting
        first = waiting.popleft()
        if not waiting or len(first) + len(waiting[0]) > _MESSAGE_BYTES:
            return first
        joined, size = [first], len(first)
        while waiting and size + len(waiting[0]) <= _MESSAGE_BYTES:
            size += len(waiting[0])
            joined.append(waiting.popleft())
        return b"".join(joined)


class BareNode:
    """What one process leads, and the streams of it."""

    def __init__(self, number: int, folder: str, *, fsync: bool) -> None:
        files = SystemFiles()
        self.number = number
        self._disk = BareDisk(fsync=fsync)
        self._files = [
            BareFile(files.open(f"{folder}/{number}-{led}", create=True)) for led in range(NODES)
        ]
        self._own = self._files[number]
        # Bytes of the own file: taken in; on each of the other two; on all three.
        self._taken = self._synced = self._mark = 0
        self._followers: dict[Outbox, int] = {}
        # (end, begin of its stream, where to tell) of what is not on all three.
        self._unanswered: deque[tuple[int, int, Outbox]] = deque()
        self._readers: dict[asyncio.Event, None] = {}

    def methods(self) -> grpc.GenericRpcHandler:
        """The three methods."""
        calls = {"Produce": self._produce, "Replicate": self._replicate, "Fetch": self._fetch}
        return grpc.method_handlers_generic_handler(
            SERVICE, {name: grpc.stream_stream_rpc_method_handler(calls[name]) for name in calls}
        )

    async def _produce(self, _: object, context: _Context) -> None:
        outbox, begin = Outbox(), self._taken
        sending = asyncio.create_task(outbox.send(context.write))
        try:
            while (batch := await context.read()) is not grpc.aio.EOF:
                self._taken += len(batch)
                self._unanswered.append((self._taken, begin, outbox))
                for follower in self._followers:
                    follower.put(batch)
                self._disk.append(self._own, batch, self._own_written)
        finally:
            sending.cancel()

    def _own_written(self, end: int) -> None:
        self._synced = end
        self._move_mark()

    def _move_mark(self) -> None:
        mark = min(self._synced, *self._followers.values())
        if len(self._followers) < NODES - 1 or mark == self._mark:
            return
        self._mark = mark
        while self._unanswered and self._unanswered[0][0] <= mark:
            end, begin, outbox = self._unanswered.popleft()
            outbox.replace((end - begin).to_bytes(8, "big"))
        for wake in self._readers:
            wake.set()

    async def _replicate(self, _: object, context: _Context) -> None:
        outbox = Outbox()
        self._followers[outbox] = 0
        sending = asyncio.create_task(outbox.send(context.write))
        try:
            while (position := await context.read()) is not grpc.aio.EOF:
                self._followers[outbox] = int.from_bytes(position, "big")
                self._move_mark()
        finally:
            sending.cancel()

    async def _fetch(self, _: object, context: _Context) -> None:
        back = int.from_bytes(await context.read(), "big")
        position = self._mark - back
        wake = asyncio.Event()
        self._readers[wake] = None
        await context.write(b"ready")
        try:
            while True:
                while position < self._mark:
                    size = min(_MESSAGE_BYTES, self._mark - position)
                    data = self._own.file.read(position, size)
                    position += len(data)
                    await context.write(data)
                await wake.wait()
                wake.clear()
        finally:
            del self._readers[wake]

    async def follow(self, led: int, port: int) -> None:
        """Copy what another process leads; ends with an error when that process is gone."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", SERVER_OPTIONS) as channel:
            call: Any = channel.stream_stream(f"/{SERVICE}/Replicate")()
            await call.write(bytes(8))
            outbox = Outbox()
            sending = asyncio.create_task(outbox.send(call.write))
            written = partial(_report, outbox)
            while (data := await call.read()) is not grpc.aio.EOF:
                self._disk.append(self._files[led], data, written)
            sending.cancel()


def _report(outbox: Outbox, end: int) -> None:
    outbox.replace(end.to_bytes(8, "big"))


async def serve(number: int, folder: str, flush_mode: str) -> None:
    """Run one process."""
    loop = asyncio.get_running_loop()
    node = BareNode(number, folder, fsync=flush_mode == "fsync")
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((node.methods(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    ports = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    following = [
        asyncio.create_task(node.follow(led, ports[led])) for led in range(NODES) if led != number
    ]
    await loop.run_in_executor(None, sys.stdin.readline)
    for task in following:
        task.cancel()
    os._exit(0)


if __name__ == "__main__":
    keep_big_blocks_on_the_heap()
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
