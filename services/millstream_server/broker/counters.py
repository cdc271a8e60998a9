"""What the broker counts while it works: plain numbers, read by ``metrics`` when somebody asks."""

from bisect import bisect_left
from collections import defaultdict

# Seconds; the buckets of conventions: 0.5 ms to 10 s.
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Counts of observations by bucket; the last bucket has no upper bound."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Add an observation."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)


class TopicCounters:
    """Traffic of the partitions of one topic on this broker."""

    __slots__ = ("bytes_in", "bytes_out", "records_in", "records_out")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.records_in = 0
        self.records_out = 0


STAGES = ("queue", "append", "replicate", "respond")
APIS = (
    "produce",
    "fetch",
    "publish",
    "subscribe",
    "list_offsets",
    "delete_records",
    "describe_log_dirs",
)


class BrokerCounters:
    """Everything that one broker counts."""

    def __init__(self) -> None:
        # By topic name; entries go when the topic leaves this broker.
        self.topics: dict[str, TopicCounters] = {}
        self.durations = {api: Histogram() for api in APIS}
        self.stages = {stage: Histogram() for stage in STAGES}
        # By (api, reason); both come from fixed tables.
        self.errors: dict[tuple[str, str], int] = defaultdict(int)
        # Open streams by api, and how many of them each peer has.
        self.streams: dict[str, int] = defaultdict(int)
        self.throttle_ms = 0
        self.isr_shrinks = 0
        self.isr_expands = 0
        self.replication_bytes_in = 0
        self.replication_bytes_out = 0
        # Bytes of old records that were verified although nobody read them.
        self.scrubbed_bytes = 0
        # Pushes that did not continue the log or were damaged (invariants 13, 31).
        self.refused_pushes = 0

    def topic(self, name: str) -> TopicCounters:
        """The counters of a topic, made when missing."""
        found = self.topics.get(name)
        if found is None:
            found = self.topics[name] = TopicCounters()
        return found

    def stream_opened(self, api: str) -> None:
        """A stream begins."""
        self.streams[api] += 1

    def stream_closed(self, api: str) -> None:
        """A stream of ``stream_opened`` ends."""
        self.streams[api] -= 1
