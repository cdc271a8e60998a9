"""Finds out what cluster a folder holds, so that it comes back with its ids and ports."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream_server.local_cluster.connection import CONNECTION_FILE, read_connection


class ClusterShapeError(ValueError):
    """The folder holds another cluster than the one asked for; the message says which."""


@dataclass(frozen=True)
class StoredLayout:
    """What a plan needs to be the same again."""

    cluster_id: str
    # gRPC port and admin port of each node, in the order of the plan.
    ports: tuple[int, ...]


def stored_layout(folder: Path, counts: Mapping[str, int]) -> StoredLayout | None:
    """The layout in the folder's connection file; None if there is none. ``counts`` are the nodes
    wanted by role. Raises ClusterShapeError."""
    try:
        document = read_connection(folder)
        if document is None:
            return None
        nodes = document["nodes"]
        found = Counter(node["role"] for node in nodes)
        ports = tuple(
            int(node[key].rpartition(":")[2])
            for node in nodes
            for key in ("address", "adminAddress")
        )
        cluster_id = str(document["clusterId"])
    except (ValueError, KeyError, TypeError):
        raise ClusterShapeError(f"{folder / CONNECTION_FILE} is damaged") from None
    if found != Counter(counts):
        shape = ", ".join(f"{count} {role}" for role, count in found.items())
        raise ClusterShapeError(f"{folder} holds a cluster of {shape}")
    return StoredLayout(cluster_id, ports)
