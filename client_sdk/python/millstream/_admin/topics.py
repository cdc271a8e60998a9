"""Admin flows about topics, their configuration and the cluster itself."""

from collections.abc import Iterable, Mapping

from millstream._admin.flow import Ask, Flow, Pause, RequestSession, for_each
from millstream._admin.types import (
    ClusterDescription,
    ConfigValue,
    NewTopic,
    QuorumDescription,
    QuorumNodeInfo,
)
from millstream._client import methods
from millstream._client.cluster import TopicInfo, node_from_proto, topic_from_proto
from millstream._errors import UnknownTopicError
from millstream.v1 import metadata_service_pb2 as pb

LINEARIZABLE = pb.ReadConsistency(linearizable=True)
_PAGE_SIZE = 1_000
_POLL_MS = 50
_SOURCES = {
    pb.CONFIG_SOURCE_TOPIC: "topic",
    pb.CONFIG_SOURCE_CLUSTER: "cluster",
    pb.CONFIG_SOURCE_DEFAULT: "default",
}


def create_topics(
    session: RequestSession, topics: Iterable[NewTopic | str], validate_only: bool
) -> Flow[list[TopicInfo]]:
    """Create topics."""

    def create(topic: NewTopic) -> Flow[TopicInfo]:
        answer = yield from session.write(
            methods.CREATE_TOPIC,
            lambda request_id: pb.CreateTopicRequest(
                request_id=request_id,
                name=topic.name,
                partition_count=topic.partitions,
                replication_factor=topic.replication_factor,
                configs={key: str(value) for key, value in topic.configs.items()},
                validate_only=validate_only,
            ),
        )
        return topic_from_proto(answer.topic)

    given = [NewTopic(topic) if isinstance(topic, str) else topic for topic in topics]
    return (yield from for_each(given, create))


def resolve(name: str) -> Flow[TopicInfo]:
    """A topic as it is after everything acknowledged before (a linearizable read).

    Names are resolved once, before the write, so that no retry meets a later topic of the name.
    """
    answer = yield Ask(
        methods.DESCRIBE_TOPICS,
        pb.DescribeTopicsRequest(names=[name], consistency=LINEARIZABLE),
    )
    return topic_from_proto(answer.topics[0])


def delete_topics(session: RequestSession, names: Iterable[str]) -> Flow[None]:
    """Delete topics."""

    def delete(name: str) -> Flow[None]:
        topic = yield from resolve(name)
        yield from session.write(
            methods.DELETE_TOPIC,
            lambda request_id: pb.DeleteTopicRequest(
                request_id=request_id, topic_id=topic.topic_id
            ),
        )

    yield from for_each(names, delete)


def list_topics(include_internal: bool) -> Flow[list[TopicInfo]]:
    """All topics, by name."""
    found: list[TopicInfo] = []
    token = ""
    while True:
        answer = yield Ask(
            methods.LIST_TOPICS,
            pb.ListTopicsRequest(
                page_size=_PAGE_SIZE,
                page_token=token,
                include_internal=include_internal,
                consistency=LINEARIZABLE,
            ),
        )
        found += map(topic_from_proto, answer.topics)
        token = answer.next_page_token
        if not token:
            return found


def describe_topics(names: Iterable[str]) -> Flow[list[TopicInfo]]:
    """The topics named, in that order."""
    return (yield from for_each(names, resolve))


def create_partitions(
    session: RequestSession, totals: Mapping[str, int], validate_only: bool
) -> Flow[list[TopicInfo]]:
    """Let topics grow to so many partitions."""

    def grow(name: str) -> Flow[TopicInfo]:
        topic = yield from resolve(name)
        answer = yield from session.write(
            methods.CREATE_PARTITIONS,
            lambda request_id: pb.CreatePartitionsRequest(
                request_id=request_id,
                topic_id=topic.topic_id,
                partition_count=totals[name],
                validate_only=validate_only,
            ),
        )
        return topic_from_proto(answer.topic)

    return (yield from for_each(totals, grow))


def describe_configs(names: Iterable[str]) -> Flow[dict[str, dict[str, ConfigValue]]]:
    """Every configuration key of the topics."""

    def describe(name: str) -> Flow[tuple[str, dict[str, ConfigValue]]]:
        answer = yield Ask(
            methods.DESCRIBE_CONFIGS,
            pb.DescribeConfigsRequest(topic=name, consistency=LINEARIZABLE),
        )
        return name, {
            entry.key: ConfigValue(
                entry.key, entry.value, _SOURCES.get(entry.source, ""), entry.documentation
            )
            for entry in answer.entries
        }

    return dict((yield from for_each(names, describe)))


def alter_configs(
    session: RequestSession,
    changes: Mapping[str, Mapping[str, object | None]],
    validate_only: bool,
) -> Flow[None]:
    """Set keys, or unset those given as None; per topic all of them or none."""

    def alter(name: str) -> Flow[None]:
        wanted = changes[name]
        yield from session.write(
            methods.ALTER_CONFIGS,
            lambda request_id: pb.AlterConfigsRequest(
                request_id=request_id,
                topic=name,
                set={
                    key: _config_text(value) for key, value in wanted.items() if value is not None
                },
                unset=[key for key, value in wanted.items() if value is None],
                validate_only=validate_only,
            ),
        )

    yield from for_each(changes, alter)


def _config_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe_cluster() -> Flow[ClusterDescription]:
    """The nodes and the controller."""
    answer = yield Ask(methods.DESCRIBE_CLUSTER, pb.DescribeClusterRequest())
    return ClusterDescription(
        answer.cluster_id,
        answer.controller_id if answer.HasField("controller_id") else None,
        answer.controller_epoch,
        tuple(map(node_from_proto, answer.nodes)),
        answer.version,
    )


def unregister_node(session: RequestSession, node_id: int) -> Flow[None]:
    """Forget a registration."""
    yield from session.write(
        methods.UNREGISTER_NODE,
        lambda request_id: pb.UnregisterNodeRequest(request_id=request_id, node_id=node_id),
    )


def describe_quorum() -> Flow[QuorumDescription]:
    """The metadata quorum."""
    answer = yield Ask(methods.DESCRIBE_QUORUM, pb.DescribeQuorumRequest())
    nodes = tuple(
        QuorumNodeInfo(
            node.node_id,
            node.address,
            node.last_index if node.HasField("last_index") else None,
            node.lag if node.HasField("lag") else None,
            node.connected,
        )
        for node in answer.nodes
    )
    leader_id = answer.leader_id if answer.HasField("leader_id") else None
    return QuorumDescription(leader_id, answer.term, answer.commit_index, nodes)


def wait_for_topics(names: Iterable[str]) -> Flow[list[TopicInfo]]:
    """Wait until the topics exist and all their partitions have leaders."""
    wanted = list(names)
    while True:
        try:
            answer = yield Ask(methods.DESCRIBE_TOPICS, pb.DescribeTopicsRequest(names=wanted))
        except UnknownTopicError:
            yield Pause(_POLL_MS)
            continue
        found = [topic_from_proto(topic) for topic in answer.topics]
        if all(p.leader_id is not None for topic in found for p in topic.partitions):
            return found
        yield Pause(_POLL_MS)
