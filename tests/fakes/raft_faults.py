"""A simulated quorum that things can be done to: connections break, nodes die and come back."""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from tests.fakes.raft_cluster import Cluster
from tests.fakes.raft_witness import QuorumWitness


class FaultyQuorum:
    """``make`` makes a node, from the files of the one before; ``power_loss``: it must endure that,
    not only ``kill -9``."""

    def __init__(self, seed: int, count: int, make: Callable[..., Any], power_loss: bool) -> None:
        self.chance = Random(seed)
        self.make = make
        self.power_loss = power_loss
        # Many small messages make more interleavings than few large ones.
        batch_bytes = self.chance.choice((60, 200, 2_000))
        self.cluster = Cluster(
            make, count, seed=seed, append_bytes_max=batch_bytes, snapshot_part_bytes=64
        )
        self.witness = QuorumWitness({n: self.cluster[n].view() for n in self.cluster.ids})
        self.cluster.witness = self.witness
        #: The files of the nodes that are down.
        self.disks: dict[int, Any] = {}
        #: By node: to whom it is connected.
        self.joined = {node: set(self.cluster.ids) - {node} for node in self.cluster.ids}

    @property
    def up(self) -> list[int]:
        return [node for node in self.cluster.ids if node not in self.disks]

    def leads(self, node: int) -> bool:
        return node in self.up and self.cluster[node].leads

    def reaches_majority(self, node: int) -> bool:
        return (len(self.joined[node]) + 1) * 2 > len(self.cluster.ids)

    def cut(self, ones: Iterable[int], others: Iterable[int]) -> None:
        for one in ones:
            for other in others:
                self.disconnect(one, other)

    def disconnect(self, one: int, other: int) -> None:
        network = self.cluster.network
        network.cut |= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            network.lose(here, there)
            if here not in self.disks and there in self.joined[here]:
                self.joined[here].discard(there)
                self.cluster[here].disconnected(there)

    def connect(self, one: int, other: int) -> None:
        if one == other or one in self.disks or other in self.disks:
            return
        network = self.cluster.network
        network.cut -= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            if there not in self.joined[here]:
                network.lose(here, there)
                self.joined[here].add(there)
                self.cluster[here].connected(there)

    def connect_all(self, one: int) -> None:
        for other in self.cluster.ids:
            self.connect(one, other)

    def crash(self, node: int) -> None:
        """End a node: by power loss or by ``kill -9``, which leaves the page cache."""
        power_loss = self.power_loss and self.chance.random() < 0.5
        self.disks[node], entries = self.cluster[node].crash(self.chance if power_loss else None)
        self.witness.crashed(node, entries)
        self.cut([node], [other for other in self.cluster.ids if other != node])
        self.cluster.network.remove(node)

    def start(self, node: int) -> None:
        files = self.disks.pop(node)
        self.cluster.nodes[node] = self.make(self.cluster, node, files)
        self.witness.restarted(node, self.cluster[node].view())
        self.joined[node] = set(self.cluster.ids) - {node}
        self.cut([node], [other for other in self.cluster.ids if other != node])
        self.connect_all(node)

    def bury(self) -> None:
        for node in self.up:
            if self.cluster[node].files.crashed:
                self.crash(node)
