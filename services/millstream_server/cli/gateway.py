"""What the commands ask of the SDK, as documents. The one module that knows the SDK's answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from millstream_server.cli.documents import document
from millstream_server.cli.invocation import Invocation
from millstream_server.cli.positions import StartPosition

if TYPE_CHECKING:
    from millstream import Admin

Place = tuple[str, int]


def describe_cluster(admin: "Admin") -> dict[str, Any]:
    """The nodes of the cluster."""
    return _record(admin.describe_cluster())


def describe_quorum(admin: "Admin") -> dict[str, Any]:
    """The metadata quorum."""
    return _record(admin.describe_quorum())


def list_topics(admin: "Admin", *, include_internal: bool) -> list[dict[str, Any]]:
    """All topics, whole, by name."""
    return [_record(topic) for topic in admin.list_topics(include_internal=include_internal)]


def describe_topics(admin: "Admin", names: Sequence[str]) -> list[dict[str, Any]]:
    """Topics by name, in order. Raises UnknownTopicError."""
    return [_record(topic) for topic in admin.describe_topics(list(names))]


def create_topic(
    admin: "Admin",
    name: str,
    partitions: int,
    replicas: int,
    configs: Mapping[str, str],
    *,
    validate_only: bool,
) -> dict[str, Any]:
    """Create a topic; zeros stand for the cluster's defaults."""
    from millstream import NewTopic

    wanted = NewTopic(
        name, partitions=partitions, replication_factor=replicas, configs=dict(configs)
    )
    (topic,) = admin.create_topics([wanted], validate_only=validate_only)
    return _record(topic)


def delete_topics(admin: "Admin", names: Sequence[str]) -> None:
    """Delete topics by name."""
    admin.delete_topics(list(names))


def create_partitions(admin: "Admin", name: str, total: int, *, validate_only: bool) -> None:
    """Let a topic have ``total`` partitions."""
    admin.create_partitions({name: total}, validate_only=validate_only)


def describe_configs(admin: "Admin", topic: str) -> list[dict[str, Any]]:
    """Every configuration key of a topic."""
    (entries,) = admin.describe_configs([topic]).values()
    return [_record(entry) for entry in entries]


def alter_configs(
    admin: "Admin",
    topic: str,
    changes: Mapping[str, str],
    unset: Sequence[str],
    *,
    validate_only: bool,
) -> None:
    """Set and unset keys of a topic, all or none."""
    admin.alter_configs(topic, set=dict(changes), unset=list(unset), validate_only=validate_only)


def delete_records(admin: "Admin", before: Mapping[Place, int]) -> list[dict[str, Any]]:
    """Move the starts of logs forward; the new starts."""
    from millstream import TopicPartition

    targets = {TopicPartition(*place): offset for place, offset in before.items()}
    return [
        {"topic": place.topic, "partition": place.partition, "logStartOffset": start}
        for place, start in admin.delete_records(targets).items()
    ]


def list_groups(admin: "Admin") -> list[dict[str, Any]]:
    """All groups, by id."""
    found = [_record(group) for group in admin.list_groups()]
    return sorted(found, key=lambda group: str(group["groupId"]))


def describe_group(admin: "Admin", group: str) -> dict[str, Any]:
    """A group with its members. Raises UnknownGroupError."""
    (found,) = admin.describe_groups([group])
    return _record(found)


def delete_groups(admin: "Admin", groups: Sequence[str]) -> None:
    """Delete groups with their offsets."""
    admin.delete_groups(list(groups))


def committed_offsets(admin: "Admin", group: str) -> dict[Place, dict[str, Any]]:
    """Everything that the group has committed."""
    return {
        (place.topic, place.partition): _record(found)
        for place, found in admin.list_group_offsets(group).items()
    }


def reset_offsets(admin: "Admin", group: str, offsets: Mapping[Place, int]) -> None:
    """Move committed offsets of a group without members."""
    from millstream import TopicPartition

    admin.reset_group_offsets(
        group, {TopicPartition(*place): offset for place, offset in offsets.items()}
    )


def delete_offsets(admin: "Admin", group: str, places: Iterable[Place]) -> None:
    """Forget committed offsets."""
    from millstream import TopicPartition

    admin.delete_group_offsets(group, [TopicPartition(*place) for place in places])


def log_bounds(invocation: Invocation, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """First offset and high watermark of partitions."""
    from millstream import TopicPartition

    if not places:
        return {}
    partitions = [TopicPartition(*place) for place in places]
    with invocation.consumer({}) as consumer:
        begins = consumer.beginning_offsets(partitions)
        ends = consumer.end_offsets(partitions)
    return {
        (each.topic, each.partition): (begins[each], ends[each])
        for each in partitions
        if each in begins and each in ends
    }


def offsets_at(
    invocation: Invocation, places: Sequence[Place], timestamp_ms: int
) -> dict[Place, int | None]:
    """First offset at or after a time; None where no record is as new."""
    from millstream import TopicPartition

    partitions = [TopicPartition(*place) for place in places]
    with invocation.consumer({}) as consumer:
        found = consumer.offsets_for_times(dict.fromkeys(partitions, timestamp_ms))
    out: dict[Place, int | None] = {}
    for each in partitions:
        at_time = found.get(each)
        out[each.topic, each.partition] = None if at_time is None else at_time.offset
    return out


def resolve_positions(
    invocation: Invocation, places: Sequence[Place], position: StartPosition
) -> dict[Place, int]:
    """The offset of a position in each partition."""
    bounds = log_bounds(invocation, places)
    at_time: dict[Place, int | None] = {}
    if position.kind == "time":
        at_time = offsets_at(invocation, places, position.number)
    return {
        place: position.resolve(begin, end, at_time.get(place))
        for place, (begin, end) in bounds.items()
    }


def _record(value: Any) -> dict[str, Any]:
    made: dict[str, Any] = document(value)
    return made
