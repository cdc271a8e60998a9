"""Calls of a real node by the generated stubs alone, and what may not change when it refuses."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2

from millstream.record import build_batch, encode_records
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import broker_service_pb2_grpc as broker_grpc
from millstream.v1 import errors_pb2, record_pb2
from millstream.v1 import group_coordinator_service_pb2 as groups
from millstream.v1 import group_coordinator_service_pb2_grpc as group_grpc
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1 import metadata_service_pb2_grpc as metadata_grpc
from tests.campaigns.embedded import EmbeddedNode

TIMEOUT_S = 20
TIMESTAMP_MS = 1_700_000_000_000
# Larger than what the node takes: it is to refuse, not the client.
_OPTIONS = [("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]


class Refused(NamedTuple):
    """How a call ended that was refused."""

    status: grpc.StatusCode
    # Name of the reason without its prefix; empty if the status carries none.
    reason: str
    message: str


class World(NamedTuple):
    """What a refused request must leave as it was."""

    version: int
    end_offset: int


def encode(values: list[bytes], **header: Any) -> bytes:
    """A batch as an honest producer encodes it, but for the ``header`` fields given."""
    payload = header.pop("payload", None) or encode_records(values)
    header = {"record_count": len(values), **header}
    return build_batch(
        payload, base_timestamp_ms=TIMESTAMP_MS, max_timestamp_ms=TIMESTAMP_MS, **header
    )


def parsed(batch: bytes) -> record_pb2.RecordBatch:
    """The batch as the stubs take it."""
    return record_pb2.RecordBatch.FromString(batch)


def refusal_of(error: grpc.RpcError) -> Refused:
    """What a failed call says."""
    call: Any = error
    reason = ""
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    reason = info.reason
    return Refused(call.code(), reason, call.details() or "")


def reason_name(number: int) -> str:
    """Name of a reason number without its prefix."""
    names = errors_pb2.ErrorReason.DESCRIPTOR.values_by_number
    return names[number].name.removeprefix("ERROR_REASON_")


class PlainClient:
    """Stubs on one connection, and one topic of one partition with one record in it."""

    def __init__(self, node: EmbeddedNode, topic: str) -> None:
        self.node = node
        self.topic = topic
        self.channel = grpc.insecure_channel(node.address, options=_OPTIONS)
        self.broker = broker_grpc.BrokerServiceStub(self.channel)
        self.groups = group_grpc.GroupCoordinatorServiceStub(self.channel)
        self.metadata = metadata_grpc.MetadataServiceStub(self.channel)
        opened = self.metadata.OpenRequestSession(metadata.OpenRequestSessionRequest(), timeout=9)
        self._session_id = opened.session_id
        self._sequence = 0
        made = self.metadata.CreateTopic(
            metadata.CreateTopicRequest(
                request_id=self.request_id(), name=topic, partition_count=1, replication_factor=1
            ),
            timeout=TIMEOUT_S,
        )
        self.topic_id = made.topic.topic_id
        self.producer = self.metadata.AllocateProducerId(
            metadata.AllocateProducerIdRequest(), timeout=TIMEOUT_S
        )
        self.broker.Publish(
            broker.PublishRequest(topic=topic, partition=0, records=[broker.PublishRecord()]),
            timeout=TIMEOUT_S,
        )

        self._await_groups()

    def _await_groups(self) -> None:
        """The first search for a coordinator creates the topic of committed offsets."""
        search = metadata.FindCoordinatorRequest(group_id="readers")
        with contextlib.suppress(grpc.RpcError):
            self.metadata.FindCoordinator(search, timeout=TIMEOUT_S)
        question = groups.DescribeGroupRequest(group_id="readers")
        while self.refused(self.groups.DescribeGroup, question).reason != "UNKNOWN_GROUP":
            time.sleep(0.05)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()

    def request_id(self) -> metadata.RequestId:
        """The id of the next command."""
        self._sequence += 1
        return metadata.RequestId(session_id=self._session_id, sequence=self._sequence)

    def produce(self, *batches: bytes | record_pb2.RecordBatch, **fields: Any) -> Any:
        """The result of a produce request to the topic's partition, or to the one in ``fields``."""
        acks = fields.pop("acks", broker.ACKS_ALL)
        target = {"topic_id": self.topic_id, "partition": 0, **fields}
        entry = broker.ProducePartition(
            batches=[parsed(each) if isinstance(each, bytes) else each for each in batches],
            **target,
        )
        request = broker.ProduceRequest(correlation_id=7, acks=acks, partitions=[entry])
        (answer,) = self.broker.Produce(iter([request]), timeout=TIMEOUT_S)
        (result,) = answer.results
        assert result.correlation_id == 7
        return result

    def refused_produce(self, *batches: bytes | record_pb2.RecordBatch, **fields: Any) -> str:
        """The reason of a produce request that must be refused with a sentence."""
        result = self.produce(*batches, **fields)
        assert result.message
        assert not result.HasField("base_offset")
        return reason_name(result.error)

    def refused(self, method: Any, request: Any) -> Refused:
        """How a call ends that must be refused; an answer that streams is read first."""
        try:
            answer = method(request, timeout=TIMEOUT_S)
            if isinstance(answer, grpc.RpcError):
                list(answer)  # type: ignore[call-overload]
        except grpc.RpcError as error:
            return refusal_of(error)
        raise AssertionError(f"was not refused: {answer}")

    def world(self) -> World:
        """Image version and the end of the topic's log."""
        cluster = self.metadata.DescribeCluster(
            metadata.DescribeClusterRequest(
                consistency=metadata.ReadConsistency(linearizable=True)
            ),
            timeout=TIMEOUT_S,
        )
        query = broker.OffsetQuery(topic=self.topic, position=broker.Position(latest=True))
        (answer,) = self.broker.ListOffsets(
            broker.ListOffsetsRequest(queries=[query]), timeout=TIMEOUT_S
        ).answers
        return World(cluster.version, answer.offset)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """What happens inside leaves the image and the log as they were."""
        before = self.world()
        yield
        assert self.world() == before
