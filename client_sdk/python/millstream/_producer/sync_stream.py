"""One produce stream of the blocking producer: gRPC's thread takes requests, ours takes answers."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from millstream._client.methods import PRODUCE_PATH
from millstream._client.sync_io import SyncClient
from millstream._errors import ClientClosedError, MillstreamError, UnavailableError
from millstream._errors.status import from_status
from millstream._producer.call import ProduceCall
from millstream.v1.broker_service_pb2 import ProduceResponse


class SyncProduceStream:
    """The stream to one node; once broken it stays so, and ``on_broken`` was called.

    The callbacks come from threads of their own.
    """

    def __init__(
        self,
        *,
        encode: Callable[[ProduceCall], bytes],
        on_written: Callable[[ProduceCall], None],
        on_response: Callable[[ProduceResponse], None],
        on_broken: "Callable[[SyncProduceStream, MillstreamError], None]",
    ) -> None:
        self._address = ""
        self._encode = encode
        self._on_written = on_written
        self._on_response = on_response
        self._on_broken = on_broken
        self._queue: queue.SimpleQueue[ProduceCall | None] = queue.SimpleQueue()
        self._reason: MillstreamError | None = None
        self._stream: Any = None
        self._reading: threading.Thread | None = None

    def open(self, client: SyncClient, address: str) -> None:
        """Connect. Whatever goes wrong is told by ``on_broken``."""
        self._address = address
        try:
            self._stream = client.open_stream(PRODUCE_PATH, address, self._requests())
        except (MillstreamError, ValueError) as error:  # the client was closed
            self._on_broken(self, UnavailableError(str(error)))
            return
        if self._reason is not None:
            self._stream.cancel()
        self._reading = threading.Thread(
            target=self._read, name=f"millstream-read-{address}", daemon=True
        )
        self._reading.start()

    def put(self, call: ProduceCall) -> None:
        """Send a request after those put before it."""
        self._queue.put(call)

    def end(self, reason: MillstreamError) -> None:
        """Break the stream; ``on_broken`` follows with this reason."""
        self._reason = self._reason or reason
        if self._stream is not None:
            self._stream.cancel()
        self._queue.put(None)

    def close(self) -> None:
        """End the stream and its threads, silently."""
        self._on_broken = lambda stream, error: None
        self.end(ClientClosedError("the producer is closed"))
        if self._reading is not None and self._reading is not threading.current_thread():
            self._reading.join(timeout=1)

    def _requests(self) -> Iterator[bytes]:
        while (call := self._queue.get()) is not None:
            yield self._encode(call)
            # Reached when gRPC asks for the next request: this one is on its way.
            self._on_written(call)

    def _read(self) -> None:
        error: MillstreamError = UnavailableError(f"{self._address} ended the stream")
        try:
            for data in self._stream:
                self._on_response(ProduceResponse.FromString(data))
        except grpc.RpcError as failure:
            error = from_status(failure)
        finally:
            self._queue.put(None)
            reason = self._reason or error
            # A stream that ended for any reason is opened again; its requests' fate is unknown.
            broken = reason if reason.retriable else UnavailableError(str(reason))
            self._on_broken(self, broken)
