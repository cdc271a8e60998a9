"""Metrics of the group coordinator (names as documented for dashboards).

Gauges are read from the shards when somebody scrapes; nothing is updated per commit.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millstream_server.coordinator.end_offsets import EndOffsets
from millstream_server.coordinator.group import Group, GroupState
from millstream_server.coordinator.shards import Shards

_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class CoordinatorMetrics:
    """Collectors of one coordinator; also the observer of its rebalances."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rebalances: dict[str, int] = defaultdict(int)
        self._durations = Histogram(
            "millstream_consumer_group_rebalance_duration_seconds",
            "Time from a change of a group until it was stable again.",
            ["group"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._registry = registry
        self._collector: _GroupCollector | None = None

    def attach(self, shards: Shards, end_offsets: EndOffsets) -> None:
        """Begin to report the groups of these shards."""
        self._collector = _GroupCollector(
            lambda: (
                group for shard in shards.serving() for group in shard.core.state.groups.values()
            ),
            shards,
            end_offsets,
            self,
        )
        self._registry.register(self._collector)

    def detach(self) -> None:
        """Report no groups any more."""
        if self._collector is not None:
            self._registry.unregister(self._collector)
            self._collector = None

    def rebalance_started(self, group_id: str) -> None:
        """See ``RebalanceObserver``."""
        self.rebalances[group_id] += 1

    def rebalance_finished(self, group_id: str, duration_ms: int) -> None:
        """See ``RebalanceObserver``."""
        self._durations.labels(group_id).observe(duration_ms / 1000)

    def forget_others(self, group_ids: Iterable[str]) -> None:
        """Drop the series of groups that are not here any more, so that labels stay bounded."""
        for group_id in self.rebalances.keys() - set(group_ids):
            del self.rebalances[group_id]
            try:
                self._durations.remove(group_id)
            except KeyError:
                pass


class _GroupCollector(Collector):
    def __init__(
        self,
        groups: Callable[[], Iterator[Group]],
        shards: Shards,
        end_offsets: EndOffsets,
        metrics: CoordinatorMetrics,
    ) -> None:
        self._groups = groups
        self._shards = shards
        self._end_offsets = end_offsets
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not collect to know the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All groups as they are now."""
        prefix = "millstream_consumer_group_"
        members = GaugeMetricFamily(prefix + "members", "Members of a group.", labels=["group"])
        states = GaugeMetricFamily(
            prefix + "state", "1 for the state of a group, else 0.", labels=["group", "state"]
        )
        rebalances = CounterMetricFamily(
            prefix + "rebalances", "Rebalances begun since this start.", labels=["group"]
        )
        groups = list(self._groups())
        for group in groups:
            members.add_metric([group.group_id], len(group.members))
            state = group.state
            for one in GroupState:
                states.add_metric([group.group_id, one.value], float(one is state))
            count = self._metrics.rebalances.get(group.group_id, 0)
            rebalances.add_metric([group.group_id], count)
        yield from (members, states, rebalances)
        yield from self._positions(groups, prefix)

    def _positions(self, groups: list[Group], prefix: str) -> Iterable[Metric]:
        labels = ["group", "topic", "partition"]
        offsets = GaugeMetricFamily(
            prefix + "committed_offset", "Offset of the next record to process.", labels=labels
        )
        records = GaugeMetricFamily(
            prefix + "lag_records", "Records not committed yet.", labels=labels
        )
        seconds = GaugeMetricFamily(
            prefix + "lag_seconds",
            "Time since the log was first seen to end beyond the committed offset.",
            labels=labels,
        )
        topics = self._shards.topics.by_id
        for group in groups:
            for partition, position in group.positions.items():
                topic = topics.get(partition[0])
                if topic is None:
                    continue
                values = [group.group_id, topic.name, str(partition[1])]
                offsets.add_metric(values, position.offset)
                end_offset = self._end_offsets.end_offset(partition)
                if end_offset is not None:
                    done = sum(end - begin for begin, end in position.ranges)
                    records.add_metric(values, max(0, end_offset - position.offset - done))
                    lag_ms = self._end_offsets.lag_ms(partition, position.offset)
                    seconds.add_metric(values, lag_ms / 1000)
        return offsets, records, seconds
