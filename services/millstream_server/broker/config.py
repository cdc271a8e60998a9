"""What can be set of a broker, each with its default and the reason for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from millstream_server.storage.config import LogConfig

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Settings of one broker; ``validate`` before use."""

    # What every log starts from; the topic's configuration replaces most of it.
    log_defaults: LogConfig = field(default_factory=LogConfig)
    # The cluster's defaults of topic configuration keys, as text; the same on every node.
    topic_defaults: Mapping[str, str] = field(default_factory=dict)
    # Create topics that are published to. Off: a mistyped name must not make a topic.
    auto_create_topics: bool = False
    # Longest wait of a plain call for a leader: to be elected, or to open its log.
    leader_wait_ms: int = 5_000
    # Records in one `Publish`: it builds their batches on the event loop, at some 3 µs each.
    publish_records_max: int = 20_000
    # Largest produce or publish request; caps what one message can make the process hold.
    request_bytes_max: int = 8 * _MIB
    # Produced bytes that are not yet answered, for the whole broker: beyond it, THROTTLED.
    inflight_bytes_max: int = 256 * _MIB
    # The same for one connection, so that one producer cannot take it all.
    inflight_bytes_connection_max: int = 64 * _MIB
    # What a throttled producer is told to wait.
    throttle_retry_ms: int = 100
    # Appends of one partition that wait for replication or sync; beyond it, THROTTLED.
    waiters_max: int = 10_000
    # Answers that a client has not taken yet; beyond it, its requests are read no more.
    unsent_results_max: int = 10_000
    # Wait for replication when the request names no time.
    produce_timeout_ms: int = 30_000
    # Longest wait that a request may ask for.
    produce_timeout_ms_max: int = 300_000
    # How often waiting appends are looked at for their deadline.
    expiry_interval_ms: int = 100

    # Out of touch with the controller, and the high watermark standing still for so long: then the
    # broker takes itself for replaced.
    stall_ms: int = 500

    # Bytes of batches in one fetch message: large enough to amortise its cost, small enough to
    # stay on the heap.
    fetch_message_bytes: int = 256 * 1024
    # Partitions in one fetch stream.
    fetch_positions_max: int = 10_000
    # Longest `max_wait_ms` of a fetch stream.
    fetch_wait_ms_max: int = 60_000
    # High-watermark moves without data are pushed together, at most this late (invariant 13).
    watermark_push_ms: int = 5
    # Bytes that a leader may have under way to this follower on each lane: a few of the largest
    # messages, so that the disk never waits for the next one. Up to an eighth is given back late,
    # and the rest must hold the largest batch, of 8 MiB.
    replica_tail_credit_bytes: int = 16 * _MIB
    replica_catch_up_credit_bytes: int = 10 * _MIB
    # Bytes of batches in one message to a follower: large enough to amortise its cost.
    replication_message_bytes: int = 256 * 1024
    # A follower that is this far behind is served on the lane for catching up, so that it keeps
    # nobody waiting; back on the other one below a quarter of it.
    catch_up_from_bytes: int = 4 * _MIB
    # A replica that has not caught up with its leader for so long leaves the in-sync set.
    replica_lag_time_ms_max: int = 10_000
    # How often the leader looks for such replicas; the lag is precise to this.
    in_sync_check_ms: int = 1_000
    # Deadline of a request to change in-sync sets, and the wait before the next one of a partition
    # whose change was refused or whose fate is unknown.
    in_sync_timeout_ms: int = 5_000
    in_sync_retry_ms: int = 500
    # Threads for reads of older data and for look-ups by time.
    cold_read_threads: int = 2

    # Records in one Subscribe message, and bytes of them.
    subscribe_records_max: int = 500
    subscribe_message_bytes: int = 256 * 1024
    # Deadline of a call forwarded to another broker.
    forward_timeout_ms: int = 35_000

    # How often logs are looked at for retention.
    retention_interval_ms: int = 30_000
    # How often the writer looks for recovery points to move and page-cache logs to sync.
    upkeep_interval_ms: int = 1_000
    # How often every byte that was synced is read and verified, whether anybody wants it or not;
    # None: never. And how fast: slowly enough to be felt by nobody, and still some 5 TB a week.
    scrub_interval_ms: int | None = 7 * 24 * 3600 * 1000
    scrub_bytes_per_s: int = 8 * _MIB
    # How long the data of a deleted topic is kept aside.
    delete_delay_ms: int = 60_000
    # Free room below which appends are refused, at most a twentieth of the disk; and after how many
    # appended bytes the room is looked at, beside once a second.
    disk_reserve_bytes: int = 64 * _MIB
    disk_look_after_bytes: int = 16 * _MIB
    # How often a full disk is tried again.
    disk_retry_ms: int = 1_000
    # Longest wait for unanswered appends, and then for leaders to move, when stopping.
    drain_timeout_ms: int = 10_000
    # Finest labels of the metrics: "cluster", "topic" or "partition".
    metrics_level: str = "partition"

    def validate(self) -> None:
        """Check the settings against one another. Raises ValueError."""
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.inflight_bytes_connection_max < self.request_bytes_max:
            raise ValueError("inflight_bytes_connection_max is below request_bytes_max")
        if self.inflight_bytes_max < self.inflight_bytes_connection_max:
            raise ValueError("inflight_bytes_max is below inflight_bytes_connection_max")
        if self.produce_timeout_ms > self.produce_timeout_ms_max:
            raise ValueError("produce_timeout_ms is above produce_timeout_ms_max")
        if self.metrics_level not in ("cluster", "topic", "partition"):
            raise ValueError(f"metrics_level {self.metrics_level!r} is not known")
