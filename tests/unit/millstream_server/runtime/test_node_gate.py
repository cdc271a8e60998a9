"""Internal methods behind the gate: every one of them, over real TLS, by the caller's certificate.

The services are those of the internal package's descriptors, so one that is added is tested too.
"""

import contextlib
import importlib
import pkgutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

import millstream.v1
import millstream_server.v1
from millstream_server.runtime.callers import CertifiedCallers
from millstream_server.runtime.channels import OPTIONS
from millstream_server.runtime.grpc_server import GrpcServer
from millstream_server.runtime.node_gate import PUBLIC_PREFIXES
from millstream_server.runtime.tls import NodeTls, TlsFiles
from tests.fakes.authority import LOOPBACK, Authority, node_name

CLUSTER = "logs"


def services_of(package: Any) -> list[Any]:
    """Descriptors of all services of a package of generated modules."""
    modules = [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.endswith("_pb2")
    ]
    return [
        service for module in modules for service in module.DESCRIPTOR.services_by_name.values()
    ]


def paths(package: Any) -> list[str]:
    return [
        f"/{service.full_name}/{method.name}"
        for service in services_of(package)
        for method in service.methods
    ]


INTERNAL = paths(millstream_server.v1)
PUBLIC = paths(millstream.v1)


def handlers(package: Any, called: list[str]) -> list[grpc.GenericRpcHandler]:
    """Every method of the package, as one that notes its call and answers nothing."""
    made = []
    for service in services_of(package):
        methods = {method.name: handler_of(method, called) for method in service.methods}
        made.append(grpc.method_handlers_generic_handler(service.full_name, methods))
    return made


def handler_of(method: Any, called: list[str]) -> Any:
    kinds = ("unary", "stream")
    kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"

    async def answer(request: Any, context: Any) -> bytes:
        called.append(method.name)
        return b""

    async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
        called.append(method.name)
        yield b""

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(stream if method.server_streaming else answer)


class Port:
    """A node's port with methods that do nothing, and ways to call it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.called: list[str] = []
        self.registry = CollectorRegistry()
        certificate, key = self.authority.issue("one", node_name(CLUSTER, 1), *LOOPBACK)
        tls = NodeTls.load(TlsFiles(str(certificate), str(key), str(self.authority.ca)), CLUSTER, 1)
        self.server = GrpcServer(
            "127.0.0.1:0",
            self.registry,
            reflection=True,
            callers=CertifiedCallers(CLUSTER),
            credentials=tls.server_credentials(),
        )
        for package in (millstream.v1, millstream_server.v1):
            self.server.server.add_generic_rpc_handlers(tuple(handlers(package, self.called)))

    def channel(self, *names: str) -> grpc.aio.Channel:
        """A channel of a caller with a certificate of these names."""
        certificate, key = self.authority.issue("caller", *names)
        credentials = grpc.ssl_channel_credentials(
            self.authority.ca.read_bytes(), key.read_bytes(), certificate.read_bytes()
        )
        options = (("grpc.use_local_subchannel_pool", 1),)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.server.port}", credentials, options)

    async def call(self, channel: grpc.aio.Channel, path: str) -> grpc.StatusCode:
        """The status of a call without a request, or with an empty one."""
        service, _, name = path.removeprefix("/").partition("/")
        method = next(
            method
            for package in (millstream.v1, millstream_server.v1)
            for found in services_of(package)
            if found.full_name == service
            for method in found.methods
            if method.name == name
        )
        kinds = ("unary", "stream")
        kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
        request = iter([b""]) if method.client_streaming else b""
        call = getattr(channel, kind)(path)(request, timeout=10)
        if method.server_streaming:
            with contextlib.suppress(grpc.RpcError):
                [_ async for _ in call]
        code: grpc.StatusCode = await call.code()
        return code

    def refused(self, reason: str) -> float:
        """How often the metric says that a call was refused."""
        sample = self.registry.get_sample_value(
            "millstream_refused_peers_total", {"reason": reason}
        )
        return sample or 0.0


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    made = Port(tmp_path)
    await made.server.start(())
    yield made
    await made.server.stop(0)


def test_there_are_internal_methods_to_test() -> None:
    assert "/millstream_server.v1.RaftService/SendMessages" in INTERNAL
    assert "/millstream_server.v1.ControllerService/NodeSession" in INTERNAL
    assert not [path for path in INTERNAL if path.startswith(PUBLIC_PREFIXES)]
    assert all(path.startswith(PUBLIC_PREFIXES) for path in PUBLIC)


@pytest.mark.parametrize(
    "names",
    [
        ["client.example"],
        [node_name("another", 2)],
        [node_name(CLUSTER, 2), node_name(CLUSTER, 3)],
        [f"*.{CLUSTER}.millstream.internal"],
    ],
    ids=["a client", "a node of another cluster", "two nodes", "a wildcard"],
)
async def test_no_internal_method_is_open_to_others(port: Port, names: list[str]) -> None:
    async with port.channel(*names) as channel:
        codes = {path: await port.call(channel, path) for path in INTERNAL}
    assert codes == dict.fromkeys(INTERNAL, grpc.StatusCode.PERMISSION_DENIED)
    assert port.called == []
    assert port.refused("not_a_node") == len(INTERNAL)


async def test_every_internal_method_is_open_to_a_node_of_the_cluster(port: Port) -> None:
    async with port.channel(node_name(CLUSTER, 2)) as channel:
        codes = {path: await port.call(channel, path) for path in INTERNAL}
    assert codes == dict.fromkeys(INTERNAL, grpc.StatusCode.OK)
    assert port.refused("not_a_node") == 0


async def test_every_public_method_is_open_to_a_client(port: Port) -> None:
    async with port.channel("client.example") as channel:
        codes = {path: await port.call(channel, path) for path in PUBLIC}
    assert codes == dict.fromkeys(PUBLIC, grpc.StatusCode.OK)


@pytest.mark.parametrize(("meant", "reached"), [(1, True), (2, False)])
async def test_who_dials_a_node_reaches_that_node_or_nobody(
    port: Port, meant: int, reached: bool
) -> None:
    """Node 1 listens; another one that is looked for at its address is not found there."""
    certificate, key = port.authority.issue("three", node_name(CLUSTER, 3))
    files = TlsFiles(str(certificate), str(key), str(port.authority.ca))
    address = f"127.0.0.1:{port.server.port}"
    async with NodeTls.load(files, CLUSTER, 3).dial(meant, address, OPTIONS) as channel:
        code = await port.call(channel, "/millstream_server.v1.ControllerService/DescribeQuorum")
    assert code is (grpc.StatusCode.OK if reached else grpc.StatusCode.UNAVAILABLE)
    assert port.called == ["DescribeQuorum"] * reached


async def test_a_method_of_a_service_to_come_is_closed_from_the_start(port: Port) -> None:
    """Methods are open only by the name of a public package."""
    handler = grpc.method_handlers_generic_handler(
        "millstream_next.v1.Service",
        {"Do": handler_of(INTERNAL_METHOD, port.called)},
    )
    port.server.server.add_generic_rpc_handlers((handler,))
    async with port.channel("client.example") as channel:
        call = channel.unary_unary("/millstream_next.v1.Service/Do")(b"", timeout=10)
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
    assert port.called == []


INTERNAL_METHOD = next(
    method
    for service in services_of(millstream_server.v1)
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
)
