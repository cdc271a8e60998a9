"""The public ``MetadataService``: every node serves it from its own image and forwards writes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from millstream.v1 import metadata_service_pb2 as public
from millstream.v1 import metadata_service_pb2_grpc as public_grpc
from millstream_raft import topic_config
from millstream_raft.delta import Delta
from millstream_raft.image import Image, shard_of_group
from millstream_server.cluster import audit, replica_listing
from millstream_server.cluster.cluster_watch import ClusterWatch
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.metadata_plane import MetadataPlane
from millstream_server.cluster.public_messages import node_message, node_messages, topic_message
from millstream_server.cluster.topic_lookup import topic_by_id, topic_by_name
from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.v1 import controller_service_pb2 as pb

SERVICE_NAME = public.DESCRIPTOR.services_by_name["MetadataService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
_PAGE_SIZE_DEFAULT = 1_000
_PAGE_SIZE_MAX = 10_000
_GROUP_ID_BYTES_MAX = 255
_DESCRIBED_TOPICS_MAX = 10_000
# Left of the caller's deadline, so that the caller hears the reason rather than its own clock.
_DEADLINE_MARGIN_MS = 50
_TOUCH_INTERVAL_S = 0.5
_PATIENT_LOOKS = 20


class MetadataServicer(public_grpc.MetadataServiceServicer):
    """Served by every node. ``voters`` names the metadata nodes, which do not register."""

    def __init__(
        self, plane: MetadataPlane, config: ClusterConfig, voters: tuple[tuple[int, str], ...]
    ) -> None:
        self._plane = plane
        self._config = config
        self._voters = voters
        # What ends each watch, and for how many looks it goes on while this node is out of touch.
        self._watches: dict[asyncio.Future[ServiceError], int] = {}
        self._touch_timer: asyncio.TimerHandle | None = None

    def register(self, server: grpc.aio.Server) -> list[str]:
        """Add the service; its full name."""
        public_grpc.add_MetadataServiceServicer_to_server(self, server)
        return [str(SERVICE_NAME)]

    def stop(self) -> None:
        """End all watches with NODE_SHUTTING_DOWN, so that clients go elsewhere at once."""
        self._end_watches(ServiceError("NODE_SHUTTING_DOWN", "the node stops"))

    def _look_after_watches(self) -> None:
        """Look now and then whether the watches served here are worth something."""
        if self._touch_timer is None and self._watches:
            self._touch_timer = asyncio.get_running_loop().call_later(
                _TOUCH_INTERVAL_S, self._look_at_touch
            )

    def _look_at_touch(self) -> None:
        self._touch_timer = None
        if not self._plane.in_touch():
            self._end_watches(_out_of_touch(), looks=1)
        self._look_after_watches()

    def _end_watches(self, error: ServiceError, *, looks: int = _PATIENT_LOOKS + 1) -> None:
        for ended, left in self._watches.items():
            self._watches[ended] = left - looks
            if left < looks and not ended.done():
                ended.set_result(error)

    async def WatchCluster(
        self, request: public.WatchClusterRequest, context: Context
    ) -> AsyncIterator[public.WatchClusterResponse]:
        """See the proto."""
        try:
            async for response in self._watch(request):
                yield response
        except ServiceError as error:
            await abort(context, error)

    async def DescribeCluster(
        self, request: public.DescribeClusterRequest, context: Context
    ) -> public.DescribeClusterResponse:
        """See the proto."""
        image = await self._read(request.consistency, context)
        return public.DescribeClusterResponse(
            cluster_id=image.cluster_id,
            version=image.version,
            controller_id=image.controller_id or None,
            controller_epoch=image.controller_epoch,
            nodes=node_messages(image, self._voters),
            loads=replica_listing.broker_loads(image) if request.include_loads else (),
        )

    async def ListTopics(
        self, request: public.ListTopicsRequest, context: Context
    ) -> public.ListTopicsResponse:
        """See the proto. A page token is the name of the last topic of the page before."""
        image = await self._read(request.consistency, context)
        size = min(request.page_size or _PAGE_SIZE_DEFAULT, _PAGE_SIZE_MAX)
        names = sorted(
            name
            for name, topic_id in image.topic_ids.items()
            if name > request.page_token
            and (request.include_internal or not image.topics[topic_id].internal)
        )
        page = names[:size]
        return public.ListTopicsResponse(
            topics=[topic_message(image.topics[image.topic_ids[name]]) for name in page],
            next_page_token=page[-1] if len(names) > size else "",
            version=image.version,
        )

    async def DescribeTopics(
        self, request: public.DescribeTopicsRequest, context: Context
    ) -> public.DescribeTopicsResponse:
        """See the proto."""
        try:
            if len(request.names) + len(request.topic_ids) > _DESCRIBED_TOPICS_MAX:
                raise ServiceError("INVALID_REQUEST", f"more than {_DESCRIBED_TOPICS_MAX} topics")
            image = await self._read(request.consistency, context)
            if request.create_missing:
                image = await self._create_missing(image, request.names)
            topics = [topic_by_name(image, name) for name in request.names]
            topics += [topic_by_id(image, topic_id) for topic_id in request.topic_ids]
        except ServiceError as error:
            await abort(context, error)
        return public.DescribeTopicsResponse(
            topics=[topic_message(topic) for topic in topics], version=image.version
        )

    async def _create_missing(self, image: Image, names: Iterable[str]) -> Image:
        """The image with the missing topics, as far as the cluster creates topics by itself."""
        for name in names:
            if image.topic(name) is None:
                create = pb.ExecuteRequest(auto_create_topic=pb.AutoCreateTopic(name=name))
                response = await self._plane.execute(create)
                image = await self._plane.wait_for_version(response.version)
        return image

    async def OpenRequestSession(
        self, request: public.OpenRequestSessionRequest, context: Context
    ) -> public.OpenRequestSessionResponse:
        """See the proto."""
        write = pb.ExecuteRequest(open_request_session=request)
        return (await self._write(write, context)).open_request_session

    async def CreateTopic(
        self, request: public.CreateTopicRequest, context: Context
    ) -> public.CreateTopicResponse:
        """See the proto."""
        write = pb.ExecuteRequest(create_topic=request)
        return (await self._write(write, context)).create_topic

    async def DeleteTopic(
        self, request: public.DeleteTopicRequest, context: Context
    ) -> public.DeleteTopicResponse:
        """See the proto."""
        write = pb.ExecuteRequest(delete_topic=request)
        return (await self._write(write, context)).delete_topic

    async def CreatePartitions(
        self, request: public.CreatePartitionsRequest, context: Context
    ) -> public.CreatePartitionsResponse:
        """See the proto."""
        write = pb.ExecuteRequest(create_partitions=request)
        return (await self._write(write, context)).create_partitions

    async def DescribeConfigs(
        self, request: public.DescribeConfigsRequest, context: Context
    ) -> public.DescribeConfigsResponse:
        """See the proto."""
        image = await self._read(request.consistency, context)
        try:
            topic = topic_by_name(image, request.topic)
        except ServiceError as error:
            await abort(context, error)
        response = public.DescribeConfigsResponse(version=image.version)
        defaults = self._config.topic_configs
        factor = len(topic.partitions[0].settled)
        values = topic_config.effective(topic.configs, defaults, replication_factor=factor)
        for key, value in values.items():
            source = public.CONFIG_SOURCE_DEFAULT
            if key in topic.configs:
                source = public.CONFIG_SOURCE_TOPIC
            elif key in defaults:
                source = public.CONFIG_SOURCE_CLUSTER
            response.entries.add(
                key=key,
                value=value,
                source=source,
                documentation=topic_config.TOPIC_CONFIG_KEYS[key].documentation,
            )
        return response

    async def AlterConfigs(
        self, request: public.AlterConfigsRequest, context: Context
    ) -> public.AlterConfigsResponse:
        """See the proto."""
        write = pb.ExecuteRequest(alter_configs=request)
        return (await self._write(write, context)).alter_configs

    async def AllocateProducerId(
        self, request: public.AllocateProducerIdRequest, context: Context
    ) -> public.AllocateProducerIdResponse:
        """See the proto."""
        write = pb.ExecuteRequest(allocate_producer_id=request)
        return (await self._write(write, context)).allocate_producer_id

    async def FindCoordinator(
        self, request: public.FindCoordinatorRequest, context: Context
    ) -> public.FindCoordinatorResponse:
        """See the proto."""
        try:
            group_id_bytes = len(request.group_id.encode())
            if not 0 < group_id_bytes <= _GROUP_ID_BYTES_MAX:
                raise ServiceError(
                    "INVALID_GROUP_ID", f"group_id is {group_id_bytes} bytes long, not 1 to 255"
                )
            image = self._plane.image
            if not image.shards:
                image = await self._with_offsets_topic(context)
            shard = shard_of_group(request.group_id, len(image.shards))
            lease = image.shards[shard]
            owner = image.node(lease.owner_id)
            if owner is None:
                raise ServiceError(
                    "COORDINATOR_LOADING", f"no coordinator owns shard {shard} at present"
                )
        except ServiceError as error:
            await abort(context, error)
        return public.FindCoordinatorResponse(
            node=node_message(owner), shard=shard, shard_epoch=lease.shard_epoch
        )

    async def ElectLeaders(
        self, request: public.ElectLeadersRequest, context: Context
    ) -> public.ElectLeadersResponse:
        """See the proto."""
        write = pb.ExecuteRequest(elect_leaders=request)
        details = {
            "kind": public.ElectionKind.Name(request.kind) if request.kind < 3 else "?",
            "partitions": len(request.partitions) or "all",
        }
        return (await self._order("elect leaders", write, context, details)).elect_leaders

    async def AlterPartitionReassignments(
        self, request: public.AlterPartitionReassignmentsRequest, context: Context
    ) -> public.AlterPartitionReassignmentsResponse:
        """See the proto."""
        write = pb.ExecuteRequest(alter_partition_reassignments=request)
        details = {"partitions": len(request.partitions)}
        answer = await self._order("reassign partitions", write, context, details)
        return answer.alter_partition_reassignments

    async def ListPartitionReassignments(
        self, request: public.ListPartitionReassignmentsRequest, context: Context
    ) -> public.ListPartitionReassignmentsResponse:
        """See the proto."""
        image = await self._read(request.consistency, context)
        return replica_listing.reassignments(image, request)

    async def DecommissionBroker(
        self, request: public.DecommissionBrokerRequest, context: Context
    ) -> public.DecommissionBrokerResponse:
        """See the proto."""
        write = pb.ExecuteRequest(decommission_broker=request)
        details = {"node_id": request.node_id, "cancel": request.cancel}
        return (await self._order("decommission", write, context, details)).decommission_broker

    async def DrainBroker(
        self, request: public.DrainBrokerRequest, context: Context
    ) -> public.DrainBrokerResponse:
        """See the proto."""
        write = pb.ExecuteRequest(drain_broker=request)
        details = {"node_id": request.node_id}
        return (await self._order("drain", write, context, details)).drain_broker

    async def DescribeQuorum(
        self, request: public.DescribeQuorumRequest, context: Context
    ) -> public.DescribeQuorumResponse:
        """See the proto."""
        try:
            return (await self._plane.describe_quorum()).quorum
        except ServiceError as error:
            await abort(context, error)

    async def UnregisterNode(
        self, request: public.UnregisterNodeRequest, context: Context
    ) -> public.UnregisterNodeResponse:
        """See the proto."""
        write = pb.ExecuteRequest(unregister_node=request)
        return (await self._write(write, context)).unregister_node

    async def _with_offsets_topic(self, context: Context) -> Image:
        request = pb.ExecuteRequest(ensure_offsets_topic=pb.EnsureOffsetsTopic())
        try:
            response = await self._plane.execute(request, timeout_ms=self._left_ms(context))
        except ServiceError as error:
            if error.reason == "LEADER_NOT_AVAILABLE":
                raise ServiceError("COORDINATOR_LOADING", error.message) from None
            raise
        image = await self._plane.wait_for_version(response.version)
        if not image.shards:
            raise ServiceError("COORDINATOR_LOADING", "the coordinators' topic is being made")
        return image

    async def _order(
        self, order: str, request: pb.ExecuteRequest, context: Context, details: dict[str, Any]
    ) -> pb.ExecuteResponse:
        try:
            response = await self._plane.execute(request, timeout_ms=self._left_ms(context))
        except ServiceError as error:
            audit.order_given(context, order, str(error), details)
            await abort(context, error)
        audit.order_given(context, order, "", details)
        return response

    async def _write(self, request: pb.ExecuteRequest, context: Context) -> pb.ExecuteResponse:
        try:
            self._check_in_touch()
            return await self._plane.execute(request, timeout_ms=self._left_ms(context))
        except ServiceError as error:
            await abort(context, error)

    def _check_in_touch(self) -> None:
        """Refuse at once what could only time out: another node may be in touch."""
        if not self._plane.in_touch():
            raise _out_of_touch()

    async def _read(self, consistency: public.ReadConsistency, context: Context) -> Image:
        demand = consistency.WhichOneof("demand")
        left_ms = self._left_ms(context)
        try:
            if demand == "linearizable" and consistency.linearizable:
                self._check_in_touch()
                return await self._plane.read_barrier(timeout_ms=left_ms)
            version = consistency.min_version if demand == "min_version" else 1
            return await self._plane.wait_for_version(version, timeout_ms=left_ms)
        except ServiceError as error:
            await abort(context, error)

    def _left_ms(self, context: Context) -> int:
        remaining_s = context.time_remaining()
        most_ms = self._config.request_timeout_ms
        if remaining_s is None:
            return most_ms
        return max(1, min(most_ms, int(remaining_s * 1000) - _DEADLINE_MARGIN_MS))

    async def _watch(
        self, request: public.WatchClusterRequest
    ) -> AsyncIterator[public.WatchClusterResponse]:
        if len(request.topics) > self._config.watch_topics_max:
            raise ServiceError(
                "INVALID_REQUEST", f"a watch names at most {self._config.watch_topics_max} topics"
            )
        if len(self._watches) >= self._config.watches_max:
            raise ServiceError("THROTTLED", "too many clients watch the cluster here")
        watch = ClusterWatch(request.topics, all_topics=request.all_topics, voters=self._voters)
        changed = asyncio.Event()

        def note(delta: Delta) -> None:
            if watch.note(delta):
                changed.set()

        ended: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda _: changed.set())
        # Who accepts old news shall still ask the others again after a while.
        self._watches[ended] = _PATIENT_LOOKS if request.accept_out_of_touch else 0
        self._look_after_watches()
        unsubscribe = None
        try:
            await self._plane.wait_for_version(1)
            if not request.accept_out_of_touch:
                self._check_in_touch()
            unsubscribe = self._plane.subscribe(note)
            changed.clear()
            yield watch.first(self._plane.image)
            while True:
                await changed.wait()
                if ended.done():
                    raise ended.result()
                await asyncio.sleep(self._config.watch_gather_ms / 1000)
                changed.clear()
                yield watch.take(self._plane.image)
        finally:
            self._watches.pop(ended, None)
            if unsubscribe is not None:
                unsubscribe()


def _out_of_touch() -> ServiceError:
    return ServiceError(
        "UNAVAILABLE", "this node is out of touch with the metadata quorum; ask another"
    )
