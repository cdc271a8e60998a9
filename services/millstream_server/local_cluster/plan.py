"""What a local cluster consists of: pure data, no processes.

Node ids are given out in one row: metadata nodes first, then brokers, then coordinators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG_FILE = "node.toml"
LOG_FILE = "node.log"
DATA_FOLDER = "data"

# One per role and node: the gRPC port and the admin port.
PORTS_PER_NODE = 2
_REPLICATION_FACTOR_MAX = 3


@dataclass(frozen=True)
class NodePlan:
    """One process of the cluster."""

    # For people and for `kill`: role and number, such as "broker-1".
    name: str
    role: str
    node_id: int
    port: int
    admin_port: int
    folder: Path
    # Dotted keys of the node's configuration.
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """host:port of the gRPC port."""
        return f"127.0.0.1:{self.port}"

    @property
    def config_path(self) -> Path:
        """The node's configuration file."""
        return self.folder / CONFIG_FILE

    @property
    def log_path(self) -> Path:
        """Where the process writes its log."""
        return self.folder / LOG_FILE

    def toml(self) -> str:
        """The configuration as a TOML document."""
        return "".join(f"{_key(key)} = {_value(self.config[key])}\n" for key in self.config)


@dataclass(frozen=True)
class ClusterPlan:
    """All processes of the cluster, in the order in which they start."""

    cluster_id: str
    folder: Path
    nodes: tuple[NodePlan, ...]

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the brokers, as clients take them."""
        return ",".join(node.address for node in self.with_role("broker"))

    def with_role(self, role: str) -> tuple[NodePlan, ...]:
        """The nodes of a role, by number."""
        return tuple(node for node in self.nodes if node.role == role)


def port_count(metadata: int, brokers: int, coordinators: int) -> int:
    """How many ports ``plan_cluster`` needs."""
    return PORTS_PER_NODE * (metadata + brokers + coordinators)


def plan_cluster(
    folder: Path,
    ports: Sequence[int],
    *,
    cluster_id: str,
    metadata: int = 3,
    brokers: int = 3,
    coordinators: int = 2,
    config: Mapping[str, Any] | None = None,
    node_configs: Mapping[int, Mapping[str, Any]] | None = None,
) -> ClusterPlan:
    """Lay out a cluster. ``ports`` are used in order of the nodes, gRPC port then admin port;
    ``config`` is added to every node's configuration, ``node_configs`` to that of single ones.

    Raises ValueError if there is no node of a role, or if the number of ports is not
    ``port_count``.
    """
    counts = {"metadata": metadata, "broker": brokers, "coordinator": coordinators}
    for role, count in counts.items():
        if count < 1:
            raise ValueError(f"a cluster needs at least one {role}")
    if len(ports) != port_count(metadata, brokers, coordinators):
        raise ValueError("the number of ports does not fit the number of nodes")
    rows = [(role, number) for role, count in counts.items() for number in range(1, count + 1)]
    voters = [f"{index + 1}@127.0.0.1:{ports[PORTS_PER_NODE * index]}" for index in range(metadata)]
    own = node_configs or {}
    # Named, not left to the number of brokers that happen to be up when a topic is made.
    shared = {**_replication_factors(brokers), **(config or {})}
    nodes = tuple(
        _node(
            folder,
            cluster_id,
            voters,
            role,
            number,
            node_id,
            ports,
            {**shared, **own.get(node_id, {})},
        )
        for node_id, (role, number) in enumerate(rows, 1)
    )
    return ClusterPlan(cluster_id, folder, nodes)


def _replication_factors(brokers: int) -> dict[str, Any]:
    factor = min(_REPLICATION_FACTOR_MAX, brokers)
    return {"default.replication.factor": factor, "offsets.topic.replication.factor": factor}


def _node(
    folder: Path,
    cluster_id: str,
    voters: list[str],
    role: str,
    number: int,
    node_id: int,
    ports: Sequence[int],
    extra: Mapping[str, Any],
) -> NodePlan:
    name = f"{role}-{number}"
    port, admin_port = ports[PORTS_PER_NODE * (node_id - 1) : PORTS_PER_NODE * node_id]
    own = folder / name
    config: dict[str, Any] = {
        "log.format": "json",
        **extra,
        # What makes the node itself comes last: nothing shared may override it.
        "node.id": node_id,
        "process.roles": [role],
        "cluster.id": cluster_id,
        "data.dir": str(own / DATA_FOLDER),
        "listeners": f"127.0.0.1:{port}",
        "admin.listener": f"127.0.0.1:{admin_port}",
        "controller.quorum.voters": voters,
    }
    return NodePlan(name, role, node_id, port, admin_port, own, config)


def _key(key: str) -> str:
    # A quoted key keeps its dots; the node flattens tables to the same names.
    return f'"{key}"'


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
