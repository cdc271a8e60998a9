"""What descriptions tell of replicas: who leads, who is in sync, what moves, who holds how much."""

import grpc
import pytest
from structlog.testing import capture_logs

from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as public
from millstream.v1 import metadata_service_pb2_grpc as public_grpc
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image
from millstream_server.cluster import replica_listing
from millstream_server.cluster.public_messages import node_message, partition_message
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.metadata_cluster import running_cluster
from tests.fakes.metadata_requests import execute


def cluster() -> Image:
    """Two topics on three of four brokers; one partition of each is on its way to the fourth."""
    image = images.image_with(1, 2, 3, 4)
    for number, name in ((1, "b"), (2, "a")):
        topic = images.add_topic(number, (1, 2, 3), (2, 1, 3), name=name, min_isr=3)
        image = images.after(image, topic)
        moves = [
            public.PartitionReassignment(
                topic_id=images.topic_id(number), partition=1, replica_ids=[4, 1]
            )
        ]
        request = public.AlterPartitionReassignmentsRequest(
            partitions=moves, throttle_bytes_per_s=5
        )
        image, _ = execute(image, pb.ExecuteRequest(alter_partition_reassignments=request))
    return image


def test_a_partition_tells_what_is_wrong_with_it() -> None:
    image = cluster()
    state = image.topics[images.topic_id(1)].partitions[0]
    well = partition_message(state, with_isr=True)
    assert (well.under_replicated, well.under_min_in_sync_replicas) == (False, False)
    assert well.min_in_sync_replicas == 3
    image = images.after(image, images.fence(image, 3))
    topic = image.topics[images.topic_id(1)]
    ill = partition_message(topic.partitions[0], with_isr=True)
    assert (ill.under_replicated, ill.under_min_in_sync_replicas) == (True, True)
    assert list(ill.eligible_leader_replica_ids) == [3]
    moving = partition_message(topic.partitions[1], with_isr=True)
    assert (list(moving.adding_replica_ids), list(moving.removing_replica_ids)) == ([4], [2, 3])
    watched = partition_message(topic.partitions[0], with_isr=False)
    assert not watched.under_replicated, "watches leave out what changes with the in-sync set"


def test_a_replica_that_is_being_added_makes_nothing_under_replicated() -> None:
    state = cluster().topics[images.topic_id(1)].partitions[1]
    assert state.isr == (2, 1, 3)
    assert not partition_message(state, with_isr=True).under_replicated


def test_loads_count_what_each_broker_leads_holds_and_lags() -> None:
    image = images.after(cluster(), images.fence(cluster(), 3))
    loads = {
        one.node_id: (one.leader_count, one.replica_count, one.out_of_sync_count)
        for one in replica_listing.broker_loads(image)
    }
    assert loads == {1: (2, 4, 0), 2: (2, 4, 0), 3: (0, 4, 4), 4: (0, 2, 2)}


def test_reassignments_are_listed_by_name_page_by_page() -> None:
    image = cluster()
    request = public.ListPartitionReassignmentsRequest(page_size=1)
    first = replica_listing.reassignments(image, request)
    (one,) = first.reassignments
    assert (one.topic, one.partition) == ("a", 1)
    assert list(one.target_replica_ids) == [4, 1]
    assert list(one.in_sync_replica_ids) == [2, 1, 3]
    assert (first.total_count, first.throttle_bytes_per_s, first.version) == (2, 5, image.version)
    request.page_token = first.next_page_token
    second = replica_listing.reassignments(image, request)
    assert [other.topic for other in second.reassignments] == ["b"]
    assert not second.next_page_token
    of_one = public.ListPartitionReassignmentsRequest(topic_ids=[images.topic_id(1)])
    assert [x.topic for x in replica_listing.reassignments(image, of_one).reassignments] == ["b"]


async def test_orders_of_operators_are_noted_with_who_gave_them() -> None:
    defaults = ClusterDefaults(replication_factor=1)
    async with running_cluster(defaults=defaults) as cluster:
        node = await cluster.node(1)
        await node.view.wait_registered()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{node.identity.port}") as channel:
            stub = public_grpc.MetadataServiceStub(channel)
            created = await stub.CreateTopic(public.CreateTopicRequest(name="logs"))
            target = public.ElectionTarget(topic_id=created.topic.topic_id)
            with capture_logs() as lines:
                elected = await stub.ElectLeaders(
                    public.ElectLeadersRequest(
                        kind=public.ELECTION_KIND_UNCLEAN, partitions=[target]
                    )
                )
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.DrainBroker(public.DrainBrokerRequest(node_id=9))
    assert elected.results[0].error == errors_pb2.ERROR_REASON_ELECTION_NOT_NEEDED
    first, second = (line for line in lines if line["event"] == "operator's order")
    assert (first["order"], first["kind"]) == ("elect leaders", "ELECTION_KIND_UNCLEAN")
    assert first["peer"].startswith("ipv4:127.0.0.1:")
    assert (second["node_id"], second["refusal"][:12]) == (9, "UNKNOWN_NODE")


def test_a_node_tells_that_it_leaves() -> None:
    mark = command_pb.ChangeDecommissioning(node_id=1, decommissioning=True)
    image = images.after(cluster(), images.command(change_decommissioning=mark))
    assert node_message(image.nodes[1]).decommissioning
    assert not node_message(image.nodes[2]).decommissioning
