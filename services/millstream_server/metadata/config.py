"""Configuration of the metadata service."""

from dataclasses import dataclass, field

from millstream_raft import topic_config
from millstream_raft.decision import ClusterDefaults
from millstream_raft.refusal import Refused


@dataclass(frozen=True, slots=True)
class MetadataConfig:
    """What a metadata node can be told. All metadata nodes of a cluster should be told the same."""

    # The quorum: (node id, "host:port"), the same list on every node.
    voters: tuple[tuple[int, str], ...]
    # Silence after which a node is fenced; used where a registration asks for none. Longer delays
    # fail-over, shorter fences nodes for a pause of their garbage collector.
    session_timeout_ms: int = 3_000
    # What a registration may ask for.
    session_timeout_min_ms: int = 500
    session_timeout_max_ms: int = 300_000
    # Told to the nodes: several heartbeats must fit into a session, or one lost fences the node.
    heartbeat_interval_ms: int = 500
    # How long a heartbeat may wait for others, so that one round through the quorum answers all.
    # Each round costs a sync of the journal; the nodes count their session from the send.
    heartbeat_gather_ms: int = 100
    # A proposal that is not committed by then has an unknown outcome.
    proposal_timeout_ms: int = 5_000
    # Times that a write is decided anew after its image was overtaken.
    conflict_retries_max: int = 10
    # Writes that wait to be decided; more are refused with THROTTLED.
    executes_pending_max: int = 1_000
    # Request sessions unused for so long are ended; clients are promised an hour.
    request_session_idle_ms: int = 3_600_000
    # Followers of the image at one node.
    watchers_max: int = 2_000
    # A follower that is so far behind is dropped; it comes back and gets a snapshot.
    watcher_queue_bytes_max: int = 16 * 1024 * 1024
    # Pieces of a snapshot; far below what a gRPC message may have.
    snapshot_chunk_bytes: int = 1024 * 1024
    # A quiet watch of the image shows so often that this node is alive: several pulses fit into the
    # time after which followers go elsewhere.
    watch_pulse_ms: int = 250
    # Nodes that are alive find a new controller within this time; the others are suspected then.
    reconnect_grace_ms: int = 500
    # How often a node with a broken session is tried to be reached, and how long each try takes.
    probe_interval_ms: int = 100
    probe_timeout_ms: int = 300
    # Whether preferred leaders get their leads back, and how often that is looked for
    # (auto.leader.rebalance.enable, leader.imbalance.check.interval.seconds).
    auto_leader_rebalance: bool = True
    # How often leads are taken from brokers whose disks refuse appends.
    relieve_interval_ms: int = 500
    leader_imbalance_check_interval_ms: int = 300_000
    # How often partitions are moved away from brokers that leave, and how many of the cluster may
    # be on their way then: all at once would take the network from clients.
    decommission_interval_ms: int = 1_000
    decommission_partitions_max: int = 50
    # What requests leave open.
    defaults: ClusterDefaults = field(default_factory=ClusterDefaults)

    def validate(self) -> None:
        """Raises ValueError with the field that is wrong."""
        if not self.voters or len({node_id for node_id, _ in self.voters}) != len(self.voters):
            raise ValueError("voters is empty or names a node twice")
        if not (
            0
            < self.session_timeout_min_ms
            <= self.session_timeout_ms
            <= self.session_timeout_max_ms
        ):
            raise ValueError("session_timeout_ms is not within its limits")
        if self.heartbeat_interval_ms * 2 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms is more than half of session_timeout_ms")
        if not 0 < self.snapshot_chunk_bytes <= 8 * 1024 * 1024:
            raise ValueError("snapshot_chunk_bytes is not within 1 and 8388608")
        try:
            topic_config.validate(self.defaults.topic_configs)
        except Refused as error:
            raise ValueError(f"defaults.topic_configs: {error.message}") from None

    def address_of(self, node_id: int | None) -> str | None:
        """Address of a metadata node, None if it is not one."""
        return dict(self.voters).get(node_id) if node_id is not None else None
