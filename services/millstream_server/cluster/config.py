"""Configuration of a node's view of its cluster."""

from dataclasses import dataclass, field

from millstream_raft import topic_config
from millstream_raft.refusal import Refused


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """How a node follows the image, keeps its session and serves the public metadata service."""

    # Longest silence that the controller may allow this node (broker.session.timeout.ms).
    session_timeout_ms: int = 3_000
    # Pause before the first reconnect, and the longest; between them it doubles, with jitter, so
    # that the nodes of a cluster do not come back all at once.
    reconnect_ms_min: int = 50
    reconnect_ms_max: int = 1_000
    # Longest time to wait for a connection or for the answer to one call.
    call_timeout_ms: int = 5_000
    # Longest time for one try of a write or a barrier. Another try costs little, as the request id
    # makes it harmless, and a controller that is hung or cut off answers none.
    try_timeout_ms: int = 2_000
    # How long the followed metadata node may be silent, or behind the versions that the controller
    # names, before this node follows another one. Shorter ones are everyday pauses. At most a
    # third of the session counts, so that there is time for another try within it.
    image_age_ms_max: int = 1_000
    # Longest time for a write or a barrier with all its retries, where the caller gives none.
    request_timeout_ms: int = 30_000
    # Callers that wait for a version of the image.
    version_waiters_max: int = 10_000
    # Request sessions of this node's own, for writes whose callers gave no request id; also the
    # number of such writes at a time.
    request_sessions_max: int = 4
    # Largest image accepted; a guard against a peer that never stops sending.
    image_bytes_max: int = 512 * 1024 * 1024
    # Clients that watch the cluster through this node, and topics that one watch may name.
    watches_max: int = 5_000
    watch_topics_max: int = 10_000
    # Changes within this time travel in one message to each watching client.
    watch_gather_ms: int = 10
    # Topic configuration of the cluster, for descriptions; as the metadata nodes have it.
    topic_configs: dict[str, str] = field(default_factory=dict)

    @property
    def image_patience_ms(self) -> int:
        """``image_age_ms_max`` as it counts."""
        return min(self.image_age_ms_max, self.session_timeout_ms // 3)

    def validate(self) -> None:
        """Raises ValueError with the field that is wrong."""
        if self.session_timeout_ms < 500:
            raise ValueError("session_timeout_ms is below 500")
        if not 0 < self.reconnect_ms_min <= self.reconnect_ms_max:
            raise ValueError("reconnect_ms_min is not within 1 and reconnect_ms_max")
        if self.request_sessions_max < 1:
            raise ValueError("request_sessions_max is below 1")
        try:
            topic_config.validate(self.topic_configs)
        except Refused as error:
            raise ValueError(f"topic_configs: {error.message}") from None
