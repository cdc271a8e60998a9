"""What the commands ask of the SDK, as documents. The one module that knows the SDK's answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from millstream_server.cli.documents import document
from millstream_server.cli.positions import StartPosition

if TYPE_CHECKING:
    from millstream import Admin, OffsetSpec

Place = tuple[str, int]


def describe_cluster(admin: "Admin") -> dict[str, Any]:
    """The nodes of the cluster."""
    return _record(admin.describe_cluster())


def describe_quorum(admin: "Admin") -> dict[str, Any]:
    """The metadata quorum."""
    return _record(admin.describe_quorum())


def unregister_node(admin: "Admin", node_id: int) -> None:
    """Forget a registration. Raises UnknownNodeError or NodeInUseError."""
    admin.unregister_node(node_id)


def describe_brokers(admin: "Admin") -> list[dict[str, Any]]:
    """The brokers with what they hold, by id."""
    found = [_record(broker) for broker in admin.describe_brokers()]
    return [{**broker.pop("node"), **broker} for broker in found]


def drain_broker(admin: "Admin", node_id: int) -> None:
    """Move leaders and shards away from a node. Raises UnknownNodeError."""
    admin.drain_broker(node_id)


def decommission_broker(admin: "Admin", node_id: int, *, cancel: bool) -> int:
    """Begin to empty a broker, or stop; how many replicas it has. Raises UnknownNodeError or
    InvalidReplicationFactorError."""
    return admin.decommission_broker(node_id, cancel=cancel)


def elect_leaders(
    admin: "Admin", kind: str, places: Mapping[Place, int | None] | None
) -> list[dict[str, Any]]:
    """Elect leaders of the places, or of all that need it; the leaders elected."""
    from millstream import TopicPartition

    wanted = None
    if places is not None:
        wanted = {TopicPartition(*place): replica for place, replica in places.items()}
    elected = admin.elect_leaders(kind, wanted)
    return [
        {"topic": place.topic, "partition": place.partition, "leaderId": leader_id}
        for place, leader_id in elected.items()
    ]


def reassign(
    admin: "Admin",
    targets: Mapping[Place, Sequence[int] | int | None],
    throttle_bytes_per_s: int | None,
    *,
    validate_only: bool,
) -> list[dict[str, Any]]:
    """Move partitions to brokers, to a number of them, or (None) stop; the replicas in the end."""
    from millstream import TopicPartition

    replicas = admin.alter_partition_reassignments(
        {TopicPartition(*place): target for place, target in targets.items()},
        throttle_bytes_per_s=throttle_bytes_per_s,
        validate_only=validate_only,
    )
    return [
        {"topic": place.topic, "partition": place.partition, "replicaIds": list(ids)}
        for place, ids in replicas.items()
    ]


def reassignments(admin: "Admin", topics: Sequence[str]) -> dict[str, Any]:
    """The partitions that are being moved, of the topics (none: all), and the throttle."""
    return _record(admin.list_partition_reassignments(list(topics)))


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
    entries = admin.describe_configs([topic])[topic]
    return [_record(entries[key]) for key in sorted(entries)]


def alter_configs(
    admin: "Admin",
    topic: str,
    changes: Mapping[str, str],
    unset: Sequence[str],
    *,
    validate_only: bool,
) -> None:
    """Set and unset keys of a topic, all or none."""
    wanted: dict[str, object | None] = {**changes, **dict.fromkeys(unset)}
    admin.alter_configs({topic: wanted}, validate_only=validate_only)


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
    return [_record(group) for group in admin.list_groups()]


def describe_group(admin: "Admin", group: str) -> dict[str, Any]:
    """A group with its members. Raises UnknownGroupError."""
    (found,) = admin.describe_groups([group])
    made = _record(found)
    for member in made["members"]:
        for name in ("owned", "target"):
            member[name] = _by_topic(member[name])
    return made


def _by_topic(places: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Partitions as the proto groups them: one entry per topic."""
    numbers: dict[str, list[int]] = {}
    for place in places:
        numbers.setdefault(place["topic"], []).append(place["partition"])
    return [{"topic": topic, "partitions": sorted(of)} for topic, of in numbers.items()]


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


def log_bounds(admin: "Admin", places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    """First offset and high watermark of partitions; those that cannot be read now are left
    out."""
    from millstream import OffsetSpec

    begins = _list_offsets(admin, places, OffsetSpec.earliest())
    ends = _list_offsets(admin, places, OffsetSpec.latest())
    out: dict[Place, tuple[int, int]] = {}
    for place in places:
        begin, end = begins.get(place), ends.get(place)
        if begin is not None and end is not None:
            out[place] = (begin, end)
    return out


def offsets_at(
    admin: "Admin", places: Sequence[Place], timestamp_ms: int
) -> dict[Place, int | None]:
    """First offset at or after a time; None where no record is as new."""
    from millstream import OffsetSpec

    return _list_offsets(admin, places, OffsetSpec.at(timestamp_ms))


def _list_offsets(
    admin: "Admin", places: Sequence[Place], spec: "OffsetSpec"
) -> dict[Place, int | None]:
    """Look offsets up; partitions that fail are left out, if not all do. Raises the error then."""
    from millstream import MillstreamError, TopicPartition

    wanted = [TopicPartition(*place) for place in places]
    while wanted:
        try:
            found = admin.list_offsets(dict.fromkeys(wanted, spec))
        except MillstreamError as error:
            failed = getattr(error, "failures", None) or {}
            left = [place for place in wanted if place not in failed]
            if not left or len(left) == len(wanted):
                raise
            wanted = left
            continue
        return {(each.topic, each.partition): info.offset for each, info in found.items()}
    return {}


def resolve_positions(
    admin: "Admin", places: Sequence[Place], position: StartPosition
) -> dict[Place, int]:
    """The offset of a position in each partition."""
    bounds = log_bounds(admin, places)
    at_time: dict[Place, int | None] = {}
    if position.kind == "time":
        at_time = offsets_at(admin, places, position.number)
    return {
        place: position.resolve(begin, end, at_time.get(place))
        for place, (begin, end) in bounds.items()
    }


def _record(value: Any) -> dict[str, Any]:
    made: dict[str, Any] = document(value)
    return made
