"""The consumer's questions about offsets: earliest, latest, by time, committed.

Pure.
"""

from collections.abc import Mapping, Sequence

from millstream._client.config import ConsumerConfig
from millstream._consumer.lookups import OffsetLookups
from millstream._consumer.record import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from millstream._errors import InvalidConfigError, MillstreamError, TimedOutError
from millstream._group.ownership import by_topic
from millstream.v1 import broker_service_pb2
from millstream.v1 import group_coordinator_service_pb2 as group_pb


class OffsetQueries:
    """One question about several partitions."""

    def __init__(self, positions: Mapping[TopicPartition, broker_service_pb2.Position]) -> None:
        self._positions = {TopicPartition(*name): one for name, one in positions.items()}
        self._answers: dict[TopicPartition, broker_service_pb2.OffsetAnswer] = {}
        self._errors: dict[TopicPartition, MillstreamError] = {}

    @property
    def topics(self) -> list[str]:
        """The topics asked about."""
        return sorted({name.topic for name in self._positions})

    def begin(self, lookups: OffsetLookups, now_ms: int, deadline_ms: int) -> None:
        """Ask."""
        for name, position in self._positions.items():
            self._ask(lookups, name, position, now_ms, deadline_ms)

    def _ask(
        self,
        lookups: OffsetLookups,
        name: TopicPartition,
        position: broker_service_pb2.Position,
        now_ms: int,
        deadline_ms: int,
    ) -> None:
        def found(
            answer: broker_service_pb2.OffsetAnswer | None, error: MillstreamError | None
        ) -> None:
            if answer is not None:
                self._answers[name] = answer
            elif error is not None:
                self._errors[name] = error

        lookups.add(name, b"", position, found, now_ms, deadline_ms)

    @property
    def done(self) -> bool:
        """True if every partition has its answer or its error."""
        return len(self._answers) + len(self._errors) == len(self._positions)

    def check(self) -> None:
        """Raise the first error; TimedOutError if nobody has answered for a partition yet."""
        for error in self._errors.values():
            raise error
        for name in self._positions:
            if name not in self._answers:
                raise TimedOutError(
                    f"no offset of {name.topic}/{name.partition} in time", indeterminate=False
                )

    def offsets(self) -> dict[TopicPartition, int]:
        """The answers to questions for earliest or latest."""
        return {name: self._answers[name].offset for name in self._positions}

    def times(self) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The answers to questions by time."""
        out: dict[TopicPartition, OffsetAndTimestamp | None] = {}
        for name in self._positions:
            answer = self._answers[name]
            out[name] = (
                OffsetAndTimestamp(answer.offset, answer.timestamp_ms, answer.leader_epoch)
                if answer.HasField("offset")
                else None
            )
        return out


def committed_request(
    config: ConsumerConfig, names: Sequence[TopicPartition]
) -> tuple[str, group_pb.FetchOffsetsRequest]:
    """(group id, request) for the committed offsets. Raises InvalidConfigError without a group."""
    if not config.group_id:
        raise InvalidConfigError("committed offsets need group.id")
    partitions = by_topic({TopicPartition(*name): b"" for name in names})
    return config.group_id, group_pb.FetchOffsetsRequest(
        group_id=config.group_id, partitions=partitions
    )


def read_committed(
    names: Sequence[TopicPartition], answer: group_pb.FetchOffsetsResponse
) -> dict[TopicPartition, OffsetAndMetadata | None]:
    """The committed offsets by partition; None: there is none."""
    known = {
        TopicPartition(one.topic, one.partition): OffsetAndMetadata(
            one.offset,
            one.metadata,
            one.leader_epoch if one.HasField("leader_epoch") else None,
        )
        for one in answer.offsets
    }
    return {TopicPartition(*name): known.get(TopicPartition(*name)) for name in names}
