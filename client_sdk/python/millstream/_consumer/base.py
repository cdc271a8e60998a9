"""What both consumers share: everything that needs no waiting.

Subclasses bring the network: ``_pump`` carries out what the core asks for, ``_guard`` keeps others
away from the core meanwhile.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from millstream._client.cluster import ClusterCache, ClusterChange
from millstream._client.config import ConsumerConfig
from millstream._consumer.core import ConsumerCore
from millstream._consumer.lookups import EARLIEST, LATEST
from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._consumer.subscription import Mode, parse_subscription
from millstream._errors import InvalidRequestError
from millstream._errors.status import from_reason
from millstream._fetch.partition import Mark
from millstream.v1 import broker_service_pb2

# A consumer that always has records lets others run, and looks at its session, this often.
BREATH_S = 0.01


class ConsumerBase(ABC):
    """See the module."""

    def __init__(self, config: ConsumerConfig, cluster: ClusterCache) -> None:
        self._core = ConsumerCore(config, cluster, from_reason)
        self._config = config

    # --- brought by subclasses ----------------------------------------------------------------

    @abstractmethod
    def _guard(self) -> AbstractContextManager[Any]:
        """Keep others away from the core."""

    @abstractmethod
    def _now_ms(self) -> int:
        """Monotonic time, milliseconds."""

    @abstractmethod
    def _pump(self) -> None:
        """Carry out what the core asks for."""

    def _on_cluster(self, change: ClusterChange) -> None:
        with self._guard():
            self._core.cluster_changed(change, self._now_ms())
            self._pump()

    # --- what is read -------------------------------------------------------------------------

    def subscribe(
        self,
        topics: Iterable[str] | str = (),
        *,
        pattern: "str | re.Pattern[str] | None" = None,
        listener: object = None,
    ) -> None:
        """Read topics, sharing their partitions with the other members of the group.

        Replaces an earlier subscription. ``pattern`` is a regular expression for whole names of
        topics; topics made later are read as well. ``listener`` has any of ``on_assign``,
        ``on_revoke``, ``on_lost``, see ``RebalanceListener``. Without ``group.id`` all partitions
        are read. Raises InvalidRequestError, also while partitions are assigned by hand.
        """
        names, text = parse_subscription(topics, pattern)
        with self._guard():
            self._core.subscribe(names, text, listener, self._now_ms())
            self._pump()

    def subscription(self) -> frozenset[str]:
        """The topics subscribed to by name."""
        return self._core.subscription.topics

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, sharing them with nobody.

        Each begins at the group's committed offset if there is a group, else where
        auto.offset.reset says, unless ``seek`` says otherwise. Raises InvalidRequestError while
        subscribed.
        """
        with self._guard():
            self._core.assign(partitions, self._now_ms())
            self._pump()

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are read now."""
        with self._guard():
            return self._core.assignment()

    # --- positions ----------------------------------------------------------------------------

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read a partition from an offset. Raises InvalidRequestError if it is not assigned."""
        if offset < 0:
            raise InvalidRequestError("offsets begin at 0")
        with self._guard():
            self._core.seek(partition, Mark(offset))
            self._pump()

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Read partitions (none given: all assigned) from their first record."""
        self._seek_by(partitions, EARLIEST)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Read partitions (none given: all assigned) from their end as it is now."""
        self._seek_by(partitions, LATEST)

    def seek_to_committed(self, *partitions: TopicPartition) -> None:
        """Read partitions (none given: all assigned) from the group's committed offsets."""
        self._seek_by(partitions, None)

    def seek_to_time(self, timestamp_ms: int, *partitions: TopicPartition) -> None:
        """Read partitions (none given: all assigned) from the first record at or after a time,
        milliseconds since 1970 UTC; from the end if no record is so new."""
        self._seek_by(partitions, broker_service_pb2.Position(timestamp_ms=timestamp_ms))

    def _seek_by(
        self, partitions: Iterable[TopicPartition], position: broker_service_pb2.Position | None
    ) -> None:
        with self._guard():
            for name in tuple(partitions) or tuple(self._core.assignment()):
                self._core.seek_by(name, position, self._now_ms())
            self._pump()

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these partitions until ``resume``; polling goes on."""
        with self._guard():
            self._core.set_paused(partitions, True)
            self._pump()

    def resume(self, *partitions: TopicPartition) -> None:
        """Hand out paused partitions again."""
        with self._guard():
            self._core.set_paused(partitions, False)
            self._pump()

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        with self._guard():
            partitions = self._core.fetcher.partitions
            return {name for name in self._core.assignment() if partitions[name].paused}

    def highwater(self, partition: TopicPartition) -> int | None:
        """Offset below which records may be read, as of the last push; None: not known yet."""
        with self._guard():
            return self._core.partition(partition).high_watermark

    def lag(self, partition: TopicPartition) -> int | None:
        """Records between the position and the high watermark; None: not known yet."""
        with self._guard():
            self._core.delivery.settle()
            found = self._core.partition(partition)
            if found.high_watermark is None or found.position is None:
                return None
            return max(0, found.high_watermark - found.position.offset)

    # --- for subclasses -------------------------------------------------------------------------

    def _position_of(self, name: TopicPartition) -> int | None:
        """The position; None: not known yet. Raises what is wrong with the partition."""
        self._core.delivery.settle()
        partition = self._core.partition(name)
        if partition.failure is not None:
            raise partition.failure
        return None if partition.position is None else partition.position.offset

    def _listener_method(self, name: str) -> Any:
        return getattr(self._core.subscription.listener, name, None)

    @property
    def _is_member(self) -> bool:
        return self._core.subscription.mode is Mode.GROUP


LISTENER_METHODS = {"assigned": "on_assign", "revoked": "on_revoke", "lost": "on_lost"}


def as_offsets(
    offsets: "Mapping[TopicPartition, int | OffsetAndMetadata] | None",
) -> dict[TopicPartition, OffsetAndMetadata] | None:
    """Offsets as the application gives them. Raises InvalidRequestError."""
    if offsets is None:
        return None
    out = {}
    for name, offset in offsets.items():
        given = offset if isinstance(offset, OffsetAndMetadata) else OffsetAndMetadata(offset)
        if given.offset < 0:
            raise InvalidRequestError("offsets begin at 0")
        if len(given.metadata.encode()) > 4096:
            raise InvalidRequestError("commit metadata is longer than 4096 bytes")
        out[TopicPartition(*name)] = given
    return out
