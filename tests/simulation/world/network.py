"""The network between hosts: delays, cuts, resets, and the connections that run over it.

Bytes of one connection arrive in order, as with TCP: a cut link holds them until it heals or one
side gives the connection up. Hosts that lost power say nothing; killed processes reset.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.world.loop import SimLoop
from tests.simulation.world.process import Process

if TYPE_CHECKING:
    from tests.simulation.world.server import SimServer

# A silent peer is given up after keepalive_time and keepalive_timeout of the channels.
KEEPALIVE_S = 40.0


class Link:
    """One direction between two hosts."""

    __slots__ = ("cut", "delay_s", "extra_s", "spike", "spike_s")

    def __init__(self, delay_s: tuple[float, float], spike: float, spike_s: float) -> None:
        self.delay_s = delay_s
        # How often a message takes up to ``spike_s``: a lost packet.
        self.spike = spike
        self.spike_s = spike_s
        # Added by a fault.
        self.extra_s = 0.0
        self.cut = False

    def draw_s(self, random: Random) -> float:
        """How long the next message takes."""
        delay = random.uniform(*self.delay_s) + self.extra_s * random.random()
        if self.spike and random.random() < self.spike:
            delay += random.uniform(0, self.spike_s)
        return delay


class Pipe:
    """One direction of a connection."""

    __slots__ = ("_held", "_last_at", "_network", "connection", "receiver", "sender")

    def __init__(
        self, network: "Network", connection: "Connection", sender: Process, receiver: Process
    ) -> None:
        self._network = network
        self.connection = connection
        self.sender = sender
        self.receiver = receiver
        self._last_at = 0.0
        self._held: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def send(self, deliver: Callable[..., object], *args: Any) -> None:
        """Have ``deliver(*args)`` called at the other end, after all that was sent before."""
        if self.connection.broken or not self.sender.alive:
            return
        link = self._network.link(self.sender.host, self.receiver.host)
        if link.cut:
            self._held.append((deliver, args))
            return
        self._put(link, deliver, args)

    def _put(self, link: Link, deliver: Callable[..., object], args: tuple[Any, ...]) -> None:
        network = self._network
        now = network.loop.now
        at = max(self._last_at, now + link.draw_s(network.random))
        self._last_at = at
        self.receiver.call_in(at - now, self._arrive, deliver, args)

    def _arrive(self, deliver: Callable[..., object], args: tuple[Any, ...]) -> None:
        if not self.connection.broken:
            self._network.messages += 1
            deliver(*args)

    def healed(self) -> None:
        """The link is there again."""
        held, self._held = self._held, []
        for deliver, args in held:
            self.send(deliver, *args)


class Connection:
    """Between a client's channel and a server. ``on_broken`` are told once, on both sides."""

    def __init__(
        self, network: "Network", number: int, client: Process, server: "SimServer"
    ) -> None:
        self.number = number
        self.client = client
        self.server = server
        self.broken = False
        self.up = Pipe(network, self, client, server.process)
        self.down = Pipe(network, self, server.process, client)
        # Calls in order of their beginning, on both sides: called with a reason.
        self.client_calls: dict[Any, None] = {}
        self.server_calls: dict[Any, None] = {}
        self.on_broken: list[Callable[[], None]] = []
        self._network = network

    def break_up(self, why: str) -> None:
        """Both sides learn that it is gone, now."""
        if self.broken:
            return
        self.broken = True
        self._network.connections.pop(self, None)
        for call in tuple(self.client_calls):
            self.client.call_soon(call.connection_lost, why)
        for call in tuple(self.server_calls):
            self.server.process.call_soon(call.connection_lost)
        for callback in self.on_broken:
            callback()

    def touches(self, process: Process) -> bool:
        """True if the process is at one of the ends."""
        return process in (self.client, self.server.process)


class Network:
    """All hosts, links, listening servers and connections."""

    def __init__(self, loop: SimLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        # What links start with; set before the first use.
        self.delay_s = (0.000_1, 0.001)
        self.spike, self.spike_s = 0.002, 0.05
        self.servers: dict[str, SimServer] = {}
        # Hosts without power: they answer nothing, not even with a refusal.
        self.dark: set[str] = set()
        self.connections: dict[Connection, None] = {}
        # Messages that arrived.
        self.messages = 0
        self._links: dict[tuple[str, str], Link] = {}
        self._numbers = 0
        self._next_port = 20_000

    def link(self, source: str, target: str) -> Link:
        """The link from a host to another."""
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link(self.delay_s, self.spike, self.spike_s)
        return link

    def reaches(self, source: str, target: str) -> bool:
        """True if what a host sends arrives at the other, and back."""
        return (
            source not in self.dark
            and target not in self.dark
            and not self.link(source, target).cut
            and not self.link(target, source).cut
        )

    def free_port(self) -> int:
        """A port that nobody used before."""
        self._next_port += 1
        return self._next_port

    def connect(self, client: Process, server: "SimServer") -> Connection:
        """Make a connection; it is there on both sides at once."""
        self._numbers += 1
        connection = Connection(self, self._numbers, client, server)
        self.connections[connection] = None
        return connection

    # Faults

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from a host to another until ``heal``."""
        link = self.link(source, target)
        if link.cut:
            return
        link.cut = True
        for connection in tuple(self.connections):
            if self._runs_over(connection, source, target):
                self.loop.call_in(KEEPALIVE_S, self._give_up, connection, link)

    def _give_up(self, connection: Connection, link: Link) -> None:
        if link.cut:
            connection.break_up("keepalive watchdog timeout")

    def heal(self, source: str, target: str) -> None:
        """Let everything through again."""
        link = self.link(source, target)
        link.extra_s = 0.0
        if not link.cut:
            return
        link.cut = False
        for connection in tuple(self.connections):
            for pipe in (connection.up, connection.down):
                if (pipe.sender.host, pipe.receiver.host) == (source, target):
                    pipe.healed()

    def heal_all(self) -> None:
        """Undo every cut and delay."""
        for source, target in tuple(self._links):
            self.heal(source, target)

    def reset(self, source: str, target: str) -> int:
        """Reset the connections between two hosts; returns how many."""
        hit = [one for one in self.connections if self._runs_over(one, source, target)]
        for connection in hit:
            connection.break_up("connection reset by peer")
        return len(hit)

    def process_died(self, process: Process) -> None:
        """Its sockets are closed by the system, and the other sides hear of it."""
        for connection in [one for one in self.connections if one.touches(process)]:
            pipe = connection.up if process is connection.client else connection.down
            link = self.link(pipe.sender.host, pipe.receiver.host)
            if link.cut or process.host in self.dark:
                self.loop.call_in(KEEPALIVE_S, connection.break_up, "keepalive watchdog timeout")
            else:
                delay = link.draw_s(self.random)
                self.loop.call_in(delay, connection.break_up, "connection reset by peer")

    def host_returned(self, host: str) -> None:
        """A machine that lost power answers again: with resets, to what it does not know."""
        self.dark.discard(host)
        for connection in tuple(self.connections):
            for process in (connection.client, connection.server.process):
                if process.host == host and not process.alive:
                    self.loop.call_in(0.05, connection.break_up, "connection reset by peer")

    def _runs_over(self, connection: Connection, source: str, target: str) -> bool:
        ends = {connection.client.host, connection.server.process.host}
        return ends == {source, target}
