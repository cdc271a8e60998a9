"""From topic names to the brokers that lead: what every call of any broker needs first."""

from millstream_raft.image import Image, PartitionState, TopicState
from millstream_server.broker.config import BrokerConfig
from millstream_server.cluster.metadata_plane import NodePlane
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as controller_pb


class Routing:
    """Resolves names once, at the edge; creates topics where that is switched on."""

    def __init__(self, config: BrokerConfig, node_id: int, cluster: NodePlane) -> None:
        self._config = config
        self.node_id = node_id
        self._cluster = cluster

    @property
    def image(self) -> Image:
        """The newest image known here."""
        return self._cluster.image

    def topic(self, name: str) -> TopicState:
        """The topic of a name. Raises ServiceError UNKNOWN_TOPIC."""
        topic = self.image.topic(name)
        if topic is None:
            raise ServiceError("UNKNOWN_TOPIC", f"there is no topic {name!r}", {"topic": name})
        return topic

    def partition(self, topic: TopicState, number: int) -> PartitionState:
        """A partition of a topic. Raises ServiceError UNKNOWN_PARTITION."""
        if number >= len(topic.partitions):
            raise ServiceError(
                "UNKNOWN_PARTITION",
                f"topic {topic.name!r} has {len(topic.partitions)} partitions, not one numbered "
                f"{number}",
                {"topic": topic.name, "partition": str(number)},
            )
        return topic.partitions[number]

    def leader(self, topic: TopicState, number: int) -> int:
        """Node id of the leader. Raises ServiceError LEADER_NOT_AVAILABLE, UNKNOWN_PARTITION."""
        leader_id = self.partition(topic, number).leader_id
        if leader_id is None:
            raise ServiceError(
                "LEADER_NOT_AVAILABLE",
                f"partition {number} of topic {topic.name!r} has no leader at present",
                {"topic": topic.name, "partition": str(number)},
            )
        return leader_id

    def remote_leader(self, topic: TopicState, number: int, forwarded: bool) -> int | None:
        """The leader to forward to, None if it is this node. A call is forwarded once only."""
        leader_id = self.leader(topic, number)
        if leader_id == self.node_id:
            return None
        if forwarded:
            raise ServiceError(
                "NOT_LEADER",
                f"node {leader_id} leads partition {number} of topic {topic.name!r}",
                {"topic": topic.name, "partition": str(number)},
            )
        return leader_id

    async def create(self, name: str) -> TopicState:
        """Create a topic with the cluster's defaults, if that is switched on.

        Raises ServiceError UNKNOWN_TOPIC, INVALID_TOPIC_NAME, or what the controller answers.
        """
        if not self._config.auto_create_topics:
            return self.topic(name)
        wait_ms = self._config.leader_wait_ms
        response = await self._cluster.execute(
            controller_pb.ExecuteRequest(
                auto_create_topic=controller_pb.AutoCreateTopic(name=name)
            ),
            timeout_ms=wait_ms,
        )
        await self._cluster.wait_for_version(response.version, timeout_ms=wait_ms)
        return self.topic(name)
