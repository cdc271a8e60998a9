"""Faults of links: partitions, slowness, resets, flipped bits (F4 to F7)."""

from tests.cluster.faults.fault import Fault, NotPossibleNow
from tests.cluster.faults.links import Link, LinkRule

_CUT = LinkRule(cut=True)
# What a record of ours begins with: a checksum of ours covers what follows.
_IN_RECORDS = b"writer-"


class _Rules(Fault):
    """A fault that is rules of links."""

    def heal(self) -> bool:
        """Drop them."""
        self.world.drop_rules(self)
        return True

    def leader(self) -> str:
        """Who leads some partition. Raises NotPossibleNow."""
        leader = self.world.leader(self.world.any_key(self.random))
        if leader is None:
            raise NotPossibleNow("nobody leads it")
        return leader

    def both(self, some: list[str], others: list[str], rule: LinkRule) -> dict[Link, LinkRule]:
        """The rule on all links between the two, both ways."""
        links = [(one, other) for one in some for other in others if one != other]
        return {link: rule for one, other in links for link in ((one, other), (other, one))}


class Partition(_Rules):
    """F4: links cut, in seven shapes."""

    def begin(self) -> tuple[str, float]:
        """For 1 to 25 s."""
        shapes = (
            self._isolated,
            self._isolated_from_nodes,
            self._majority,
            self._ring,
            self._leader_controller,
            self._leader_followers,
            self._client_leader,
            self._one_way,
        )
        text, rules = self.random.choice(shapes)()
        self.world.set_rules(self, rules)
        return f"cut: {text}", self.random.uniform(1, 25)

    def _nodes(self) -> list[str]:
        return self.world.nodes()

    def _everybody(self) -> list[str]:
        return [*self._nodes(), *self.world.clients()]

    def _isolated(self) -> tuple[str, dict[Link, LinkRule]]:
        one = self.random.choice(self._nodes())
        return f"{one} from everybody", self.both([one], self._everybody(), _CUT)

    def _isolated_from_nodes(self) -> tuple[str, dict[Link, LinkRule]]:
        one = self.leader()
        self.world.note_loss("isolated", one)
        return f"{one}, a leader, from all nodes", self.both([one], self._nodes(), _CUT)

    def _majority(self) -> tuple[str, dict[Link, LinkRule]]:
        few = [self.random.choice(self.world.nodes(role)) for role in ("metadata", "broker")]
        clients = self.world.clients()
        few += self.random.sample(clients, len(clients) // 3)
        rest = [name for name in self._everybody() if name not in few]
        return f"{', '.join(few)} from the others", self.both(few, rest, _CUT)

    def _ring(self) -> tuple[str, dict[Link, LinkRule]]:
        # Everybody sees somebody, nobody sees everybody.
        nodes = self._nodes()
        self.random.shuffle(nodes)
        far = len(nodes) // 2
        pairs = [(one, nodes[(n + far) % len(nodes)]) for n, one in enumerate(nodes)]
        rules: dict[Link, LinkRule] = {}
        for one, other in pairs:
            rules |= self.both([one], [other], _CUT)
        return "a ring of all nodes", rules

    def _leader_controller(self) -> tuple[str, dict[Link, LinkRule]]:
        leader, controller = self.leader(), self.world.controller()
        if controller is None:
            raise NotPossibleNow("no controller")
        return f"{leader} from {controller}", self.both([leader], [controller], _CUT)

    def _leader_followers(self) -> tuple[str, dict[Link, LinkRule]]:
        leader = self.leader()
        return f"{leader} from brokers", self.both([leader], self.world.nodes("broker"), _CUT)

    def _client_leader(self) -> tuple[str, dict[Link, LinkRule]]:
        leader = self.leader()
        return f"{leader} from clients", self.both([leader], self.world.clients(), _CUT)

    def _one_way(self) -> tuple[str, dict[Link, LinkRule]]:
        one = self.random.choice(self._nodes())
        towards = self.random.random() < 0.5
        links = [(one, other) for other in self._everybody() if other != one]
        rules = {(b, a) if towards else (a, b): _CUT for a, b in links}
        return f"everything {'to' if towards else 'from'} {one}", rules


class IsolateLeader(_Rules):
    """F4, and nothing else meanwhile: a leader is cut from all nodes, but not from clients. How
    long can nobody write to what it led?"""

    def begin(self) -> tuple[str, float]:
        """For longer than a request may take."""
        if not self.world.well:
            raise NotPossibleNow("something else is going on")
        leader = self.leader()
        self.world.note_loss("isolated", leader)
        self.world.set_rules(self, self.both([leader], self.world.nodes(), _CUT))
        return f"cut: {leader}, a leader, from all nodes", 40.0


class Slowness(_Rules):
    """F5: delay, jitter, little bandwidth, stalls."""

    def begin(self) -> tuple[str, float]:
        """For 3 to 20 s, on the links of one node or of all."""
        rule, text = self.random.choice(
            [
                (LinkRule(delay_ms=75, jitter_ms=75), "100 ± 50 ms"),
                (LinkRule(jitter_ms=400), "up to 400 ms of jitter"),
                (LinkRule(bytes_per_second=20_000), "20 kB/s"),
                (LinkRule(bytes_per_second=500), "500 B/s"),
            ]
        )
        nodes = self.world.nodes()
        everybody = [*nodes, *self.world.clients()]
        slow = nodes if rule.delay_ms and self.random.random() < 0.3 else [self.choose()]
        self.world.set_rules(self, self.both(slow, everybody, rule))
        where = "all nodes" if slow is nodes else slow[0]
        return f"{text} for {where}", self.random.uniform(3, 20)


class Stall(_Rules):
    """F5: everything of a node stands still for short times."""

    def begin(self) -> tuple[str, float]:
        """0.2 to 4 s."""
        name = self.choose()
        everybody = [*self.world.nodes(), *self.world.clients()]
        self.world.set_rules(self, self.both([name], everybody, _CUT))
        return f"a stall of {name}", self.random.uniform(0.2, 4)


class Resets(Fault):
    """F6: connections broken in the middle of a frame."""

    def begin(self) -> tuple[str, float]:
        """All connections from and to one node, once."""
        name = self.choose()
        others = [*self.world.nodes(), *self.world.clients()]
        broken = 0
        for other in others:
            broken += self.world.links.reset(name, other) + self.world.links.reset(other, name)
        if not broken:
            raise NotPossibleNow("no connection to break")
        return f"{broken} connections of {name} reset", 0.0

    def heal(self) -> bool:
        """They were opened again by their owners."""
        return True


class FlippedBits(_Rules):
    """F7: single bits of records turned on their way."""

    def begin(self) -> tuple[str, float]:
        """For 3 to 15 s on all links of a broker, or from all clients to it."""
        broker = self.choose("broker")
        others = self.world.clients()
        if self.random.random() < 0.6:
            others += self.world.nodes("broker")
        rule = LinkRule(corruption=0.05, corrupted_after=_IN_RECORDS)
        self._before = self.world.links.chunks_corrupted
        self.world.set_rules(self, self.both([broker], others, rule))
        return f"bits of records flipped at {broker}", self.random.uniform(3, 15)

    def heal(self) -> bool:
        """Stop it, and count what was spoilt."""
        spoilt = self.world.links.chunks_corrupted - self._before
        self.world.counts["chunks-corrupted"] += spoilt
        return super().heal()
