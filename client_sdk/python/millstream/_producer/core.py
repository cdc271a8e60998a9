"""What both producers are made of: accumulator and sender, wired, with the input conversions.

Pure wiring: the families add threads or tasks, locks and waiting.
"""

from collections.abc import Callable
from typing import Any, Protocol

from millstream._client.clock import Clock
from millstream._client.cluster import ClusterCache
from millstream._client.config import ProducerConfig
from millstream._client.retry import Chance
from millstream._errors import BufferFullError, MillstreamError, UnsupportedCodecError
from millstream._producer.accumulator import Accumulator, HeadersInput
from millstream._producer.batch import Batch, DeliveryCallback
from millstream._producer.sender import Sender
from millstream.record import CODEC_NUMBERS
from millstream.record import UnsupportedCodecError as CodecError
from millstream.record.compression import require_codec
from millstream.v1 import broker_service_pb2

_WIRE_ACKS = {
    0: broker_service_pb2.ACKS_NONE,
    1: broker_service_pb2.ACKS_LEADER,
    -1: broker_service_pb2.ACKS_ALL,
}
_TICK_MS_MIN, _TICK_MS_MAX = 10, 1_000


class Append(Protocol):
    """``Accumulator.append``, or what stands in its place."""

    def __call__(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: HeadersInput = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> Batch | None:
        """Append a record."""


class ProducerCore:
    """Accumulator and sender of one producer, and what follows from its configuration."""

    def __init__(
        self, config: ProducerConfig, cluster: ClusterCache, clock: Clock, chance: Chance
    ) -> None:
        try:
            require_codec(CODEC_NUMBERS[config.compression_type])
        except CodecError as error:
            raise UnsupportedCodecError(str(error)) from None
        self.config = config
        self.accumulator = Accumulator(config, clock, chance)
        self.sender = Sender(config, self.accumulator, cluster, chance)
        self.acks = int(_WIRE_ACKS[config.acks])
        self.codec = CODEC_NUMBERS[config.compression_type]
        # The broker gives up a little before the client does, so that its reason is known.
        self.wait_ms = max(1, config.request_timeout_ms * 9 // 10)
        # How often time-outs are looked at while records wait.
        shortest_ms = min(config.delivery_timeout_ms, config.request_timeout_ms)
        self.tick_ms = max(_TICK_MS_MIN, min(_TICK_MS_MAX, shortest_ms // 10))
        self.append: Append = self._appender()

    def _appender(self) -> Append:
        """The way in: without serialisers it is the accumulator's own method."""
        append = self.accumulator.append
        for_key, for_value = self.config.key_serializer, self.config.value_serializer
        if for_key is None and for_value is None:
            return append

        def serialize_and_append(
            topic: str,
            value: Any = None,
            key: Any = None,
            headers: HeadersInput = None,
            partition: int | None = None,
            timestamp_ms: int | None = None,
            on_delivery: DeliveryCallback | None = None,
        ) -> Batch | None:
            return append(
                topic,
                value if for_value is None else for_value(value),
                key if for_key is None else for_key(key),
                headers,
                partition,
                timestamp_ms,
                on_delivery,
            )

        return serialize_and_append

    def refuse(self, error: Callable[[], MillstreamError]) -> None:
        """Let every append raise from now on."""

        def refusing(
            topic: str,
            value: Any = None,
            key: Any = None,
            headers: HeadersInput = None,
            partition: int | None = None,
            timestamp_ms: int | None = None,
            on_delivery: DeliveryCallback | None = None,
        ) -> Batch | None:
            raise error()

        self.append = refusing

    def serialize_many(self, values: Any, keys: Any) -> tuple[Any, Any]:
        """The columns of a batch call, through the serialisers."""
        for_key, for_value = self.config.key_serializer, self.config.value_serializer
        if for_value is not None:
            values = list(map(for_value, values))
        if for_key is not None and keys is not None:
            keys = list(map(for_key, keys))
        return values, keys

    def buffer_full(self) -> BufferFullError:
        """The error for a send that found no room."""
        return BufferFullError(
            f"{self.accumulator.buffered} bytes wait for their acknowledgement,"
            f" buffer.memory is {self.config.buffer_memory}"
        )
