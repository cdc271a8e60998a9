"""The broker's metrics: plain numbers become series when somebody scrapes (conventions §5)."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from millstream_server.broker.counters import BUCKETS_S, BrokerCounters, Histogram
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.replica import Replica
from millstream_server.runtime.identity import NodeIdentity

_PARTITION = ("topic", "partition")
# Name, help, and how to read it from a replica.
_PARTITION_GAUGES: tuple[tuple[str, str, Callable[[Replica], float]], ...] = (
    ("log_start_offset", "First offset of the log.", lambda r: r.log.start_offset),
    ("log_end_offset", "Offset after the last record.", lambda r: r.state.written_end_offset),
    ("high_watermark", "Offset below which is readable.", lambda r: r.state.high_watermark),
    ("leader_epoch", "Leader epoch.", lambda r: r.state.leader_epoch),
    ("size_bytes", "Bytes of the log's segments.", lambda r: r.log.size_bytes),
    ("replicas", "Replicas of the partition.", lambda r: len(r.state.replicas)),
    ("in_sync_replicas", "In-sync replicas.", lambda r: len(r.state.in_sync.committed)),
    (
        "under_replicated",
        "1 at the leader if a replica is not in sync.",
        lambda r: r.state.leading and len(r.state.in_sync.committed) < len(r.state.replicas),
    ),
    (
        "under_min_isr",
        "1 at the leader if acks=all is refused.",
        lambda r: r.state.leading and not r.state.in_sync.enough,
    ),
    (
        "at_min_isr",
        "1 at the leader if no replica may leave without refusing acks=all.",
        lambda r: r.state.leading and len(r.state.in_sync.committed) == r.state.in_sync.min_size,
    ),
    ("offline", "1 if it is not served here as it should.", lambda r: not r.online),
)


class BrokerMetrics(Collector):
    """Reads the counters and the replicas at scrape time."""

    def __init__(
        self, registry: CollectorRegistry, counters: BrokerCounters, identity: NodeIdentity
    ) -> None:
        self._counters = counters
        self._identity = identity
        self._hosted: HostedPartitions | None = None
        self._path = ""
        self.flushes = Histogram()
        # (total, free) bytes, refreshed by the upkeep: a scrape must not wait for a disk.
        self.disk_usage: tuple[int, int] | None = None
        self._level = "partition"
        registry.register(self)

    def attach(self, hosted: HostedPartitions, path: str) -> None:
        """Also report what is hosted; ``path`` labels the log directory."""
        self._hosted = hosted
        self._path = path
        self._level = hosted.config.metrics_level

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the names are this broker's alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All series."""
        identity = self._identity
        info = GaugeMetricFamily(
            "millstream_broker_info", "The broker.", labels=("broker_id", "rack", "role")
        )
        info.add_metric((str(identity.node_id), identity.rack, ",".join(sorted(identity.roles))), 1)
        yield info
        yield from self._requests()
        yield from self._streams()
        if self._level != "cluster":
            yield from self._topics()
        if self._hosted is not None:
            yield from self._storage(self._hosted)
            yield from self._partitions(self._hosted)

    def _requests(self) -> Iterator[Metric]:
        counters = self._counters
        yield _histograms(
            "millstream_request_duration_seconds", "Requests.", "api", counters.durations
        )
        yield _histograms(
            "millstream_request_stage_seconds", "Stages of appends.", "stage", counters.stages
        )
        errors = CounterMetricFamily(
            "millstream_request_errors", "Failed requests or partitions.", labels=("api", "code")
        )
        for labels, count in tuple(counters.errors.items()):
            errors.add_metric(labels, count)
        yield errors
        yield CounterMetricFamily(
            "millstream_throttle_seconds",
            "Waiting that throttled clients were told.",
            counters.throttle_ms / 1000,
        )
        for name, count in (
            ("isr_shrinks", counters.isr_shrinks),
            ("isr_expands", counters.isr_expands),
            ("replication_bytes_in", counters.replication_bytes_in),
            ("log_scrubbed_bytes", counters.scrubbed_bytes),
            ("replication_bytes_out", counters.replication_bytes_out),
        ):
            yield CounterMetricFamily(f"millstream_{name}", f"{name} of this broker.", count)

    def _streams(self) -> Iterator[Metric]:
        streams = GaugeMetricFamily("millstream_streams", "Open streams.", labels=("api",))
        for api, count in tuple(self._counters.streams.items()):
            streams.add_metric((api,), count)
        yield streams

    def _topics(self) -> Iterator[Metric]:
        for name in ("bytes_in", "bytes_out", "records_in", "records_out"):
            family = CounterMetricFamily(
                f"millstream_topic_{name}", f"{name} by topic.", labels=("topic",)
            )
            for topic, counters in tuple(self._counters.topics.items()):
                family.add_metric((topic,), getattr(counters, name))
            yield family

    def _storage(self, hosted: HostedPartitions) -> Iterator[Metric]:
        labels = ("dir",)
        flushes = HistogramMetricFamily(
            "millstream_log_flush_duration_seconds", "Rounds of syncs.", labels=labels
        )
        flushes.add_metric((self._path,), _buckets(self.flushes), self.flushes.sum_s)
        yield flushes
        gauges = [
            ("log_segments", sum(log.segment_count for log in hosted.directory.logs.values())),
            ("log_dir_offline", int(hosted.directory.offline_reason is not None)),
        ]
        if self.disk_usage is not None:
            gauges.append(("disk_free_bytes", self.disk_usage[1]))
            gauges.append(("disk_total_bytes", self.disk_usage[0]))
        for name, value in gauges:
            gauge = GaugeMetricFamily(f"millstream_{name}", f"{name}.", labels=labels)
            gauge.add_metric((self._path,), value)
            yield gauge

    def _partitions(self, hosted: HostedPartitions) -> Iterator[Metric]:
        replicas = tuple(hosted.replicas.values())
        if self._level != "partition":
            return
        for name, text, read in _PARTITION_GAUGES:
            gauge = GaugeMetricFamily(f"millstream_partition_{name}", text, labels=_PARTITION)
            for replica in replicas:
                state = replica.state
                gauge.add_metric((state.topic, str(state.number)), float(read(replica)))
            yield gauge
        labels = (*_PARTITION, "replica")
        records = GaugeMetricFamily(
            "millstream_replica_lag_records", "Records behind the leader's end.", labels=labels
        )
        seconds = GaugeMetricFamily(
            "millstream_replica_lag_seconds", "Time since it was at the end.", labels=labels
        )
        now_ms = hosted.clock.monotonic_ms()
        for replica in replicas:
            state = replica.state
            if not state.leading:
                continue
            for node_id in state.replicas:
                key = (state.topic, str(state.number), str(node_id))
                records.add_metric(key, state.lag_records(node_id))
                seconds.add_metric(key, state.lag_ms(node_id, now_ms) / 1000)
        yield records
        yield seconds


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _histograms(
    name: str, text: str, label: str, histograms: dict[str, Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value, histogram in histograms.items():
        family.add_metric((value,), _buckets(histogram), histogram.sum_s)
    return family
