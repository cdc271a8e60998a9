"""Connections to a process that hangs are given up by pings, not by TCP after many minutes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import grpc
import pytest

from millstream._client.config import ClientConfig
from millstream._client.connection import channel_options
from millstream_raft.transport import CHANNEL_OPTIONS
from millstream_server.runtime.channels import OPTIONS
from millstream_server.runtime.grpc_server import SERVER_OPTIONS

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


def test_a_client_gives_up_a_process_that_is_stopped(server: tuple[int, int]) -> None:
    pid, port = server
    options = channel_options(ClientConfig(keepalive_time_ms=5_000, keepalive_timeout_ms=1_000))
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stream = channel.unary_stream("/test/Stream")(b"", timeout=_GIVEN_UP_S)
        assert next(stream) == b"there"
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "options", [OPTIONS, CHANNEL_OPTIONS, SERVER_OPTIONS], ids=["node", "voter", "server"]
)
def test_nodes_wait_for_a_ping_as_long_as_they_say(options: Sequence[tuple[str, object]]) -> None:
    given = dict(options)
    assert given["grpc.http2.ping_timeout_ms"] == given["grpc.keepalive_timeout_ms"]
