"""The unary RPCs and the watch as values: path, answer, and whether a repeat is harmless."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import group_coordinator_service_pb2 as group
from millstream.v1 import metadata_service_pb2 as metadata


class Message(Protocol):
    """What every generated message can do."""

    def SerializeToString(self) -> bytes:
        """Encode."""


Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """An RPC. ``repeatable``: made twice it has the effect of once (reads, and writes that carry
    a request id or state a goal), so an indeterminate failure may be retried."""

    path: str
    request: type[Q]
    response: type[R]
    repeatable: bool = True


def _broker(name: str) -> str:
    return f"/millstream.v1.BrokerService/{name}"


def _metadata(name: str) -> str:
    return f"/millstream.v1.MetadataService/{name}"


def _group(name: str) -> str:
    return f"/millstream.v1.GroupCoordinatorService/{name}"


PRODUCE_PATH = _broker("Produce")
FETCH_PATH = _broker("Fetch")
SESSION_PATH = _group("Session")

LIST_OFFSETS = Method(_broker("ListOffsets"), broker.ListOffsetsRequest, broker.ListOffsetsResponse)
DELETE_RECORDS = Method(
    _broker("DeleteRecords"), broker.DeleteRecordsRequest, broker.DeleteRecordsResponse
)
DESCRIBE_LOG_DIRS = Method(
    _broker("DescribeLogDirs"), broker.DescribeLogDirsRequest, broker.DescribeLogDirsResponse
)

WATCH_CLUSTER = Method(
    _metadata("WatchCluster"), metadata.WatchClusterRequest, metadata.WatchClusterResponse
)
DESCRIBE_CLUSTER = Method(
    _metadata("DescribeCluster"), metadata.DescribeClusterRequest, metadata.DescribeClusterResponse
)
LIST_TOPICS = Method(
    _metadata("ListTopics"), metadata.ListTopicsRequest, metadata.ListTopicsResponse
)
DESCRIBE_TOPICS = Method(
    _metadata("DescribeTopics"), metadata.DescribeTopicsRequest, metadata.DescribeTopicsResponse
)
OPEN_REQUEST_SESSION = Method(
    _metadata("OpenRequestSession"),
    metadata.OpenRequestSessionRequest,
    metadata.OpenRequestSessionResponse,
)
CREATE_TOPIC = Method(
    _metadata("CreateTopic"), metadata.CreateTopicRequest, metadata.CreateTopicResponse
)
DELETE_TOPIC = Method(
    _metadata("DeleteTopic"), metadata.DeleteTopicRequest, metadata.DeleteTopicResponse
)
CREATE_PARTITIONS = Method(
    _metadata("CreatePartitions"),
    metadata.CreatePartitionsRequest,
    metadata.CreatePartitionsResponse,
)
DESCRIBE_CONFIGS = Method(
    _metadata("DescribeConfigs"), metadata.DescribeConfigsRequest, metadata.DescribeConfigsResponse
)
ALTER_CONFIGS = Method(
    _metadata("AlterConfigs"), metadata.AlterConfigsRequest, metadata.AlterConfigsResponse
)
# An id handed out twice by a repeat is merely unused.
ALLOCATE_PRODUCER_ID = Method(
    _metadata("AllocateProducerId"),
    metadata.AllocateProducerIdRequest,
    metadata.AllocateProducerIdResponse,
)
FIND_COORDINATOR = Method(
    _metadata("FindCoordinator"), metadata.FindCoordinatorRequest, metadata.FindCoordinatorResponse
)
UNREGISTER_NODE = Method(
    _metadata("UnregisterNode"), metadata.UnregisterNodeRequest, metadata.UnregisterNodeResponse
)
ELECT_LEADERS = Method(
    _metadata("ElectLeaders"), metadata.ElectLeadersRequest, metadata.ElectLeadersResponse
)
ALTER_PARTITION_REASSIGNMENTS = Method(
    _metadata("AlterPartitionReassignments"),
    metadata.AlterPartitionReassignmentsRequest,
    metadata.AlterPartitionReassignmentsResponse,
)
LIST_PARTITION_REASSIGNMENTS = Method(
    _metadata("ListPartitionReassignments"),
    metadata.ListPartitionReassignmentsRequest,
    metadata.ListPartitionReassignmentsResponse,
)
DECOMMISSION_BROKER = Method(
    _metadata("DecommissionBroker"),
    metadata.DecommissionBrokerRequest,
    metadata.DecommissionBrokerResponse,
)
DRAIN_BROKER = Method(
    _metadata("DrainBroker"), metadata.DrainBrokerRequest, metadata.DrainBrokerResponse
)
DESCRIBE_QUORUM = Method(
    _metadata("DescribeQuorum"), metadata.DescribeQuorumRequest, metadata.DescribeQuorumResponse
)

FETCH_OFFSETS = Method(
    _group("FetchOffsets"), group.FetchOffsetsRequest, group.FetchOffsetsResponse
)
COMMIT_OFFSETS = Method(
    _group("CommitOffsets"), group.CommitOffsetsRequest, group.CommitOffsetsResponse
)
# Each reset steps the generation, but the offsets end up the same.
RESET_OFFSETS = Method(
    _group("ResetOffsets"), group.ResetOffsetsRequest, group.ResetOffsetsResponse
)
DELETE_OFFSETS = Method(
    _group("DeleteOffsets"), group.DeleteOffsetsRequest, group.DeleteOffsetsResponse
)
LIST_GROUPS = Method(_group("ListGroups"), group.ListGroupsRequest, group.ListGroupsResponse)
DESCRIBE_GROUP = Method(
    _group("DescribeGroup"), group.DescribeGroupRequest, group.DescribeGroupResponse
)
DELETE_GROUP = Method(_group("DeleteGroup"), group.DeleteGroupRequest, group.DeleteGroupResponse)
