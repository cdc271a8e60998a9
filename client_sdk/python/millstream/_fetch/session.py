"""One fetch stream as state: what it reads, and the byte credit between consumer and broker.

The bytes that a broker may push (``outstanding``) and the bytes that it pushed and nobody has
consumed (``held``) never exceed the window together; whatever is consumed or dropped is granted
again. One batch larger than the credit makes ``outstanding`` negative until it is consumed.

Pure: no clock, no network. Units: bytes, as ``pushed_bytes`` counts them on both sides.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from millstream.v1 import broker_service_pb2

PartitionKey = tuple[bytes, int]

# The largest batch that a broker takes. While less than this is outstanding, and nothing is
# held, all credit is returned at once, so that the rule for oversized batches can apply.
_BATCH_BYTES_MAX = 8 * 1024 * 1024


def pushed_bytes(batches: Iterable[bytes]) -> int:
    """What a push costs: the bytes of its batches with the tag and length before each, as they
    stand in the broker's file."""
    return sum([len(batch) + 1 + (len(batch).bit_length() + 6) // 7 for batch in batches])


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What a consumer lets a broker send."""

    # Bytes that one broker may have on the way or in our buffers (fetch.max.bytes).
    window_bytes: int = 16 * 1024 * 1024
    # Largest run of batches of one partition in one message (max.partition.fetch.bytes).
    partition_bytes_max: int = 1024 * 1024
    # Hold a push back until this many bytes are readable (fetch.min.bytes).
    bytes_min: int = 1
    # Longest delay caused by that, milliseconds (fetch.max.wait.ms).
    wait_ms_max: int = 500
    # Rack of the client; empty: unknown (client.rack).
    rack: str = ""


class FetchSession:
    """The stream to one broker: partitions to add and remove, credit to grant."""

    def __init__(self, node_id: int, limits: FetchLimits) -> None:
        self.node_id = node_id
        self.limits = limits
        # Id of the open stream; None: closed.
        self.stream_id: int | None = None
        # Granted and not pushed yet.
        self.outstanding = 0
        # Pushed and not consumed yet; outlives the stream.
        self.held = 0
        # Partitions that the stream reads, with the token of their newest position.
        self.tokens: dict[PartitionKey, int] = {}
        self._positions: dict[PartitionKey, broker_service_pb2.FetchPosition] = {}
        self._removals: dict[PartitionKey, None] = {}
        self._settings_sent = False

    @property
    def is_open(self) -> bool:
        """True between ``opened`` and ``broken``."""
        return self.stream_id is not None

    def opened(self, stream_id: int) -> None:
        """A new stream: nothing is read on it and nothing is granted."""
        self.stream_id = stream_id
        self.outstanding = 0
        self._settings_sent = False
        self._removals.clear()

    def broken(self) -> None:
        """The stream is gone, and with it its partitions and the credit that it had."""
        self.stream_id = None
        self.outstanding = 0
        self.tokens.clear()
        self._positions.clear()
        self._removals.clear()

    def add(
        self,
        key: PartitionKey,
        token: int,
        offset: int,
        last_epoch: int | None,
        leader_epoch: int | None,
    ) -> None:
        """Read a partition from a position, or move it there."""
        self.tokens[key] = token
        self._removals.pop(key, None)
        self._positions[key] = broker_service_pb2.FetchPosition(
            topic_id=key[0],
            partition=key[1],
            token=token,
            offset=offset,
            last_epoch=last_epoch,
            leader_epoch=leader_epoch,
        )

    def remove(self, key: PartitionKey) -> None:
        """Read a partition no more; pushes on the way are dropped by their token."""
        if self.tokens.pop(key, None) is None:
            return
        self._positions.pop(key, None)
        if self.is_open:
            self._removals[key] = None

    def forget(self, key: PartitionKey) -> None:
        """The broker stopped reading a partition by itself (after an error)."""
        self.tokens.pop(key, None)
        self._positions.pop(key, None)

    def received(self, size: int) -> None:
        """A push of ``size`` bytes arrived; it is held until ``released``."""
        self.outstanding -= size
        self.held += size

    def released(self, size: int) -> None:
        """Held bytes were consumed or dropped."""
        if size > self.held:
            raise AssertionError(f"released {size} of {self.held} bytes")
        self.held -= size

    def take_request(self) -> broker_service_pb2.FetchRequest | None:
        """What to send now; None: nothing."""
        if not self.is_open:
            return None
        grant = self._grant()
        if not (grant or self._positions or self._removals):
            return None
        request = broker_service_pb2.FetchRequest(
            positions=self._positions.values(),
            removals=[
                broker_service_pb2.FetchRemoval(topic_id=topic_id, partition=partition)
                for topic_id, partition in self._removals
            ],
            credit_bytes=grant,
        )
        if not self._settings_sent:
            self._settings_sent = True
            limits = self.limits
            request.settings.CopyFrom(
                broker_service_pb2.FetchSettings(
                    max_partition_bytes=limits.partition_bytes_max,
                    min_bytes=limits.bytes_min,
                    max_wait_ms=limits.wait_ms_max,
                    rack=limits.rack,
                )
            )
        self._positions.clear()
        self._removals.clear()
        self.outstanding += grant
        return request

    def _grant(self) -> int:
        free = self.limits.window_bytes - self.outstanding - self.held
        if free <= 0:
            return 0
        # Small grants are saved up: each message costs the broker as much as a push.
        due = free * 4 >= self.limits.window_bytes
        if not self.held and self.outstanding < _BATCH_BYTES_MAX:
            due = True
        return free if due or self._positions else 0
