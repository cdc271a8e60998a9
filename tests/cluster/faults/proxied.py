"""A local cluster in which everything that nodes and clients say goes through proxies."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

from millstream_server.local_cluster.plan import NodePlan, plan_cluster, port_count
from millstream_server.local_cluster.ports import ReservedPorts
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.cluster.faults.links import LOOPBACK, LinkProxies


class ProxiedCluster:
    """A context manager; ``cluster`` is the processes, ``links`` what lies between them."""

    def __init__(
        self,
        folder: Path,
        random: Random,
        *,
        metadata: int = 3,
        brokers: int = 3,
        coordinators: int = 1,
        config: Mapping[str, Any] | None = None,
        data_folder: Callable[[NodePlan], Path | None] = lambda node: None,
        clients: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        """``data_folder`` says where a node keeps its data, None: where it always does;
        ``clients`` gives the names of client processes whose links have rules of their own."""
        reserved = ReservedPorts()
        plan = plan_cluster(
            folder,
            reserved.take_all([0] * port_count(metadata, brokers, coordinators)),
            cluster_id=str(uuid4()),
            metadata=metadata,
            brokers=brokers,
            coordinators=coordinators,
            config=config,
        )
        # All of 127.0.0.0/8 is this machine: each node listens on an address of its own behind
        # the one that it is known by.
        nodes = tuple(
            replace(
                node,
                config={
                    **node.config,
                    "listeners": f"{_behind(node.node_id)}:{node.port}",
                    "advertised.listeners": node.address,
                    "data.dir": str(data_folder(node) or node.config["data.dir"]),
                },
            )
            for node in plan.nodes
        )
        self.cluster = LocalCluster(replace(plan, nodes=nodes), ports=reserved)
        self._clients = clients
        self.links = LinkProxies(random, self._names_by_pid)

    @property
    def names(self) -> list[str]:
        """All nodes."""
        return [node.name for node in self.cluster.plan.nodes]

    def __enter__(self) -> "ProxiedCluster":
        for node in self.cluster.plan.nodes:
            self.links.add(node.name, node.port, _behind(node.node_id), node.port)
        self.cluster.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.links.clear()
        self.cluster.stop()
        self.links.close()

    def _names_by_pid(self) -> dict[int, str]:
        pids = dict(self._clients())
        for name in self.names:
            pid = self.cluster.pid(name)
            if pid is not None and self.cluster.is_running(name):
                pids[pid] = name
        return pids


def _behind(node_id: int) -> str:
    return LOOPBACK.removesuffix("1") + str(100 + node_id)
