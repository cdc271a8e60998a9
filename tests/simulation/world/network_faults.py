"""Faults of the simulated network. See ``faults.py``, which calls them by their kind."""

from collections.abc import Sequence

from tests.simulation.world.nodes import Machine
from tests.simulation.world.plan import Fault
from tests.simulation.world.world import World


class NetworkFaults:
    """Each tells what it did in words, and undoes it when its time is over."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _hosts(self, fault: Fault) -> tuple[str, str]:
        """Every third time two brokers, which have the most to tell each other."""
        hosts = [machine.host for machine in self._world.brokers]
        if fault.first % 3:
            hosts += [machine.host for machine in self._world.metadata]
            hosts += [process.host for process in self._world.clients]
        first = hosts.pop(fault.first // 3 % len(hosts))
        return first, hosts[fault.second % len(hosts)]

    def cut(self, fault: Fault) -> str:
        """Nothing goes between two hosts."""
        first, second = self._hosts(fault)
        self._cut_links([(first, second), (second, first)], fault)
        return f"{first} and {second} are cut off from each other for {fault.lasts_s:.2f} s"

    def cut_one_way(self, fault: Fault) -> str:
        """Nothing goes from one host to another."""
        first, second = self._hosts(fault)
        self._cut_links([(first, second)], fault)
        return f"nothing goes from {first} to {second} for {fault.lasts_s:.2f} s"

    def isolate(self, fault: Fault) -> str:
        """A node is alone, or does without the metadata nodes; clients still reach it."""
        machines = self._world.machines
        machine = machines[fault.first % len(machines)]
        others = machines if fault.amount < 0.5 else self._world.metadata
        self.cut_off(machine, others, fault)
        who = "all nodes" if fault.amount < 0.5 else "the metadata nodes"
        return f"{machine.host} is cut off from {who} for {fault.lasts_s:.2f} s"

    def cut_off(self, machine: Machine, others: Sequence[Machine], fault: Fault) -> None:
        """Nothing goes between a node and others, for the time of the fault."""
        hosts = [other.host for other in others if other is not machine]
        links = [link for host in hosts for link in ((machine.host, host), (host, machine.host))]
        self._cut_links(links, fault)

    def _cut_links(self, links: list[tuple[str, str]], fault: Fault) -> None:
        network = self._world.network
        for source, target in links:
            network.cut(source, target)

        def heal() -> None:
            for source, target in links:
                network.heal(source, target)

        self._world.loop.call_in(fault.lasts_s, heal)

    def reset(self, fault: Fault) -> str | None:
        """A connection breaks."""
        connections = list(self._world.network.connections)
        if not connections:
            return None
        connection = connections[fault.first * 7 % len(connections)]
        ends = connection.client.host, connection.server.process.host
        connection.break_up("connection reset by peer")
        return f"a connection from {ends[0]} to {ends[1]} is reset"

    def break_off(self, machine: Machine, others: Sequence[Machine]) -> None:
        """The connections between a node and others break."""
        hosts = {other.host for other in others}
        for one in list(self._world.network.connections):
            ends = {one.client.host, one.server.process.host}
            if machine.host in ends and ends & hosts:
                one.break_up("connection reset by peer")

    def delay(self, fault: Fault) -> str:
        """Messages from one host to another take longer."""
        first, second = self._hosts(fault)
        link = self._world.network.link(first, second)
        link.extra_s = fault.amount * 0.8

        def end() -> None:
            link.extra_s = 0.0

        self._world.loop.call_in(fault.lasts_s, end)
        return f"{first} to {second} takes up to {link.extra_s:.2f} s for {fault.lasts_s:.2f} s"
