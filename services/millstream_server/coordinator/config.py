"""Configuration of the group coordinator."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """Limits and periods. Times are milliseconds."""

    # Silence after which a member is fenced, unless it asks otherwise. Kafka's default: long
    # enough for a garbage collection, short enough that a dead consumer is noticed.
    session_timeout_ms: int = 45_000
    # What members may ask for. Below the minimum a lost packet would fence them; above the
    # maximum a dead member would hold its partitions for hours.
    session_timeout_ms_min: int = 500
    session_timeout_ms_max: int = 1_800_000
    # How often members are told to send heartbeats; never more than a third of their session.
    heartbeat_interval_ms: int = 3_000
    # How long a member may take to give up a partition, unless it asks otherwise: as long as the
    # application may take between two polls.
    rebalance_timeout_ms: int = 300_000
    rebalance_timeout_ms_max: int = 3_600_000
    # Changes of a group within this time share a group epoch, so that a starting fleet is
    # assigned once (invariant 40).
    rebalance_delay_ms: int = 50
    # A session that seems to end this much late ended because this process was stalled, not
    # because its member was silent: it gets one more chance.
    stall_ms: int = 500
    # How long the offsets of a group without members are kept, minutes.
    offsets_retention_minutes: int = 10_080
    # How often offsets are looked through for expired ones; one pass costs O(offsets).
    expiry_interval_ms: int = 600_000

    # Each of these bounds memory that a client can make the coordinator use (invariant 40).
    groups_per_shard_max: int = 10_000
    members_per_group_max: int = 1_000
    topics_per_member_max: int = 1_000
    offsets_per_group_max: int = 100_000
    offsets_per_commit_max: int = 10_000
    offset_metadata_bytes_max: int = 4_096
    ranges_per_offset_max: int = 1_000
    id_bytes_max: int = 255
    streams_max: int = 20_000
    # Messages of a stream that are not answered yet, and those not sent yet.
    stream_unanswered_max: int = 100
    stream_unsent_max: int = 1_000

    # Records of one shard that wait for the log, bytes; beyond, requests are refused.
    pending_bytes_max: int = 16 * 1024 * 1024
    # A batch is closed at this size; the records of one cause are never parted.
    batch_bytes_max: int = 512 * 1024
    # Batches of one shard under way at a time; the log remembers no more (invariant 21).
    writes_in_flight_max: int = 5
    # How long the log's leader may take to answer a write before it is sent again.
    write_timeout_ms: int = 10_000
    # Pause before another try at the log; doubles up to the maximum.
    log_retry_ms: int = 50
    log_retry_ms_max: int = 1_000
    # Credit for replay, bytes: how much of a shard is on its way at a time.
    replay_credit_bytes: int = 8 * 1024 * 1024

    # How often the ends of partitions with committed offsets are asked for, for lag; 0: never.
    lag_interval_ms: int = 10_000
    # How long a commit may wait to learn the end of the log that it is checked against.
    end_offset_timeout_ms: int = 1_000
    # Longest wait for writes under way at a graceful stop.
    stop_timeout_ms: int = 10_000

    def validate(self) -> None:
        """Raises ValueError with the field that is wrong."""
        for name in self.__slots__:
            lowest = 0 if name in ("lag_interval_ms", "rebalance_delay_ms") else 1
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}, at least {lowest} is needed")
        if not (
            self.session_timeout_ms_min <= self.session_timeout_ms <= self.session_timeout_ms_max
        ):
            raise ValueError(
                f"session_timeout_ms {self.session_timeout_ms} is not within "
                f"{self.session_timeout_ms_min} and {self.session_timeout_ms_max}"
            )
        if self.rebalance_timeout_ms > self.rebalance_timeout_ms_max:
            raise ValueError("rebalance_timeout_ms exceeds rebalance_timeout_ms_max")
        if self.writes_in_flight_max > 5:
            raise ValueError("writes_in_flight_max is at most 5: the log remembers no more")
        if self.log_retry_ms > self.log_retry_ms_max:
            raise ValueError("log_retry_ms exceeds log_retry_ms_max")
