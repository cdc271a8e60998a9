"""The configuration of topics: one table of keys, Kafka's names where the meaning is the same.

Values travel and are stored as text. Three layers, the first that has a key wins: what was set on
the topic, what the node's configuration sets for the cluster, the default of this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from millstream_raft.image import FLUSH_FSYNC, FLUSH_PAGE_CACHE
from millstream_raft.refusal import Refused

_INT64_MAX = 2**63 - 1
VALUE_CHARACTERS_MAX = 1024
MIN_INSYNC_REPLICAS = "min.insync.replicas"


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key: an integer within limits, or one or several of the words allowed."""

    name: str
    default: str
    documentation: str
    # Of integers, both inclusive; None for words.
    minimum: int | None = None
    maximum: int = _INT64_MAX
    # Of words; empty for integers.
    words: tuple[str, ...] = ()
    # True if several words may stand side by side, separated by commas.
    several: bool = False

    def parse(self, text: str) -> int | str:
        """The value of a text. Raises Refused INVALID_CONFIG."""
        if self.words:
            return self._parse_words(text)
        try:
            number = int(text.strip())
        except ValueError:
            raise self._refusal(text, "is not an integer") from None
        assert self.minimum is not None
        if not self.minimum <= number <= self.maximum:
            raise self._refusal(text, f"is not within {self.minimum} and {self.maximum}")
        return number

    def _parse_words(self, text: str) -> str:
        chosen = [word.strip() for word in text.split(",")] if self.several else [text.strip()]
        for word in chosen:
            if word not in self.words:
                near = get_close_matches(word, self.words, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise self._refusal(text, f"is not one of {', '.join(self.words)}{hint}")
        return ",".join(sorted(set(chosen)))

    def _refusal(self, text: str, problem: str) -> Refused:
        shown = text if len(text) <= 80 else text[:77] + "..."
        return Refused("INVALID_CONFIG", f"{self.name}={shown!r} {problem}")


def _number(name: str, default: int, minimum: int, maximum: int, documentation: str) -> ConfigKey:
    return ConfigKey(name, str(default), documentation, minimum=minimum, maximum=maximum)


_DAY_MS = 86_400_000

_KEYS = (
    ConfigKey(
        "cleanup.policy",
        "delete",
        "What happens to old records: delete drops whole segments by age and size, compact keeps "
        "the newest record of each key.",
        words=("compact", "delete"),
        several=True,
    ),
    ConfigKey(
        "compression.type",
        "producer",
        "Codec of stored batches. Only producer: batches stay as the producer compressed them.",
        words=("producer",),
    ),
    _number(
        "delete.retention.ms",
        _DAY_MS,
        0,
        _INT64_MAX,
        "How long compaction keeps the mark of a deleted key, milliseconds.",
    ),
    ConfigKey(
        "flush.mode",
        FLUSH_FSYNC,
        "What an acknowledgement means: fsync, on the disks of the in-sync replicas; page_cache, "
        "in their memory.",
        words=(FLUSH_FSYNC, FLUSH_PAGE_CACHE),
    ),
    _number(
        "max.message.bytes",
        1024 * 1024,
        1024,
        8 * 1024 * 1024,
        "Largest record, bytes, with its key and headers, before compression.",
    ),
    ConfigKey(
        "message.timestamp.type",
        "CreateTime",
        "Whose time a record has: the producer's, or that of the append.",
        words=("CreateTime", "LogAppendTime"),
    ),
    _number(
        MIN_INSYNC_REPLICAS,
        1,
        1,
        1000,
        "In-sync replicas without which acks=all is refused. Unless set: 2 of three or more "
        "replicas, 1 of fewer.",
    ),
    _number(
        "retention.bytes",
        -1,
        -1,
        _INT64_MAX,
        "Size of a partition above which its oldest segments are dropped, bytes; -1: no limit.",
    ),
    _number(
        "retention.ms",
        7 * _DAY_MS,
        -1,
        _INT64_MAX,
        "Age above which segments are dropped, milliseconds; -1: no limit.",
    ),
    _number(
        "segment.bytes",
        256 * 1024 * 1024,
        64 * 1024,
        2**31 - 1,
        "Size at which a segment is closed and the next one begun, bytes.",
    ),
    _number(
        "segment.ms",
        7 * _DAY_MS,
        1000,
        _INT64_MAX,
        "Age at which a segment is closed, milliseconds.",
    ),
)

TOPIC_CONFIG_KEYS: Mapping[str, ConfigKey] = MappingProxyType({key.name: key for key in _KEYS})


def config_key(name: str) -> ConfigKey:
    """The key of a name. Raises Refused INVALID_CONFIG, which names the nearest known key."""
    key = TOPIC_CONFIG_KEYS.get(name)
    if key is None:
        near = get_close_matches(name, TOPIC_CONFIG_KEYS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise Refused("INVALID_CONFIG", f"there is no topic configuration {shown!r}{hint}")
    return key


def validate(configs: Mapping[str, str]) -> dict[str, str]:
    """The configuration in canonical text. Raises Refused INVALID_CONFIG for the first key (by
    name) that is unknown or has a value that is not allowed."""
    checked = {}
    for name in sorted(configs):
        key = config_key(name)
        if len(configs[name]) > VALUE_CHARACTERS_MAX:
            raise Refused("INVALID_CONFIG", f"the value of {name} is too long")
        checked[name] = str(key.parse(configs[name]))
    return checked


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic's configuration in force, as numbers. -1 means no limit for retention."""

    cleanup_delete: bool
    cleanup_compact: bool
    delete_retention_ms: int
    flush_mode: str
    max_message_bytes: int
    log_append_time: bool
    retention_bytes: int
    retention_ms: int
    segment_bytes: int
    segment_ms: int


def effective(
    configs: Mapping[str, str], defaults: Mapping[str, str], *, replication_factor: int = 1
) -> dict[str, str]:
    """All keys with their value in force, by name: of the topic, of the cluster, or built in."""
    values = {
        name: configs.get(name, defaults.get(name, key.default))
        for name, key in TOPIC_CONFIG_KEYS.items()
    }
    values[MIN_INSYNC_REPLICAS] = str(min_insync_replicas(configs, defaults, replication_factor))
    return values


def min_insync_replicas(
    configs: Mapping[str, str], defaults: Mapping[str, str], replication_factor: int
) -> int:
    """The least in-sync replicas in force for partitions with so many replicas, never more than
    these: as set for the topic or the cluster, otherwise one replica may be lost without harm."""
    text = configs.get(MIN_INSYNC_REPLICAS, defaults.get(MIN_INSYNC_REPLICAS))
    if text is None:
        return 2 if replication_factor >= 3 else 1
    return min(int(config_key(MIN_INSYNC_REPLICAS).parse(text)), replication_factor)


def settings(configs: Mapping[str, str], defaults: Mapping[str, str]) -> TopicSettings:
    """The configuration in force of a topic with ``configs`` in a cluster with ``defaults``. Both
    were validated before; raises Refused INVALID_CONFIG otherwise."""
    values = {
        name: config_key(name).parse(text) for name, text in effective(configs, defaults).items()
    }
    policy = str(values["cleanup.policy"]).split(",")
    return TopicSettings(
        cleanup_delete="delete" in policy,
        cleanup_compact="compact" in policy,
        delete_retention_ms=int(values["delete.retention.ms"]),
        flush_mode=str(values["flush.mode"]),
        max_message_bytes=int(values["max.message.bytes"]),
        log_append_time=values["message.timestamp.type"] == "LogAppendTime",
        retention_bytes=int(values["retention.bytes"]),
        retention_ms=int(values["retention.ms"]),
        segment_bytes=int(values["segment.bytes"]),
        segment_ms=int(values["segment.ms"]),
    )
