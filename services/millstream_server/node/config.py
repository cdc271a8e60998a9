"""Configuration of a node: one table of keys, each with its default and why it is there.

Keys are Kafka's where the meaning is the same. Values come from flags, environment, file and
defaults, in this order; the origin of each is kept, so that ``millstream config show --effective``
can tell it. The model is frozen; services get slices of it.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Role = Literal["broker", "metadata", "coordinator"]
FlushMode = Literal["fsync", "page_cache"]
_PORT_MAX = 65535


def _key(name: str, default: Any, description: str, **limits: Any) -> Any:
    return Field(default, alias=name, description=description, **limits)


class NodeConfig(BaseModel):
    """Everything that a node can be told. Attribute names are the keys with underscores."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)

    node_id: int = _key("node.id", 1, "Id of the node, unique in the cluster.", ge=1, le=2**31 - 1)
    process_roles: tuple[Role, ...] = _key(
        "process.roles", ("broker", "metadata", "coordinator"), "What this process does."
    )
    data_dir: str = _key(
        "data.dir", "millstream-data", "Folder that holds everything the node keeps."
    )
    listeners: str = _key(
        "listeners", "127.0.0.1:9092", "host:port of the gRPC port; port 0 takes a free one."
    )
    advertised_listeners: str = _key(
        "advertised.listeners", "", "host:port that others connect to; empty: as listeners."
    )
    admin_listener: str = _key(
        "admin.listener",
        "127.0.0.1:9644",
        "host:port of metrics and probes over plain HTTP; empty: none.",
    )
    plaintext_allow: bool = _key(
        "plaintext.allow",
        False,
        "Serve plaintext on addresses other than loopback: the admin port, and without tls.* the "
        "gRPC port, where anybody can then read and write.",
    )
    tls_certificate_file: str = _key(
        "tls.certificate.file",
        "",
        "The node's certificate chain, PEM. With the other two tls.* keys the gRPC port and all "
        "connections between nodes are mutual TLS; clients need a certificate too.",
    )
    tls_key_file: str = _key(
        "tls.key.file", "", "The certificate's private key, PEM without a password."
    )
    tls_ca_file: str = _key(
        "tls.ca.file",
        "",
        "Certificates of the authorities trusted for nodes and clients, PEM. None of the "
        "system's: a public authority's word must not open the cluster.",
    )
    reflection_enable: bool = _key(
        "reflection.enable", True, "Answer gRPC reflection, for command lines."
    )
    rack: str = _key("broker.rack", "", "Rack or zone of the node, to keep replicas apart.")
    controller_quorum_voters: tuple[str, ...] = _key(
        "controller.quorum.voters",
        (),
        "The metadata nodes as id@host:port; the same on every node. Empty: this node alone.",
    )
    cluster_id: str = _key(
        "cluster.id",
        "",
        "Checked against the data folder, which a first start or `millstream format` writes.",
    )

    auto_create_topics_enable: bool = _key(
        "auto.create.topics.enable", False, "Create topics that are written to."
    )
    num_partitions: int = _key(
        "num.partitions", 1, "Partitions of topics created without a number.", ge=1, le=10_000
    )
    default_replication_factor: int = _key(
        "default.replication.factor",
        0,
        "Replicas of topics created without a number; 0: three, or all brokers if fewer.",
        ge=0,
        le=1000,
    )
    offsets_topic_replication_factor: int = _key(
        "offsets.topic.replication.factor",
        0,
        "Replicas of the topic of committed positions; 0: three, or all brokers if fewer.",
        ge=0,
        le=1000,
    )
    auto_leader_rebalance_enable: bool = _key(
        "auto.leader.rebalance.enable", True, "Give leads back to preferred leaders."
    )
    leader_imbalance_check_interval_seconds: int = _key(
        "leader.imbalance.check.interval.seconds",
        300,
        "How often leads are given back.",
        ge=1,
        le=86_400,
    )
    offsets_topic_num_partitions: int = _key(
        "offsets.topic.num.partitions",
        16,
        "Shards of the group coordinators; fixed once in use.",
        ge=1,
        le=1000,
    )
    offsets_retention_minutes: int = _key(
        "offsets.retention.minutes", 10_080, "How long offsets of an empty group are kept.", ge=1
    )
    flush_mode: FlushMode = _key(
        "flush.mode",
        "fsync",
        "What an acknowledgement means by default: on the disks, or in the memory of the replicas.",
    )
    log_retention_ms: int = _key(
        "log.retention.ms", 604_800_000, "Default retention by time; -1: for ever.", ge=-1
    )
    log_retention_bytes: int = _key(
        "log.retention.bytes", -1, "Default retention by size per partition; -1: none.", ge=-1
    )
    log_segment_bytes: int = _key(
        "log.segment.bytes",
        256 * 1024 * 1024,
        "Default size at which a segment is closed.",
        ge=64 * 1024,
        le=2**31 - 1,
    )
    log_roll_ms: int = _key(
        "log.roll.ms", 604_800_000, "Default age at which a segment is closed.", ge=1000
    )
    log_scrub_interval_ms: int = _key(
        "log.scrub.interval.ms",
        604_800_000,
        "How often all records on the disk are read and their checksums verified; -1: never.",
        ge=-1,
    )
    log_scrub_bytes_per_second: int = _key(
        "log.scrub.bytes.per.second",
        8 * 1024 * 1024,
        "How fast they are read for that.",
        ge=1024,
    )
    message_max_bytes: int = _key(
        "message.max.bytes",
        1024 * 1024,
        "Default for the largest record.",
        ge=1024,
        le=8 * 1024 * 1024,
    )
    request_max_bytes: int = _key(
        "request.max.bytes", 8 * 1024 * 1024, "Largest request.", ge=64 * 1024, le=15 * 1024 * 1024
    )

    broker_session_timeout_ms: int = _key(
        "broker.session.timeout.ms",
        3000,
        "Silence after which a broker or coordinator is fenced.",
        ge=500,
        le=300_000,
    )
    broker_heartbeat_interval_ms: int = _key(
        "broker.heartbeat.interval.ms", 500, "How often they send heartbeats.", ge=50, le=60_000
    )
    replica_lag_time_max_ms: int = _key(
        "replica.lag.time.max.ms",
        10_000,
        "How long a follower may lag behind its leader before it leaves the in-sync replicas.",
        ge=500,
        le=3_600_000,
    )
    group_session_timeout_ms: int = _key(
        "group.session.timeout.ms",
        45_000,
        "Silence after which a group member is fenced, unless it asks otherwise.",
        ge=500,
    )
    group_heartbeat_interval_ms: int = _key(
        "group.heartbeat.interval.ms", 3000, "How often members send heartbeats.", ge=50
    )
    raft_election_timeout_ms: int = _key(
        "raft.election.timeout.ms",
        300,
        "Shortest silence of the Raft leader before an election; the longest is twice that.",
        ge=100,
        le=60_000,
    )
    raft_snapshot_entries: int = _key(
        "raft.snapshot.entries",
        5_000,
        "Entries of the Raft log after which a metadata node writes a snapshot and trims the log.",
        ge=10,
        le=1_000_000,
    )
    shutdown_timeout_ms: int = _key(
        "shutdown.timeout.ms", 30_000, "Longest graceful shutdown.", ge=1000
    )

    metrics_level: Literal["cluster", "topic", "partition"] = _key(
        "metrics.level",
        "partition",
        "Finest labels of the broker's metrics; coarser is cheaper with many partitions.",
    )
    log_format: Literal["auto", "json", "console"] = _key(
        "log.format", "auto", "Form of the log lines on stderr."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _key(
        "log.level", "info", "Least severe log lines written."
    )

    @field_validator("process_roles", "controller_quorum_voters", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("listeners", "advertised_listeners", "admin_listener")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "NodeConfig":
        if not self.process_roles:
            raise ValueError(
                "process.roles is empty: name at least one of broker, metadata, coordinator"
            )
        self._check_plaintext()
        if self.broker_heartbeat_interval_ms * 2 > self.broker_session_timeout_ms:
            raise ValueError(
                "broker.heartbeat.interval.ms must be at most half of broker.session.timeout.ms, "
                "or one lost heartbeat fences the node"
            )
        if "metadata" in self.process_roles and self.voters and self.node_id not in self.voters:
            raise ValueError(
                f"node {self.node_id} has the role metadata but is not in controller.quorum.voters"
            )
        if "metadata" not in self.process_roles and not self.voters:
            raise ValueError(
                "controller.quorum.voters is needed by nodes without the role metadata"
            )
        if self.message_max_bytes > self.request_max_bytes:
            raise ValueError("message.max.bytes must not exceed request.max.bytes")
        return self

    def _check_plaintext(self) -> None:
        tls = (self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)
        if any(tls) and not all(tls):
            raise ValueError(
                "tls.certificate.file, tls.key.file and tls.ca.file go together: set all or none"
            )
        if self.plaintext_allow:
            return
        if not self.has_tls and not is_loopback(split_address(self.listeners)[0]):
            raise ValueError(
                f"listeners {self.listeners} is not a loopback address: set tls.*, or "
                "plaintext.allow=true if everybody in that network may read and write"
            )
        if self.admin_listener and not is_loopback(split_address(self.admin_listener)[0]):
            raise ValueError(
                f"admin.listener {self.admin_listener} is not a loopback address, and is always "
                "plaintext: set plaintext.allow=true if everybody in that network may read metrics"
            )

    @property
    def has_tls(self) -> bool:
        """True if connections to the node are TLS."""
        return bool(self.tls_certificate_file)

    @property
    def voters(self) -> Mapping[int, str]:
        """The metadata nodes: address by node id. Raises ValueError if an entry is malformed."""
        out: dict[int, str] = {}
        for entry in self.controller_quorum_voters:
            node_id, at, address = entry.partition("@")
            if not at or not node_id.isdigit():
                raise ValueError(f"controller.quorum.voters: {entry!r} is not id@host:port")
            split_address(address)
            out[int(node_id)] = address
        return out


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``, ``[v6]:port`` included. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > _PORT_MAX:
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """True if the host is surely this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
