"""gRPC on the simulated network behaves as gRPC does, and breaks as networks do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import grpc
import pytest

from tests.simulation.world.channel import SimChannel
from tests.simulation.world.loop import SimLoop
from tests.simulation.world.network import Network
from tests.simulation.world.process import Process
from tests.simulation.world.server import SimServer


@pytest.fixture
def loop() -> SimLoop:
    return SimLoop()


@pytest.fixture
def network(loop: SimLoop) -> Network:
    network = Network(loop, Random(1))
    network.spike = 0.0
    return network


def process(loop: SimLoop, name: str) -> Process:
    return Process(loop, name, name, Random(name))


class Echo:
    """A service of all four kinds, by hand: bytes in, bytes out."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            context.set_trailing_metadata((("why", "asked"),))
            await context.abort(grpc.StatusCode.NOT_FOUND, "as asked")
        if request == b"hang":
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return request

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([one async for one in requests])

    async def echo(self, requests: Any, context: Any) -> None:
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def handlers(self) -> dict[str, Any]:
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
            "Echo": grpc.stream_stream_rpc_method_handler(self.echo),
        }


class Pair:
    """A client and a server."""

    def __init__(self, loop: SimLoop, network: Network) -> None:
        self.loop, self.network = loop, network
        self.client, self.server = process(loop, "client"), process(loop, "server")
        for one in (self.client, self.server):
            one.on_death(lambda one=one: network.process_died(one))  # type: ignore[misc]
        self.echo = Echo()
        self.sim_server = SimServer(network, self.server)
        self.sim_server.add_registered_method_handlers("s", self.echo.handlers())
        self.sim_server.add_insecure_port("server:1")
        self.server.spawn(self.sim_server.start())
        loop.run_until(0.001)
        options = (
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
        )
        self.channel = SimChannel(network, self.client, "server:1", options)

    def run(self, work: Callable[[], Any], seconds: float = 60) -> Any:
        task = self.client.spawn(work())
        self.loop.run_until(self.loop.now + seconds)
        assert task.done()
        return task.result()


@pytest.fixture
def pair(loop: SimLoop, network: Network) -> Pair:
    return Pair(loop, network)


def test_all_four_kinds_of_calls(pair: Pair) -> None:
    async def work() -> Any:
        channel = pair.channel
        call = channel.stream_stream("/s/Echo")()
        echoed = []
        for number in range(3):
            await call.write(b"%d" % number)
            echoed.append(await call.read())
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        return (
            await channel.unary_unary("/s/Unary")(b"x"),
            [one async for one in channel.unary_stream("/s/Count")(b"3")],
            await channel.stream_unary("/s/Join")(iter([b"a", b"b"])),
            echoed,
        )

    assert pair.run(work) == (b"x", [b"0", b"1", b"2"], b"ab", [b"0", b"1", b"2"])


def failure_of(pair: Pair, method: str, request: bytes, **options: Any) -> grpc.aio.AioRpcError:
    async def work() -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pair.channel.unary_unary(method)(request, **options)
        return caught.value

    error = pair.run(work)
    assert isinstance(error, grpc.aio.AioRpcError)
    return error


def test_an_abort_carries_code_details_and_metadata(pair: Pair) -> None:
    error = failure_of(pair, "/s/Unary", b"abort")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "as asked"
    assert ("why", "asked") in list(error.trailing_metadata())


def test_an_unknown_method_is_unimplemented(pair: Pair) -> None:
    assert failure_of(pair, "/s/Nothing", b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_ends_the_call_on_both_sides(pair: Pair) -> None:
    error = failure_of(pair, "/s/Unary", b"hang", timeout=2.0)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert pair.echo.cancelled == 1


def test_nobody_listens(pair: Pair) -> None:
    del pair.network.servers["server:1"]
    assert failure_of(pair, "/s/Unary", b"x").code() is grpc.StatusCode.UNAVAILABLE


def test_a_killed_server_resets_its_calls(pair: Pair) -> None:
    pair.loop.call_in(1.0, pair.server.kill)
    assert failure_of(pair, "/s/Unary", b"hang").code() is grpc.StatusCode.UNAVAILABLE


def test_a_reader_that_is_cancelled_cancels_its_call(pair: Pair) -> None:
    async def work() -> None:
        call = pair.channel.stream_stream("/s/Echo")()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await call.read()
        assert call.cancelled()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"x")

    pair.run(work)
    assert pair.echo.cancelled == 1


def test_a_short_cut_only_delays_and_keeps_the_order(pair: Pair) -> None:
    async def work() -> list[bytes]:
        call = pair.channel.stream_stream("/s/Echo")()
        await call.write(b"0")
        first = await call.read()
        pair.network.cut("client", "server")
        for number in range(1, 4):
            await call.write(b"%d" % number)
        pair.loop.call_in(5, pair.network.heal, "client", "server")
        begun = pair.loop.now
        rest = [await call.read() for _ in range(3)]
        assert pair.loop.now - begun >= 5
        return [first, *rest]

    assert pair.run(work) == [b"0", b"1", b"2", b"3"]


def test_a_long_cut_one_way_breaks_the_connection(pair: Pair) -> None:
    pair.loop.call_in(1.0, pair.network.cut, "server", "client")
    assert failure_of(pair, "/s/Unary", b"hang").code() is grpc.StatusCode.UNAVAILABLE


def test_a_channel_connects_again(pair: Pair) -> None:
    async def work() -> bytes:
        call = pair.channel.unary_unary("/s/Unary")
        await call(b"x")
        pair.network.reset("client", "server")
        await asyncio.sleep(0.01)
        return bytes(await call(b"y"))

    assert pair.run(work) == b"y"
