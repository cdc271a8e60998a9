"""From a topic's configuration to the settings of its logs."""

from dataclasses import replace

from millstream_raft.image import FLUSH_FSYNC, OFFSETS_TOPIC, PartitionState, TopicState
from millstream_raft.topic_config import TopicSettings
from millstream_server.storage.config import FlushMode, LogConfig

# The broker itself measures records; the log only needs a bound of the same order as a request.
_BATCH_BYTES_MAX = 16 * 1024 * 1024
_NEVER_MS = (1 << 62) - 1


def log_config(
    defaults: LogConfig, settings: TopicSettings, topic: TopicState, state: PartitionState
) -> LogConfig:
    """The settings of one log. The flush mode is partition state (invariant 1), and fences of
    ``__consumer_offsets`` hold for ever (invariant 28)."""
    fenced_for_ever = topic.name == OFFSETS_TOPIC
    return replace(
        defaults,
        segment_bytes=settings.segment_bytes,
        segment_ms=settings.segment_ms,
        retention_ms=_limit(settings, settings.retention_ms),
        retention_bytes=_limit(settings, settings.retention_bytes),
        flush_mode=FlushMode.FSYNC if state.flush_mode == FLUSH_FSYNC else FlushMode.PAGE_CACHE,
        max_message_bytes=_BATCH_BYTES_MAX,
        log_append_time=settings.log_append_time,
        producer_expiry_ms=_NEVER_MS if fenced_for_ever else defaults.producer_expiry_ms,
    )


def _limit(settings: TopicSettings, value: int) -> int | None:
    return value if settings.cleanup_delete and value >= 0 else None
