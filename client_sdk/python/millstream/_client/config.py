"""Configuration of all clients: one table of keys, and the way from keyword or mapping to it.

A key has one name in two spellings, ``linger_ms`` and ``linger.ms``; both are accepted everywhere.
Names, units and meanings are Kafka's where Kafka has the key. A key that this SDK does not know is
an error that names the nearest known one; Kafka keys with no meaning here say what to do instead.
"""

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from millstream._client.config_values import callable_key, convert, foreign_key, key
from millstream._errors import InvalidConfigError

_log = logging.getLogger("millstream")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientConfig:
    """Keys of every client."""

    bootstrap_servers: tuple[str, ...] = key(
        ("127.0.0.1:9092",), "Addresses (host:port) of some brokers; any one that answers will do."
    )
    client_id: str = key("millstream-python", "Name of this client in logs and descriptions.")
    client_rack: str = key("", "Rack or zone of this client; consumers read from a replica there.")
    request_timeout_ms: int = key(
        30_000, "How long to wait for the answer to one request.", minimum=1
    )
    default_api_timeout_ms: int = key(
        60_000, "How long a call may take in all, with its retries, unless it says so.", minimum=1
    )
    retries: int = key(2_147_483_647, "Most retries of one request or batch.", minimum=0)
    retry_backoff_ms: int = key(100, "Delay before the first retry; it doubles.", minimum=0)
    retry_backoff_max_ms: int = key(250, "Longest delay between retries.", minimum=0)
    reconnect_backoff_ms: int = key(50, "Delay before the first reconnect; it grows.", minimum=1)
    reconnect_backoff_max_ms: int = key(250, "Longest delay between reconnects.", minimum=1)
    connections_max_idle_ms: int = key(
        540_000, "Close a connection that was idle for so long. 0: never.", minimum=0
    )
    keepalive_time_ms: int = key(
        10_000, "Ping a silent connection after this time, to notice a dead peer.", minimum=5_000
    )
    keepalive_timeout_ms: int = key(
        30_000,
        "Give a connection up when a ping is unanswered for so long; longer than a slow link needs"
        " for what is under way.",
        minimum=100,
    )
    metadata_max_age_ms: int = key(
        300_000, "Watch a topic no more that nothing was sent to for so long.", minimum=1_000
    )
    message_max_bytes: int = key(
        16 * 1024 * 1024, "Largest gRPC message sent or received.", minimum=64 * 1024
    )
    tune_malloc: bool = key(
        True,
        "Keep big buffers on the heap (mallopt, once per process; glibc only): less CPU for large"
        " batches, but the process keeps up to 128 MiB of freed memory.",
    )
    security_protocol: str = key(
        "PLAINTEXT", "PLAINTEXT or SSL.", choices=("PLAINTEXT", "SSL"), upper=True
    )
    ssl_ca_location: str = key("", "File with the certificates of trusted authorities, PEM.")
    ssl_certificate_location: str = key("", "File with this client's certificate chain, PEM.")
    ssl_key_location: str = key("", "File with this client's private key, PEM.")

    @classmethod
    def resolve(cls, mapping: Mapping[str, Any] | None = None, /, **kwargs: Any) -> Self:
        """Build the configuration from a mapping, keywords, or both; keywords win.

        Keys of the other clients in ``mapping`` are logged and left out, so that one file can
        serve them all; as a keyword such a key is an error. Raises InvalidConfigError.
        """
        given: dict[str, Any] = {}
        for name, value in (mapping or {}).items():
            known = _known_name(cls, name, from_mapping=True)
            if known is not None:
                given[known] = value
        for name, value in kwargs.items():
            given[_known_name(cls, name) or name] = value
        table = {field.name: field for field in fields(cls)}
        config = cls(**{name: convert(table[name], value) for name, value in given.items()})
        config.validate()
        return config

    def validate(self) -> None:
        """Check the keys against each other. Raises InvalidConfigError."""
        if not self.bootstrap_servers:
            raise InvalidConfigError("bootstrap.servers must name at least one broker")
        tls = self.ssl_ca_location or self.ssl_certificate_location or self.ssl_key_location
        if tls and self.security_protocol != "SSL":
            raise InvalidConfigError("ssl.* keys need security.protocol=SSL")
        if bool(self.ssl_certificate_location) != bool(self.ssl_key_location):
            raise InvalidConfigError(
                "ssl.certificate.location and ssl.key.location go together: set both or neither"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProducerConfig(ClientConfig):
    """Keys of ``Producer`` and ``AsyncProducer``."""

    acks: int = key(
        -1,
        "What must have happened before a send succeeds: 0 nothing, 1 the leader has it, all (-1)"
        " every in-sync replica has it.",
        values={"all": -1, "-1": -1, "0": 0, "1": 1},
    )
    enable_idempotence: bool | None = key(
        None, "Write every record once and in order, also across retries. Unset: on if acks=all."
    )
    max_in_flight_requests_per_connection: int = key(
        5, "Most unanswered batches per partition; at most 5 with idempotence.", minimum=1
    )
    linger_ms: float = key(
        0.0, "Wait up to this time for more records before sending a batch.", minimum=0
    )
    linger_in_flight_ms: float = key(
        10.0,
        "Wait up to this time for more records while an earlier batch of the partition is"
        " unanswered, whatever linger.ms is.",
        minimum=0,
    )
    batch_size: int = key(
        256 * 1024, "Send a batch when it has so many bytes, before compression.", minimum=1
    )
    max_request_size: int = key(
        1024 * 1024, "Largest record: key, value and headers, bytes.", minimum=1_024
    )
    buffer_memory: int = key(
        32 * 1024 * 1024, "Bytes of records that may wait for their answer.", minimum=16 * 1024
    )
    max_block_ms: int = key(
        60_000, "How long send() may wait for metadata or for free buffer memory.", minimum=0
    )
    compression_type: str = key(
        "none", "Codec of batches.", choices=("none", "lz4", "zstd"), lower=True
    )
    delivery_timeout_ms: int = key(
        120_000, "Fail a record that is not acknowledged so long after its send.", minimum=1
    )
    partitioner: str = key(
        "consistent_random",
        "How a key finds its partition: CRC-32 as librdkafka, or murmur2 as Kafka's Java client."
        " Records without a key go to one partition for a batch, then to the next.",
        choices=("consistent_random", "murmur2_random"),
    )
    key_serializer: Callable[[Any], bytes] | None = field(
        default=None, metadata=callable_key("Called with each key; returns bytes.")
    )
    value_serializer: Callable[[Any], bytes] | None = field(
        default=None, metadata=callable_key("Called with each value; returns bytes.")
    )

    @property
    def idempotent(self) -> bool:
        """Whether sequences are written: as asked for, else exactly with acks=all."""
        return self.acks == -1 if self.enable_idempotence is None else self.enable_idempotence

    def validate(self) -> None:
        """Check the keys against each other. Raises InvalidConfigError."""
        # The class cell is lost in slotted dataclasses, so no zero-argument super() here.
        ClientConfig.validate(self)
        if self.idempotent and self.acks != -1:
            raise InvalidConfigError("enable.idempotence=true needs acks=all")
        if self.idempotent and self.max_in_flight_requests_per_connection > 5:
            raise InvalidConfigError(
                "max.in.flight.requests.per.connection must be at most 5 with idempotence"
            )
        if self.delivery_timeout_ms < self.linger_ms + self.request_timeout_ms:
            raise InvalidConfigError(
                "delivery.timeout.ms must be at least linger.ms + request.timeout.ms"
            )
        if self.batch_size > self.buffer_memory:
            raise InvalidConfigError("batch.size must not exceed buffer.memory")
        if self.max_request_size > self.message_max_bytes - 64 * 1024:
            raise InvalidConfigError("max.request.size must leave 64 KiB of message.max.bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerConfig(ClientConfig):
    """Keys of ``Consumer`` and ``AsyncConsumer``."""

    group_id: str = key("", "Group that shares the partitions and commits offsets. Empty: none.")
    group_instance_id: str = key("", "Id that stays the same across restarts (static membership).")
    auto_offset_reset: str = key(
        "latest",
        "Where to start without a committed offset; none is an error.",
        choices=("earliest", "latest", "none"),
        lower=True,
    )
    enable_auto_commit: bool = key(True, "Commit positions regularly and at close.")
    auto_commit_interval_ms: int = key(5_000, "Time between automatic commits.", minimum=1)
    isolation_level: str = key(
        "read_uncommitted",
        "Both mean the same while there are no transactions.",
        choices=("read_uncommitted", "read_committed"),
        lower=True,
    )
    session_timeout_ms: int = key(
        10_000, "A member that is silent for so long loses its partitions.", minimum=1_000
    )
    heartbeat_interval_ms: int = key(
        0, "Time between heartbeats. 0: as the coordinator says.", minimum=0
    )
    max_poll_interval_ms: int = key(
        300_000, "A member that does not poll for so long leaves the group.", minimum=1_000
    )
    max_poll_records: int = key(500, "Most records of one poll().", minimum=1)
    fetch_min_bytes: int = key(1, "Push when so many bytes are readable …", minimum=0)
    fetch_max_wait_ms: int = key(500, "… or at the latest after this time.", minimum=0)
    fetch_max_bytes: int = key(
        16 * 1024 * 1024,
        "Bytes that may be on their way to, or wait in, the client.",
        minimum=1_024,
    )
    max_partition_fetch_bytes: int = key(
        1024 * 1024, "Bytes of one partition in one message.", minimum=1_024
    )
    partition_assignment_strategy: str = key(
        "uniform", "How the coordinator spreads partitions.", choices=("uniform", "range")
    )
    check_crcs: bool = key(True, "Check the checksum of every batch.")
    key_deserializer: Callable[[bytes], Any] | None = field(
        default=None, metadata=callable_key("Called with each key that is not null.")
    )
    value_deserializer: Callable[[bytes], Any] | None = field(
        default=None, metadata=callable_key("Called with each value that is not null.")
    )

    def validate(self) -> None:
        """Check the keys against each other. Raises InvalidConfigError."""
        ClientConfig.validate(self)
        if self.group_instance_id and not self.group_id:
            raise InvalidConfigError("group.instance.id needs group.id")
        if self.heartbeat_interval_ms * 2 > self.session_timeout_ms:
            raise InvalidConfigError(
                "heartbeat.interval.ms must be at most half of session.timeout.ms"
            )
        if self.max_partition_fetch_bytes > self.message_max_bytes - 64 * 1024:
            raise InvalidConfigError(
                "max.partition.fetch.bytes must leave 64 KiB of message.max.bytes"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminConfig(ClientConfig):
    """Keys of ``Admin`` and ``AsyncAdmin``."""


CLIENTS: Mapping[str, type[ClientConfig]] = {
    "producer": ProducerConfig,
    "consumer": ConsumerConfig,
    "admin": AdminConfig,
}

# Names that Kafka clients use for a key that exists here under another name.
_SYNONYMS = {
    "metadata_broker_list": "bootstrap_servers",
    "compression_codec": "compression_type",
    "queue_buffering_max_ms": "linger_ms",
    "message_send_max_retries": "retries",
    "request_required_acks": "acks",
    "max_in_flight": "max_in_flight_requests_per_connection",
    "message_timeout_ms": "delivery_timeout_ms",
    "delivery_timeout": "delivery_timeout_ms",
}


def dotted(name: str) -> str:
    """The spelling with dots, as in documentation and error messages."""
    return name.replace("_", ".")


def _clients_of(name: str) -> list[str]:
    return [
        client
        for client, table in CLIENTS.items()
        if any(field.name == name for field in fields(table))
    ]


def _known_name(table: type[ClientConfig], name: str, *, from_mapping: bool = False) -> str | None:
    """The field for a key; None for another client's key in a shared mapping."""
    normal = str(name).replace(".", "_").replace("-", "_")
    normal = _SYNONYMS.get(normal, normal)
    own = [field.name for field in fields(table)]
    if normal in own:
        return normal
    clients = _clients_of(normal)
    if clients and from_mapping:
        _log.warning("%s configures a %s; left out here", dotted(normal), clients[0])
        return None
    if clients:
        raise InvalidConfigError(f"{dotted(normal)} configures a {' or '.join(clients)}, not this")
    foreign = foreign_key(dotted(normal))
    if foreign is not None:
        raise InvalidConfigError(foreign)
    nearest = difflib.get_close_matches(normal, [*own, *_SYNONYMS], n=1, cutoff=0.5)
    hint = f"; did you mean {dotted(nearest[0])}?" if nearest else ""
    raise InvalidConfigError(f"unknown configuration key {name!r}{hint}")


def describe_keys(client: str) -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, documentation) of every key of "producer", "consumer" or "admin"."""
    for entry in fields(CLIENTS[client]):
        default = entry.default
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        yield dotted(entry.name), shown, entry.metadata["documentation"]
