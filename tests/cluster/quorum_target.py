"""A metadata quorum that hostile callers are sent against, and what they must leave as it was."""

import contextlib
import http.client
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc

from millstream import Admin
from millstream_server.local_cluster import LocalCluster, NodePlan
from tests.cluster.quorum_leader import agreed_leader
from tests.fakes.authority import Authority, node_name

CLUSTER_ID = "under-attack"
METADATA, COORDINATORS = 3, 1
# Only what callers do may change anything, not a machine that is busy for a moment.
_PATIENT = {"raft.election.timeout.ms": 3_000, "broker.session.timeout.ms": 30_000}
_WAIT_S = 30.0
# The target is to refuse what is too large, not the caller.
_OPTIONS = (("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1))
_REFUSED = re.compile(r"^millstream_refused_peers_total\{.*\} ([0-9.]+)$", re.MULTILINE)


class World(NamedTuple):
    """What a refused caller must leave as it was."""

    leader_id: int | None
    term: int
    version: int


class QuorumTarget:
    """A running cluster, with TLS where an authority is given."""

    def __init__(self, folder: Path, authority: Authority | None, *, brokers: int = 1) -> None:
        self.authority = authority
        node_ids = range(1, METADATA + brokers + COORDINATORS + 1)
        node_configs = {
            node_id: authority.node(CLUSTER_ID, node_id) for node_id in node_ids if authority
        }
        self.properties: Mapping[str, str] = authority.client() if authority else {}
        self.cluster = LocalCluster.create(
            folder,
            metadata=METADATA,
            brokers=brokers,
            coordinators=COORDINATORS,
            cluster_id=CLUSTER_ID,
            config=_PATIENT,
            node_configs=node_configs,
        )

    def __enter__(self) -> Self:
        self.cluster.start()
        self._admin = Admin.from_config(self.client_properties())
        self.leader()  # or a node that has not heard of it yet might tell another world
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()
        self.cluster.stop()

    def client_properties(self) -> dict[str, Any]:
        """Keys of an honest client."""
        return {**self.properties, "bootstrap.servers": self.cluster.bootstrap_servers}

    def channel(self, node: NodePlan, files: tuple[Path, Path] | None = None) -> grpc.Channel:
        """A channel to a node; with TLS by a caller with this certificate, or with none."""
        if self.authority is None:
            return grpc.insecure_channel(node.address, options=_OPTIONS)
        certificate, key = (path.read_bytes() for path in files) if files else (None, None)
        credentials = grpc.ssl_channel_credentials(
            self.authority.ca.read_bytes(), private_key=key, certificate_chain=certificate
        )
        return grpc.secure_channel(node.address, credentials, options=_OPTIONS)

    def as_node(self, node: NodePlan, node_id: int) -> grpc.Channel:
        """A channel of somebody who stole, or is, a node of the cluster."""
        name = node_name(CLUSTER_ID, node_id)
        files = self.authority.issue(f"caller-{node_id}", name) if self.authority else None
        return self.channel(node, files)

    def leader(self) -> NodePlan:
        """The leading metadata node, once all of them know it."""
        broker_id = METADATA + 1
        return agreed_leader(self.cluster, lambda node: self.as_node(node, broker_id))

    def world(self) -> World:
        """As `metadata quorum describe` and `cluster describe` tell it."""
        quorum = self._admin.describe_quorum()
        return World(quorum.leader_id, quorum.term, self._admin.describe_cluster().version)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """What happens inside changes neither leader nor term nor image, commits nothing but the
        rounds that renew sessions, and ends no process."""
        before, committed = self.world(), self._admin.describe_quorum().commit_index
        yield
        assert self.world() == before
        assert self._admin.describe_quorum().commit_index >= committed
        assert self.cluster.ended() == []

    @contextlib.contextmanager
    def told(self, node: NodePlan, text: str, *, counted: bool = True) -> Iterator[None]:
        """What happens inside makes the node log a line with this text, and count a refusal."""
        position, refusals = len(self.log(node)), self.refusals(node)
        yield
        until = time.monotonic() + _WAIT_S
        while text not in self.log(node)[position:]:
            assert time.monotonic() < until, self.log(node)[position:]
            time.sleep(0.05)
        if counted:
            assert self.refusals(node) > refusals

    def log(self, node: NodePlan) -> str:
        """Everything that the node logged."""
        return node.log_path.read_text(errors="replace")

    def refusals(self, node: NodePlan) -> float:
        """How many callers the node says to have refused, for any reason."""
        return sum(map(float, _REFUSED.findall(self.metrics(node))))

    def metrics(self, node: NodePlan) -> str:
        """What the node serves on its admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", node.admin_port, timeout=_WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """How a call ended."""
    call: Any = error
    return call.code(), call.details() or ""
