"""The plain HTTP port of a node: ``/metrics``, ``/healthz``, ``/readyz``.

It runs on the node's event loop, so that a hung loop fails the liveness probe; only the formatting
of metrics is done
on a thread.
"""

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

_REQUEST_BYTES_MAX = 16 * 1024
_REQUEST_TIMEOUT_S = 5.0
_CONNECTIONS_MAX = 64
_TEXT = "text/plain; charset=utf-8"


class _Collected:
    """What ``generate_latest`` needs of a registry: the metrics as they were on the event loop."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


class AdminServer:
    """Serves the admin port until closed."""

    def __init__(self, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[Any] | None, asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. Raises OSError if the address is in use."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_REQUEST_BYTES_MAX)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening, and end the connections that are open: a probe that waits for its answer
        would be cancelled with the event loop, and told as a traceback."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._connections.values():
            writer.transport.abort()
        open_connections = [task for task in self._connections if task is not None]
        if open_connections:
            await asyncio.wait(open_connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections[task] = writer
        try:
            if len(self._connections) <= _CONNECTIONS_MAX:
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                status, content_type, body = await self._answer(head)
                phrase = f"{status.value} {status.phrase}"
                writer.write(
                    f"HTTP/1.1 {phrase}\r\nContent-Type: {content_type}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                if not head.startswith(b"HEAD "):
                    writer.write(body)
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a slow, broken or talkative client gets no answer
        finally:
            del self._connections[task]
            writer.close()

    async def _answer(self, head: bytes) -> tuple[HTTPStatus, str, bytes]:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n"
        if path == b"/metrics":
            collected = _Collected(self._registry.collect())
            body = await asyncio.to_thread(generate_latest, collected)
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, body
        if path == b"/healthz":
            return HTTPStatus.OK, _TEXT, b"alive\n"
        if path == b"/readyz":
            if self._is_ready():
                return HTTPStatus.OK, _TEXT, b"ready\n"
            return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not ready\n"
        return HTTPStatus.NOT_FOUND, _TEXT, b"try /metrics, /healthz or /readyz\n"
