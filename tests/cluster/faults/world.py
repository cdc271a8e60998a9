"""The cluster under faults: its processes, links, disks and clients, and what is done to them now.

One thread uses it. A node is held by at most one fault of processes or disks at a time.
"""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from millstream import Admin, MillstreamError, NewTopic, TopicAlreadyExistsError
from millstream_server.local_cluster import NodePlan
from millstream_server.local_cluster.readiness import is_ready
from tests.cluster.faults import scrapes
from tests.cluster.faults.disks import Disk
from tests.cluster.faults.fleet import Fleet
from tests.cluster.faults.links import CLIENT, LOOPBACK, Link, LinkRule
from tests.cluster.faults.notes import Key
from tests.cluster.faults.proxied import ProxiedCluster

#: Topics in the modes whose promises differ; of page-cache mode there are several in turn.
FSYNC, PAGE_CACHE, LEADER_ONLY = "facts", "notes", "hints"
_PARTITIONS = {FSYNC: 4, PAGE_CACHE: 2, LEADER_ONLY: 2}
_PAGE_CACHE_WRITER, _READER = "writer-3", "reader-1"
GROUP = "readers"
REPLICAS = 3
_DISK_MEGABYTES = 1024
_CLEAR = LinkRule()
_RETRY_S = 0.5
_SETTLE_S = 300.0
_END_S = 60.0

CONFIG = {"log.segment.bytes": str(4 << 20), "leader.imbalance.check.interval.seconds": "20"}


@dataclass(slots=True)
class LeaderLoss:
    """When the leaders of partitions were killed or cut off, and whether nothing else was wrong."""

    kind: str
    at_ns: int
    keys: tuple[Key, ...]
    alone: bool
    # Of losses that nobody can make up for: when the nodes were started again.
    restarted_ns: int | None = None


