"""What both API families agree on about connections: options, addresses, the watch's filter.

Nothing here waits or owns a channel; ``async_io`` and ``sync_io`` do.
"""

from collections.abc import Iterable

import grpc

from millstream._client.cluster import ClusterCache
from millstream._client.config import ClientConfig
from millstream._errors import InvalidConfigError

# One watch names at most so many topics; a client that uses more watches all of them.
_WATCHED_TOPICS_MAX = 1_000
# Kafka gives the setup of a connection 10 s; another broker may be asked sooner.
_CONNECT_TIMEOUT_MS = 5_000


def channel_options(config: ClientConfig) -> list[tuple[str, int | str]]:
    """gRPC channel arguments of every connection."""
    return [
        ("grpc.max_receive_message_length", config.message_max_bytes),
        ("grpc.max_send_message_length", config.message_max_bytes),
        # Notice a dead peer or a cut cable without waiting for TCP.
        ("grpc.keepalive_time_ms", config.keepalive_time_ms),
        ("grpc.keepalive_timeout_ms", config.keepalive_timeout_ms),
        # Without it every ping is waited for one minute, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", config.keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", config.reconnect_backoff_ms),
        # For so long an attempt to connect may take, whatever gRPC calls it.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", config.reconnect_backoff_max_ms),
        ("grpc.client_idle_timeout_ms", config.connections_max_idle_ms or 2_147_483_647),
        # Retries are ours: they follow the error table, not gRPC's status codes.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.primary_user_agent", f"{config.client_id} millstream-python"),
        # A client of its own does not share sockets with others in the process.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidConfigError(f"cannot read {path}: {error.strerror}") from None


def channel_credentials(config: ClientConfig) -> grpc.ChannelCredentials | None:
    """TLS credentials, or None for plaintext. Raises InvalidConfigError for unreadable files."""
    if config.security_protocol != "SSL":
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(config.ssl_ca_location),
        private_key=_read(config.ssl_key_location),
        certificate_chain=_read(config.ssl_certificate_location),
    )


class AddressBook:
    """Which broker to ask when any will do: known brokers first, bootstrap addresses after them;
    one that failed goes to the end of the queue."""

    def __init__(self, bootstrap: tuple[str, ...], cluster: ClusterCache, start: int = 0) -> None:
        self._bootstrap = bootstrap
        self._cluster = cluster
        # Counts failures; clients begin at different brokers by their `start`.
        self._turn = start
        self._failed_in_a_row = 0

    def addresses(self) -> list[str]:
        """All candidates in their order of trial."""
        known = sorted(node.address for node in self._cluster.brokers())
        return [*known, *(address for address in self._bootstrap if address not in known)]

    def current(self) -> str:
        """The address to use now."""
        candidates = self.addresses()
        return candidates[self._turn % len(candidates)]

    def failed(self, address: str) -> None:
        """Use another address from now on, if ``address`` is still the one in use."""
        if self.current() == address:
            self._turn += 1
            self._failed_in_a_row += 1

    def answered(self) -> None:
        """The address in use is good."""
        self._failed_in_a_row = 0

    @property
    def all_failed(self) -> bool:
        """True once every address failed since one was good."""
        return self._failed_in_a_row >= len(self.addresses())


class TopicFilter:
    """The topics that a client watches: those it uses."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self.all_topics = False

    def use(self, name: str) -> bool:
        """Note a use; True if the watch has to be opened again with a larger filter."""
        if name in self._used:
            return False
        self._used.add(name)
        if self.all_topics:
            return False
        self.all_topics = len(self._used) > _WATCHED_TOPICS_MAX
        return True

    def forget(self, names: Iterable[str]) -> None:
        """Watch these no more, from the next time that the watch is opened."""
        for name in names:
            self._used.discard(name)

    @property
    def names(self) -> list[str]:
        """The names to send; empty when all topics are watched."""
        return [] if self.all_topics else sorted(self._used)
