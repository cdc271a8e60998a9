"""The operator of the simulated cluster: makes topics, and changes them while faults strike."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from millstream._client import methods
from millstream._client.async_io import AsyncClient
from millstream._client.config import ClientConfig
from millstream._errors import MillstreamError
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import metadata_service_pb2 as metadata
from tests.simulation.world.clients import client_process, opener
from tests.simulation.world.plan import Fault, TopicPlan
from tests.simulation.world.world import World

_RETRY_S = 0.25
# What a write is told that took effect before, unless it is known by its request id.
_EXECUTED_TWICE = frozenset({"TOPIC_ALREADY_EXISTS", "UNKNOWN_TOPIC"})


class Operator:
    """A client with the SDK's own calls; what they do is counted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.process = client_process(world, "admin")
        self.made: set[str] = set()
        # Offsets below which records were asked to be deleted, by topic and partition.
        self.deleted_below: dict[tuple[str, int], int] = {}
        self._churned = 0
        self._client = AsyncClient(
            ClientConfig.resolve(
                None,
                bootstrap_servers=",".join(one.address for one in world.brokers),
                default_api_timeout_ms=20_000,
            ),
            clock=self.process,
            chance=self.process.random,
            open_channel=opener(world, self.process),
        )

    def create(self, topic: TopicPlan) -> None:
        """Make a topic, however often that takes."""
        self.process.spawn(self._create(topic))

    async def _create(self, topic: TopicPlan) -> None:
        request = metadata.CreateTopicRequest(
            name=topic.name,
            partition_count=topic.partitions,
            replication_factor=topic.replication_factor,
            configs=dict(topic.configs),
        )
        while topic.name not in self.made:
            try:
                await self._client.start()
                await self._client.call(methods.CREATE_TOPIC, request)
                self.made.add(topic.name)
            except MillstreamError as error:
                if error.code == "TOPIC_ALREADY_EXISTS":
                    self.made.add(topic.name)
                await asyncio.sleep(_RETRY_S)

    def churn(self) -> None:
        """Create a topic, delete it and create another under its name."""
        self._churned += 1
        self.process.spawn(self._churn(f"churn{self._churned}"))

    async def _churn(self, name: str) -> None:
        """Each write has a request id: however often it is tried on the way, it takes effect once,
        and nobody else touches the name (rule 1b)."""
        opening = metadata.OpenRequestSessionRequest()
        sequence = 0
        try:
            opened = await self._client.call(methods.OPEN_REQUEST_SESSION, opening)
            for _ in range(2):
                created = await self._client.call(
                    methods.CREATE_TOPIC,
                    metadata.CreateTopicRequest(
                        request_id=_request_id(opened, sequence + 1),
                        name=name,
                        partition_count=1,
                        replication_factor=1,
                    ),
                )
                await self._client.call(
                    methods.DELETE_TOPIC,
                    metadata.DeleteTopicRequest(
                        request_id=_request_id(opened, sequence + 2),
                        topic_id=created.topic.topic_id,
                    ),
                )
                sequence += 2
                self._world.count("topics_churned")
        except MillstreamError as error:
            self._world.count(f"admin_error_{error.code}")
            if error.code in _EXECUTED_TWICE:
                self._world.decisions.found.append(("executed-twice", f"{name}: {error}"))

    def elect_preferred(self) -> None:
        """Bring every partition to the first of its replicas."""
        self.process.spawn(self._elect())

    async def _elect(self) -> None:
        request = metadata.ElectLeadersRequest(kind=metadata.ELECTION_KIND_PREFERRED)
        if await self._try(self._client.call(methods.ELECT_LEADERS, request)):
            self._world.count("preferred_elections")

    def drain(self, node_id: int) -> None:
        """Move leaders away from a broker, which runs on."""
        self.process.spawn(self._drain(node_id))

    async def _drain(self, node_id: int) -> None:
        request = metadata.DrainBrokerRequest(node_id=node_id)
        if await self._try(self._client.call(methods.DRAIN_BROKER, request)):
            self._world.count("drains")

    def elect_unclean(self, topic_id: bytes, partition: int) -> None:
        """Give a partition a leader although acknowledged records may be lost."""
        self.process.spawn(self._elect_unclean(topic_id, partition))

    async def _elect_unclean(self, topic_id: bytes, partition: int) -> None:
        request = metadata.ElectLeadersRequest(kind=metadata.ELECTION_KIND_UNCLEAN)
        request.partitions.add(topic_id=topic_id, partition=partition)
        if await self._try(self._client.call(methods.ELECT_LEADERS, request)):
            self._world.count("unclean_elections")

    def reassign(self, topic: TopicPlan, fault: Fault, *, leaves: int | None = None) -> None:
        """Have a partition replicated by other brokers, in another order; ``leaves`` is none of
        them."""
        brokers = [one.node_id for one in self._world.brokers if one.node_id != leaves]
        begin = fault.second % len(brokers)
        ring = brokers[begin:] + brokers[:begin]
        replicas = ring[: 2 if fault.amount < 0.5 else 3]
        self.process.spawn(self._reassign(topic, fault.first % topic.partitions, replicas))

    async def _reassign(self, topic: TopicPlan, partition: int, replicas: list[int]) -> None:
        try:
            topic_id = (await self._client.topic(topic.name)).topic_id
        except MillstreamError as error:
            self._world.count(f"admin_error_{error.code}")
            return
        request = metadata.AlterPartitionReassignmentsRequest()
        request.partitions.add(topic_id=topic_id, partition=partition, replica_ids=replicas)
        call = self._client.call(methods.ALTER_PARTITION_REASSIGNMENTS, request)
        if await self._try(call):
            self._world.count("reassignments")

    def move_leader(self, topic: TopicPlan, fault: Fault) -> None:
        """Have a partition led by another of its replicas, while all of them run."""
        self.process.spawn(self._move_leader(topic, fault.first % topic.partitions, fault.second))

    async def _move_leader(self, topic: TopicPlan, partition: int, number: int) -> None:
        image = self._world.decisions.newest
        known = image.topic(topic.name) if image is not None else None
        if known is None:
            return
        replicas = list(known.partitions[partition].replicas)
        begin = 1 + number % max(1, len(replicas) - 1)
        ring = replicas[begin:] + replicas[:begin]
        await self._reassign(topic, partition, ring)
        await self._elect()

    def delete_records(self, topic: TopicPlan, fault: Fault) -> None:
        """Have the log of a partition begin later, at times at its end."""
        partition = fault.first % topic.partitions
        # The offset right after what is kept, as a part of all that there is.
        part = min(1.0, fault.amount * 1.5)
        self.process.spawn(self._delete_records(topic.name, partition, part))

    async def _delete_records(self, topic: str, partition: int, part: float) -> None:
        asked = broker.ListOffsetsRequest()
        asked.queries.add(topic=topic, partition=partition, position=broker.Position(latest=True))
        try:
            (found,) = (await self._client.call(methods.LIST_OFFSETS, asked)).answers
        except MillstreamError as error:
            self._world.count(f"admin_error_{error.code}")
            return
        before = int(found.offset * part)
        if found.error or not before:
            return
        # From now on: the answer may get lost.
        key = (topic, partition)
        self.deleted_below[key] = max(before, self.deleted_below.get(key, 0))
        request = broker.DeleteRecordsRequest()
        request.deletions.add(topic=topic, partition=partition, before_offset=before)
        if await self._try(self._client.call(methods.DELETE_RECORDS, request)):
            self._world.count("deletions")

    async def _try(self, call: Awaitable[object]) -> bool:
        try:
            await call
        except MillstreamError as error:
            self._world.count(f"admin_error_{error.code}")
            return False
        return True


def _request_id(session: Any, sequence: int) -> metadata.RequestId:
    return metadata.RequestId(session_id=session.session_id, sequence=sequence)