@dataclass
class World:
    """Everything that faults act upon."""

    folder: Path
    random: Random
    rate: int
    disks_allowed: bool
    disks: dict[str, Disk] = field(default_factory=dict)
    # Node → what holds it.
    held: dict[str, str] = field(default_factory=dict)
    leader_losses: list[LeaderLoss] = field(default_factory=list)
    # (begin, end) of every fault, monotonic seconds; for promises that hold without faults only.
    disturbed: list[tuple[float, float]] = field(default_factory=list)
    ended_alone: Counter[str] = field(default_factory=Counter)
    # Clients that no fault ended: the SDK let an error through that is none of its own.
    crashed_clients: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    # Topic in use → partitions.
    topics: dict[str, int] = field(default_factory=dict)
    page_cache: str = f"{PAGE_CACHE}-1"
    # Page-cache topic → when so many memories lost their power that it may lose records,
    # monotonic seconds: until then it is held to its promise, and from then on another one is used.
    retired: dict[str, float] = field(default_factory=dict)
    # Held by whoever makes a topic again, until it has read that one.
    recreating: threading.Lock = field(default_factory=threading.Lock)
    # Topics made again under their name of which everything was read.
    recreations_read: set[str] = field(default_factory=set)
    # Topic → its id.
    ids: dict[str, bytes] = field(default_factory=dict)
    # No fault goes on for its own sake any more.
    ending: bool = False
    _rules: dict[object, Mapping[Link, LinkRule]] = field(default_factory=dict)
    _linked: set[Link] = field(default_factory=set)
    _down_since: dict[str, float] = field(default_factory=dict)
    _ending: set[str] = field(default_factory=set)
    _replacing: "Future[None] | None" = None
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.proxied = ProxiedCluster(
            self.folder / "cluster",
            self.random,
            metadata=3,
            brokers=3,
            coordinators=2,
            config=CONFIG,
            data_folder=self._data_folder,
            clients=lambda: dict(self.fleet.pids()),
        )
        self.cluster = self.proxied.cluster
        self.links = self.proxied.links
        self.fleet = Fleet(self.folder, self.cluster.bootstrap_servers)
        # Asks the cluster what may take long, beside the thread that injects.
        self.operator = ThreadPoolExecutor(2, thread_name_prefix="operator")

    def _data_folder(self, node: NodePlan) -> Path | None:
        if not self.disks_allowed or node.role == "coordinator":
            return None
        folder = node.folder / "disk"
        self.disks[node.name] = Disk(self.folder / f"{node.name}.disk", folder, _DISK_MEGABYTES)
        return folder / "data"

    # Beginning and end

    def start(self) -> None:
        """Start the nodes, make the topics, start the clients."""
        self.proxied.__enter__()
        for topic in (FSYNC, self.page_cache, LEADER_ONLY):
            self._create(topic)
        start = self.fleet.start
        rate = str(self.rate)
        for number, (topic, acks, patience) in enumerate(
            [
                (FSYNC, "all", 120_000),
                (FSYNC, "all", 10_000),
                (self.page_cache, "all", 30_000),
                (LEADER_ONLY, "1", 30_000),
            ],
            1,
        ):
            options = {"topics": f"{topic}/{self.topics[topic]}", "acks": acks}
            start(f"writer-{number}", "writer", **options, patience=str(patience), rate=rate)
        start(_READER, "reader", topics=self.topic_list)
        for number in (1, 2):
            start(f"member-{number}", "member", topics=f"{FSYNC}/{self.topics[FSYNC]}", group=GROUP)
        self.fleet.wait_noted("writer")

    @property
    def topic_list(self) -> str:
        """The topics in use, as clients take them."""
        return ",".join(f"{topic}/{count}" for topic, count in self.topics.items())

    def _create(self, topic: str) -> None:
        configs = {"flush.mode": "page_cache"} if topic.startswith(PAGE_CACHE) else {}
        count = _PARTITIONS[topic.split("-")[0]]
        with Admin(bootstrap_servers=self.cluster.bootstrap_servers) as admin:
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics([NewTopic(topic, count, REPLICAS, configs)])
            [created] = admin.describe_topics([topic])
        self.ids[topic] = created.topic_id
        self.topics[topic] = count

    def retire_page_cache(self) -> None:
        """From now on the page-cache topic may lose records; another one is made and used."""
        if self.page_cache not in self.retired:
            self.retired[self.page_cache] = time.monotonic()
            self._replacing = self.operator.submit(self._replace_page_cache)

    def _replace_page_cache(self) -> None:
        topic = f"{PAGE_CACHE}-{len(self.retired) + 1}"
        while topic not in self.topics and not self._stopping.wait(1):
            with contextlib.suppress(MillstreamError):
                self._create(topic)

    def replaced_page_cache(self) -> bool:
        """True if the page-cache topic in use still holds to its promise; lets clients use a new
        one once it is there."""
        if self._replacing is None:
            return True
        if not self._replacing.done():
            return False
        self._replacing.result()
        self._replacing = None
        del self.topics[self.page_cache]
        self.page_cache = f"{PAGE_CACHE}-{len(self.retired) + 1}"
        topics = f"{self.page_cache}/{self.topics[self.page_cache]}"
        self.fleet.replace(_PAGE_CACHE_WRITER, topics=topics)
        self.fleet.replace(_READER, topics=self.topic_list)
        return True

    def stop(self) -> None:
        """End everything."""
        self._stopping.set()
        self.operator.shutdown(cancel_futures=True)
        self.fleet.kill_all()
        self.proxied.__exit__()
        for disk in self.disks.values():
            disk.unmount()

    # Nodes

    def nodes(self, *roles: str) -> list[str]:
        """The nodes of some roles, of all if none is named."""
        plan = self.cluster.plan
        return [node.name for node in plan.nodes if not roles or node.role in roles]

    def free(self, *roles: str) -> list[str]:
        """Those that run and that nothing is done to."""
        return [
            name
            for name in self.nodes(*roles)
            if name not in self.held and self.cluster.is_running(name)
        ]

    def hold(self, name: str, why: str) -> None:
        """Nobody else may touch the process or the disk of this node."""
        self.held[name] = why

    def release(self, name: str) -> None:
        """Let it be tended again."""
        self.held.pop(name, None)

    def pid(self, name: str) -> int:
        """Process id of a node or a client that was started."""
        pid = self.cluster.pid(name)
        assert pid is not None
        return pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a node, if it runs."""
        if self.cluster.is_running(name):
            os.kill(self.pid(name), number)

    def kill(self, name: str) -> None:
        """kill -9. Notes what it led."""
        self.note_loss("killed", name)
        self.cluster.kill(name)

    def kill_together(self, kind: str, names: Collection[str]) -> LeaderLoss:
        """kill -9 of all of them at once: nobody is left to take over what they led."""
        loss = self.note_loss(kind, *names)
        for name in names:
            self.cluster.kill(name)
        return loss

    def note_loss(self, kind: str, *names: str) -> LeaderLoss:
        """Nodes are about to be lost: note what they lead."""
        led = tuple(key for key, lead in self.leads().items() if lead.leader in names)
        alone = not self._rules and not self.held.keys() - set(names)
        loss = LeaderLoss(kind, time.monotonic_ns(), led, alone)
        if led:
            self.leader_losses.append(loss)
        return loss

    @property
    def well(self) -> bool:
        """True if nothing is done to anybody, and everything is as it should be."""
        return not (self.held or self._rules or self._unsettled())

    def end(self, names: list[str]) -> None:
        """Let nodes end in order, and wait until they did. Raises TimeoutError."""
        for name in names:
            self.signal(name, signal.SIGTERM)
        deadline_s = time.monotonic() + _END_S
        while any(self.cluster.is_running(name) for name in names):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{', '.join(names)} did not end in {_END_S:g} s")
            time.sleep(0.05)

    def data_folders(self) -> dict[str, Path]:
        """Where brokers keep their data."""
        return {
            node.name: Path(node.config["data.dir"])
            for node in self.cluster.plan.with_role("broker")
        }

    def restart(self, name: str) -> None:
        """Start a node unless it runs."""
        if not self.cluster.is_running(name):
            self.cluster.restart(name)

    def is_ready(self, name: str) -> bool:
        """True if it runs and says that it is ready."""
        admin_port = self.cluster.node(name).admin_port
        return self.cluster.is_running(name) and is_ready(LOOPBACK, admin_port)

    def mend(self, name: str) -> bool:
        """Let a node go whose disk works again; what took its folder offline for good is started
        again, as an operator would. False until that is done."""
        if self.cluster.is_running(name):
            if name in self._ending:
                return False
            if scrapes.is_offline(self.cluster.node(name)):
                self.counts["offline-folders"] += 1
                self._ending.add(name)
                self.signal(name, signal.SIGTERM)
                return False
        elif name in self._ending:
            self._ending.discard(name)
            self.restart(name)
        self.release(name)
        return True

    def leads(self) -> dict[Key, scrapes.Lead]:
        """Who leads what."""
        found = scrapes.leads(self.cluster.plan.with_role("broker"))
        return {key: lead for key, lead in found.items() if key[0] in self.topics}

    def is_covered(self) -> bool:
        """True if every partition has two copies in sync at least."""
        leads = self.leads()
        keys = [(topic, number) for topic, count in self.topics.items() for number in range(count)]
        return all(key in leads and leads[key].in_sync >= 2 for key in keys)

    def leader(self, key: Key) -> str | None:
        """Who leads a partition."""
        lead = self.leads().get(key)
        return None if lead is None else lead.leader

    def controller(self) -> str | None:
        """The active controller."""
        return scrapes.controller(self.cluster.plan.with_role("metadata"))

    def any_key(self, random: Random) -> Key:
        """One of the partitions."""
        return random.choice(
            [(topic, n) for topic, count in self.topics.items() for n in range(count)]
        )

    def tend(self) -> None:
        """Start again whatever ended by itself, as a supervisor would; it is counted."""
        self.replaced_page_cache()
        for name in self.fleet.names("writer", "reader", "member"):
            if name not in self.held and not self.fleet.is_running(name):
                self.crashed_clients.append(self.fleet.obituary(name))
                self.fleet.restart(name)
        now_s = time.monotonic()
        for name in self.cluster.ended():
            if name in self.held:
                continue
            since_s = self._down_since.setdefault(name, now_s)
            if since_s == now_s:
                self.ended_alone[name.rpartition("-")[0]] += 1
            if now_s - since_s > _RETRY_S:
                del self._down_since[name]
                self.cluster.restart(name)

    # Links

    def clients(self) -> list[str]:
        """The clients that run, and whoever else speaks to nodes."""
        return [*(name for _, name in self.fleet.pids()), CLIENT]

    def set_rules(self, owner: object, rules: Mapping[Link, LinkRule]) -> None:
        """Add the rules of a fault; where faults meet on a link, the last one wins."""
        self._rules[owner] = rules
        self._apply_rules()

    def drop_rules(self, owner: object) -> None:
        """Take back the rules of a fault."""
        self._rules.pop(owner, None)
        self._apply_rules()

    def _apply_rules(self) -> None:
        merged = dict.fromkeys(self._linked, _CLEAR)
        for rules in self._rules.values():
            merged.update(rules)
        self._linked = {link for rules in self._rules.values() for link in rules}
        if merged:
            self.links.set_rules(merged)

    # The end of all faults

    def settle(self, say: Callable[[str], None]) -> float:
        """Wait until every node is ready, and every partition led with all its replicas in sync;
        the seconds that it took. Raises TimeoutError."""
        begin_s = time.monotonic()
        told_s = begin_s
        while missing := self._unsettled():
            if time.monotonic() - begin_s > _SETTLE_S:
                raise TimeoutError(f"not settled after {_SETTLE_S:g} s: {', '.join(missing)}")
            if time.monotonic() - told_s > 10:
                told_s = time.monotonic()
                say(f"waiting for {', '.join(missing)}")
            self.tend()
            time.sleep(0.25)
        return time.monotonic() - begin_s

    def _unsettled(self) -> list[str]:
        plan = self.cluster.plan
        missing = [node.name for node in plan.nodes if not self.is_ready(node.name)]
        leads = self.leads()
        for topic, count in self.topics.items():
            for number in range(count):
                lead = leads.get((topic, number))
                if lead is None or lead.in_sync < REPLICAS:
                    missing.append(f"{topic}/{number} ({0 if lead is None else lead.in_sync})")
        return missing
