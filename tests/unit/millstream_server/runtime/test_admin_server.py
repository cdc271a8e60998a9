"""The admin port answers the three paths and nothing else."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter

from millstream_server.runtime.admin_server import AdminServer


async def ask(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    return answer


async def get(port: int, path: str) -> tuple[int, bytes]:
    answer = await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_metrics_and_probes() -> None:
    registry = CollectorRegistry()
    Counter("millstream_test", "Counts.", registry=registry).inc(3)
    ready = False
    admin = AdminServer(registry, lambda: ready)
    port = await admin.start("127.0.0.1", 0)
    status, body = await get(port, "/metrics?name=all")
    assert status == 200
    assert b"millstream_test_total 3.0" in body
    assert (await get(port, "/healthz"))[0] == 200
    assert (await get(port, "/readyz"))[0] == 503
    ready = True
    assert (await get(port, "/readyz"))[0] == 200
    assert (await get(port, "/etc/passwd"))[0] == 404
    await admin.stop()


async def test_rubbish_gets_no_answer_and_breaks_nothing() -> None:
    admin = AdminServer(CollectorRegistry(), lambda: True)
    port = await admin.start("127.0.0.1", 0)
    assert await ask(port, b"POST /metrics HTTP/1.1\r\n\r\n") != b""
    assert await ask(port, b"\x00" * 70_000) == b""
    assert (await get(port, "/healthz"))[0] == 200
    await admin.stop()


async def test_a_stop_ends_open_connections_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    admin = AdminServer(CollectorRegistry(), lambda: True)
    port = await admin.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HT")  # a probe that is under way
    assert (await get(port, "/healthz"))[0] == 200  # so the one before was taken in
    mine = asyncio.all_tasks()
    await admin.stop()
    left = asyncio.all_tasks() & mine - {asyncio.current_task()}
    assert not left
    assert await reader.read() == b""
    writer.close()
    assert not caplog.records
