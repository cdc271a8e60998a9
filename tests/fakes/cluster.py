"""A cluster that is what the test says: an image changed by hand, sessions that end on demand."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from millstream_raft.delta import Delta, delta_between
from millstream_raft.image import (
    EMPTY_IMAGE,
    OFFSETS_TOPIC,
    Image,
    NodeState,
    PartitionState,
    ShardLease,
    TopicState,
)
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb


class FakeMetadata:
    """The image shared by the fake views of several nodes."""

    def __init__(self) -> None:
        self.image = replace(EMPTY_IMAGE, version=1, cluster_id="test")
        self.views: list[FakeClusterView] = []
        # What to answer to the next proposals; set ``hold_alter`` to keep answers back.
        self.alter_refusals: list[str | ServiceError] = []
        self.hold_alter: asyncio.Event | None = None
        self._topics = 0

    def view(self, node_id: int) -> "FakeClusterView":
        """The view of a node."""
        view = FakeClusterView(self, node_id)
        self.views.append(view)
        return view

    def change(self, image: Image, *, reset: bool = False) -> None:
        """Take one step to another image and tell every view."""
        delta = delta_between(self.image, replace(image, version=self.image.version + 1))
        self.image = delta.image
        for view in self.views:
            view.tell(replace(delta, reset=reset))

    def register(self, node_id: int, port: int, epoch: int = 1) -> None:
        """A broker registers."""
        node = NodeState(
            node_id=node_id,
            epoch=epoch,
            incarnation_id=bytes(16),
            roles=frozenset({"broker"}),
            host="127.0.0.1",
            port=port,
            rack="",
            version="test",
            directory_id=bytes(16),
            fenced=False,
        )
        self.change(replace(self.image, nodes={**self.image.nodes, node_id: node}))

    def create_topic(
        self,
        name: str,
        leaders: list[int],
        configs: Mapping[str, str] | None = None,
        replicas: list[tuple[int, ...]] | None = None,
    ) -> bytes:
        """A topic with one partition per leader given, all replicas in sync; returns its id."""
        self._topics += 1
        topic_id = self._topics.to_bytes(16, "big")
        configs = dict(configs or {})
        topic = TopicState(
            name=name,
            topic_id=topic_id,
            internal=name == OFFSETS_TOPIC,
            configs=configs,
            partitions=tuple(
                PartitionState(
                    number=number,
                    leader_id=leader,
                    leader_epoch=1,
                    partition_epoch=0,
                    replicas=replicas[number] if replicas is not None else (leader,),
                    isr=replicas[number] if replicas is not None else (leader,),
                    flush_mode=configs.get("flush.mode", "fsync"),
                )
                for number, leader in enumerate(leaders)
            ),
        )
        image = replace(
            self.image,
            topics={**self.image.topics, topic_id: topic},
            topic_ids={**self.image.topic_ids, name: topic_id},
        )
        if topic.internal:
            shards = tuple(ShardLease(n, None, 0, 9000 + n) for n in range(len(leaders)))
            image = replace(image, shards=shards)
        self.change(image)
        return topic_id

    def delete_topic(self, name: str) -> None:
        """A topic is deleted."""
        topic_id = self.image.topic_ids[name]
        self.change(
            replace(
                self.image,
                topics={key: topic for key, topic in self.image.topics.items() if key != topic_id},
                topic_ids={
                    key: value for key, value in self.image.topic_ids.items() if key != name
                },
            )
        )

    def change_partition(self, name: str, number: int, **changes: object) -> None:
        """Change one partition; its partition epoch is stepped."""
        topic = self.image.topics[self.image.topic_ids[name]]
        old = topic.partitions[number]
        new = replace(old, partition_epoch=old.partition_epoch + 1, **changes)
        partitions = (*topic.partitions[:number], new, *topic.partitions[number + 1 :])
        self.put_topic(replace(topic, partitions=partitions))

    async def alter_partitions(self, request: pb.AlterPartitions) -> pb.ExecuteResponse:
        """What the controller does with proposals, but for its rules: the partition epoch
        counts. ``alter_refusals`` go first: a reason, or an error for the whole request."""
        if self.hold_alter is not None:
            await self.hold_alter.wait()
        answers = pb.AlteredPartitions()
        for proposal in request.proposals:
            answer = answers.partitions.add(
                topic_id=proposal.topic_id, partition=proposal.partition
            )
            refusal = self.alter_refusals.pop(0) if self.alter_refusals else ""
            if isinstance(refusal, ServiceError):
                raise refusal
            topic = self.image.topics[proposal.topic_id]
            state = topic.partitions[proposal.partition]
            if not refusal and proposal.partition_epoch != state.partition_epoch:
                refusal = "INVALID_UPDATE_VERSION"
            answer.reason = refusal
            if not refusal:
                members = tuple(member.node_id for member in proposal.members)
                self.change_partition(topic.name, state.number, isr=members, recovering=False)
        return pb.ExecuteResponse(version=self.image.version, altered_partitions=answers)

    def change_node(self, node_id: int, **changes: object) -> None:
        """Change a registration."""
        node = replace(self.image.nodes[node_id], **changes)  # type: ignore[arg-type]
        self.change(replace(self.image, nodes={**self.image.nodes, node_id: node}))

    def put_topic(self, topic: TopicState) -> None:
        """Replace a topic."""
        self.change(replace(self.image, topics={**self.image.topics, topic.topic_id: topic}))


class FakeClusterView:
    """A ``NodePlane`` of one node."""

    def __init__(self, metadata: FakeMetadata, node_id: int) -> None:
        self._metadata = metadata
        self._subscribers: list[Callable[[Delta], None]] = []
        self.node_id = node_id
        self.session = True
        self.drained = False
        self.offline_reported = False
        self.executed: list[pb.ExecuteRequest] = []
        # Leaders of topics that are created automatically; empty: refused.
        self.auto_create_leaders: list[int] = []

    @property
    def image(self) -> Image:
        """See ``NodePlane``."""
        return self._metadata.image

    @property
    def node_epoch(self) -> int:
        """See ``NodePlane``."""
        node = self.image.node(self.node_id)
        return node.epoch if node is not None else 0

    def tell(self, delta: Delta) -> None:
        """The image changed."""
        for subscriber in list(self._subscribers):
            subscriber(delta)

    def subscribe(self, subscriber: Callable[[Delta], None]) -> Callable[[], None]:
        """See ``NodePlane``."""
        self._subscribers.append(subscriber)
        subscriber(delta_between(EMPTY_IMAGE, self.image))
        return lambda: self._subscribers.remove(subscriber)

    async def wait_for_version(self, version: int, *, timeout_ms: int | None = None) -> Image:
        """See ``NodePlane``."""
        return self.image

    async def execute(
        self, request: pb.ExecuteRequest, *, timeout_ms: int | None = None
    ) -> pb.ExecuteResponse:
        """See ``NodePlane``."""
        self.executed.append(request)
        if request.HasField("alter_partitions"):
            return await self._metadata.alter_partitions(request.alter_partitions)
        if not request.HasField("auto_create_topic"):
            return pb.ExecuteResponse(version=self.image.version)
        if not self.auto_create_leaders:
            raise ServiceError("UNKNOWN_TOPIC", "auto-creation is off")
        self._metadata.create_topic(request.auto_create_topic.name, self.auto_create_leaders)
        return pb.ExecuteResponse(version=self.image.version)

    async def read_barrier(self, *, timeout_ms: int | None = None) -> Image:
        """See ``NodePlane``."""
        return self.image

    async def describe_quorum(self) -> pb.DescribeQuorumResponse:
        """See ``NodePlane``."""
        return pb.DescribeQuorumResponse()

    def in_touch(self) -> bool:
        """See ``MetadataPlane``."""
        return self.session

    def in_session(self) -> bool:
        """See ``NodePlane``."""
        return self.session

    async def wait_registered(self, *, timeout_ms: int | None = None) -> int:
        """See ``NodePlane``."""
        return self.node_epoch

    async def drain(self, *, timeout_ms: int) -> bool:
        """See ``NodePlane``."""
        self.drained = True
        return True

    def report_log_dir_offline(self) -> None:
        """See ``NodePlane``."""
        self.offline_reported = True
