"""What a metadata node measures. Gauges are read when they are scraped."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millstream_raft.consensus import ConsensusStatus
from millstream_raft.delta import ELECTION_KINDS
from millstream_raft.image import Image
from millstream_server.metadata.placement_metrics import PlacementCollector

_GROUP = "metadata"
_COMMIT_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class MetadataMetrics:
    """The collectors of one metadata node."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.commit_seconds = Histogram(
            "millstream_raft_commit_duration_seconds",
            "From the proposal of an entry to its effect here.",
            ["group"],
            buckets=_COMMIT_BUCKETS_S,
            registry=registry,
        ).labels(_GROUP)
        self.leader_changes = Counter(
            "millstream_raft_leader_changes_total",
            "Changes of leadership that this node took part in.",
            ["group"],
            registry=registry,
        ).labels(_GROUP)
        self.nodes_fenced = Counter(
            "millstream_nodes_fenced_total",
            "Sessions of brokers and coordinators that this controller ended.",
            registry=registry,
        )

        self.leader_elections = Counter(
            "millstream_leader_elections_total",
            "Leaders elected under this controller: clean ones by the rules, preferred ones to "
            "balance, unclean ones by an order, and recovered ones after all replicas had lost "
            "their place.",
            ["kind"],
            registry=registry,
        )
        for kind in ELECTION_KINDS:
            self.leader_elections.labels(kind)
        self.possible_losses = Counter(
            "millstream_possible_losses_total",
            "Leaders elected under this controller whose logs may lack acknowledged records.",
            registry=registry,
        )

    def read_from(
        self,
        status: Callable[[], ConsensusStatus],
        is_active: Callable[[], bool],
        snapshot_bytes: Callable[[], int],
        watchers: Callable[[], int],
        refusing_disks: Callable[[], int],
        image: Callable[[], Image],
    ) -> None:
        """Begin to answer scrapes from these."""
        self._registry.register(
            _QuorumCollector(status, is_active, snapshot_bytes, watchers, refusing_disks)
        )
        self._registry.register(PlacementCollector(is_active, image))


class _QuorumCollector(Collector):
    def __init__(
        self,
        status: Callable[[], ConsensusStatus],
        is_active: Callable[[], bool],
        snapshot_bytes: Callable[[], int],
        watchers: Callable[[], int],
        refusing_disks: Callable[[], int],
    ) -> None:
        self._status = status
        self._is_active = is_active
        self._snapshot_bytes = snapshot_bytes
        self._watchers = watchers
        self._refusing_disks = refusing_disks

    def describe(self) -> Iterable[Metric]:
        """Nothing to check for duplicates before the node runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The gauges of this moment."""
        status = self._status()
        for name, text, value in (
            ("term", "Raft term.", status.term),
            ("commit_index", "Highest index known to be committed.", status.commit_index),
            ("last_log_index", "Last index of this node's log.", status.last_index),
            ("applied_index", "Last index that took effect here.", status.applied_index),
            ("snapshot_size_bytes", "Size of the last snapshot.", self._snapshot_bytes()),
        ):
            gauge = GaugeMetricFamily(f"millstream_raft_{name}", text, labels=["group"])
            gauge.add_metric([_GROUP], value)
            yield gauge
        state = GaugeMetricFamily(
            "millstream_raft_state",
            "1 for the state that this node is in.",
            labels=["group", "state"],
        )
        state.add_metric([_GROUP, "leader"], int(status.is_leader))
        follows = not status.is_leader and status.leader_id is not None
        state.add_metric([_GROUP, "follower"], int(follows))
        state.add_metric([_GROUP, "leaderless"], int(not status.is_leader and not follows))
        yield state
        yield GaugeMetricFamily(
            "millstream_active_controller",
            "1 on the active controller, 0 elsewhere.",
            value=int(self._is_active()),
        )
        yield GaugeMetricFamily(
            "millstream_metadata_watchers",
            "Nodes that follow the image at this one.",
            value=self._watchers(),
        )
        yield GaugeMetricFamily(
            "millstream_refusing_disks",
            "Brokers that told this controller that their disks take no appends.",
            value=self._refusing_disks(),
        )
