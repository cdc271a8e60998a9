"""Connections to a process that hangs are given up by pings, not by TCP after many minutes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import grpc
import pytest

from millstream._client.config import ClientConfig
from millstream._client.connection import channel_options
from millstream_raft.transport import CHANNEL_OPTIONS
from millstream_server.runtime.channels import OPTIONS

_SERVER = """
import time
from concurrent.futures import ThreadPoolExecutor
import grpc
from millstream_server.runtime.grpc_server import SERVER_OPTIONS

def stream(request, context):
    yield b"there"
    time.sleep(600)

server = grpc.server(ThreadPoolExecutor(8), options=SERVER_OPTIONS)
server.add_registered_method_handlers(
    "test", {"Stream": grpc.unary_stream_rpc_method_handler(stream)}
)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""
# gRPC's own time-out of a ping is one minute, and counts unless it is set.
_GIVEN_UP_S = 45.0


@pytest.fixture
def server() -> Iterator[tuple[int, int]]:
    """(process id, port) of a server that answers once and then holds its streams."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    process.kill()
    process.communicate()


def ends_with(port: int, options: Sequence[tuple[str, int | str]], told: threading.Event) -> object:
    """The status of a stream over a channel of these options; ``told`` once it is open."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=list(options)) as channel:
        stream = channel.unary_stream("/test/Stream")(b"", timeout=_GIVEN_UP_S)
        try:
            assert next(stream) == b"there"
            told.set()
            next(stream)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]
    return None


def test_a_stopped_process_is_noticed_by_every_kind_of_connection(server: tuple[int, int]) -> None:
    pid, port = server
    kinds = {
        "client": channel_options(ClientConfig(keepalive_time_ms=5_000)),
        "node": OPTIONS,
        "voter": CHANNEL_OPTIONS,
    }
    found: dict[str, object] = {}
    opened = {kind: threading.Event() for kind in kinds}
    threads = [
        threading.Thread(
            target=lambda kind=kind: found.update(
                {kind: ends_with(port, kinds[kind], opened[kind])}
            )
        )
        for kind in kinds
    ]
    for thread in threads:
        thread.start()
    for event in opened.values():
        assert event.wait(30)
    os.kill(pid, signal.SIGSTOP)
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(kinds, grpc.StatusCode.UNAVAILABLE)
