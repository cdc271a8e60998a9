"""Metadata nodes of which only the watch of the image is there, as a test wants it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from millstream_raft.image import Image
from millstream_raft.image_codec import encode_image
from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

PULSE_MS = 10


class ImageServer(pb_grpc.ControllerServiceServicer):
    """Sends ``image`` once, and pulses while it ``pulses``. It is no controller."""

    def __init__(self) -> None:
        self.image = Image()
        self.pulse_interval_ms = PULSE_MS
        self.pulses = asyncio.Event()
        self.pulses.set()
        self.watches = 0
        self.watched = asyncio.Event()
        self.asked = asyncio.Event()
        # Where it says that the controller is.
        self.leader_address = ""
        self.address = ""
        self.port = 0

    async def WatchImage(self, request: Any, context: Any) -> AsyncIterator[pb.WatchImageResponse]:
        self.watches += 1
        self.watched.set()
        yield pb.WatchImageResponse(
            version=self.image.version,
            image_chunk=encode_image(self.image),
            image_complete=True,
            pulse_interval_ms=self.pulse_interval_ms,
        )
        while True:
            await asyncio.sleep(PULSE_MS / 1000)
            await self.pulses.wait()
            yield pb.WatchImageResponse(version=self.image.version)

    async def NodeSession(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        hint = {"leader_address": self.leader_address}
        await abort(context, ServiceError("NOT_CONTROLLER", "a fake", hint))
        yield

    async def Execute(self, request: Any, context: Any) -> pb.ExecuteResponse:
        """Hangs, as a stopped process does."""
        self.asked.set()
        await asyncio.Event().wait()
        return pb.ExecuteResponse()


@contextlib.asynccontextmanager
async def image_servers(count: int) -> AsyncIterator[list[ImageServer]]:
    """So many of them, listening."""
    made, servers = [], []
    for _ in range(count):
        server, servicer = grpc.aio.server(), ImageServer()
        servicer.port = server.add_insecure_port("127.0.0.1:0")
        servicer.address = f"127.0.0.1:{servicer.port}"
        pb_grpc.add_ControllerServiceServicer_to_server(servicer, server)
        await server.start()
        made.append(servicer)
        servers.append(server)
    try:
        yield made
    finally:
        for server in servers:
            await server.stop(None)
