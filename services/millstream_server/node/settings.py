"""Slices of the node's configuration for its services. Pure."""

from millstream_raft.decision import ClusterDefaults
from millstream_raft.raft_config import RaftConfig
from millstream_server.broker.config import BrokerConfig
from millstream_server.cluster.config import ClusterConfig
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.metadata.config import MetadataConfig
from millstream_server.node.config import NodeConfig
from millstream_server.runtime.tls import TlsFiles

# A Raft leader shows that it lives this many times in the shortest election time-out.
_HEARTBEATS_PER_ELECTION_TIMEOUT = 4


def topic_configs(config: NodeConfig) -> dict[str, str]:
    """Topic configuration for topics that do not set their own."""
    return {
        "flush.mode": config.flush_mode,
        "retention.ms": str(config.log_retention_ms),
        "retention.bytes": str(config.log_retention_bytes),
        "segment.bytes": str(config.log_segment_bytes),
        "segment.ms": str(config.log_roll_ms),
        "max.message.bytes": str(config.message_max_bytes),
    }


def tls_files(config: NodeConfig) -> TlsFiles | None:
    """Of TLS; None without."""
    if not config.has_tls:
        return None
    return TlsFiles(config.tls_certificate_file, config.tls_key_file, config.tls_ca_file)


def metadata_config(config: NodeConfig, voters: tuple[tuple[int, str], ...]) -> MetadataConfig:
    """Of the metadata service."""
    return MetadataConfig(
        voters=voters,
        session_timeout_ms=config.broker_session_timeout_ms,
        heartbeat_interval_ms=config.broker_heartbeat_interval_ms,
        auto_leader_rebalance=config.auto_leader_rebalance_enable,
        leader_imbalance_check_interval_ms=config.leader_imbalance_check_interval_seconds * 1000,
        defaults=ClusterDefaults(
            partition_count=config.num_partitions,
            replication_factor=config.default_replication_factor,
            offsets_topic_replication_factor=config.offsets_topic_replication_factor,
            offsets_topic_partition_count=config.offsets_topic_num_partitions,
            auto_create_topics=config.auto_create_topics_enable,
            topic_configs=topic_configs(config),
        ),
    )


def raft_config(config: NodeConfig) -> RaftConfig:
    """Of the quorum."""
    shortest = config.raft_election_timeout_ms
    return RaftConfig(
        heartbeat_interval_ms=shortest // _HEARTBEATS_PER_ELECTION_TIMEOUT,
        election_timeout_min_ms=shortest,
        election_timeout_max_ms=2 * shortest,
        leader_fallback_ms=max(1000, 3 * shortest),
        snapshot_entries=config.raft_snapshot_entries,
    )


def cluster_config(config: NodeConfig) -> ClusterConfig:
    """Of the node's view of its cluster."""
    return ClusterConfig(
        session_timeout_ms=config.broker_session_timeout_ms, topic_configs=topic_configs(config)
    )


def broker_config(config: NodeConfig) -> BrokerConfig:
    """Of the broker."""
    return BrokerConfig(
        auto_create_topics=config.auto_create_topics_enable,
        request_bytes_max=config.request_max_bytes,
        topic_defaults=topic_configs(config),
        replica_lag_time_ms_max=config.replica_lag_time_max_ms,
        scrub_interval_ms=max(1000, config.log_scrub_interval_ms)
        if config.log_scrub_interval_ms > 0
        else None,
        scrub_bytes_per_s=config.log_scrub_bytes_per_second,
        metrics_level=config.metrics_level,
    )


def coordinator_config(config: NodeConfig) -> CoordinatorConfig:
    """Of the group coordinator."""
    return CoordinatorConfig(
        session_timeout_ms=config.group_session_timeout_ms,
        heartbeat_interval_ms=config.group_heartbeat_interval_ms,
        offsets_retention_minutes=config.offsets_retention_minutes,
    )
