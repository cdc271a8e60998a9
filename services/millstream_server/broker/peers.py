"""Calls to the other brokers: one-hop proxying, and copying from leaders."""

from millstream.v1 import broker_service_pb2_grpc as pb_grpc
from millstream_raft.image import Image
from millstream_server.runtime.channels import NodeChannels
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import replication_service_pb2_grpc as replication_pb_grpc


class Peers:
    """Stubs of the other brokers by node id."""

    def __init__(self, channels: NodeChannels) -> None:
        self._channels = channels

    def stub(self, image: Image, node_id: int) -> "pb_grpc.BrokerServiceAsyncStub":
        """Stub of a broker. Raises ServiceError LEADER_NOT_AVAILABLE if it is not registered."""
        return pb_grpc.BrokerServiceStub(self._channels.to(node_id, _address(image, node_id)))

    def replication_stub(
        self, image: Image, node_id: int
    ) -> "replication_pb_grpc.ReplicationServiceAsyncStub":
        """Stub of a leader to copy from. Raises as ``stub`` does."""
        channel = self._channels.to(node_id, _address(image, node_id))
        return replication_pb_grpc.ReplicationServiceStub(channel)

    async def close(self) -> None:
        """Close the connections; calls in flight fail."""
        await self._channels.close()


def _address(image: Image, node_id: int) -> str:
    node = image.node(node_id)
    if node is None:
        raise ServiceError("LEADER_NOT_AVAILABLE", f"node {node_id} is not registered")
    return node.address
