"""Calls to the other brokers (one-hop proxying)."""

from millstream.v1 import broker_service_pb2_grpc as pb_grpc
from millstream_raft.image import Image
from millstream_server.runtime.channels import NodeChannels
from millstream_server.runtime.errors import ServiceError


class Peers:
    """Stubs of the other brokers by node id."""

    def __init__(self, channels: NodeChannels) -> None:
        self._channels = channels

    def stub(self, image: Image, node_id: int) -> "pb_grpc.BrokerServiceAsyncStub":
        """Stub of a broker. Raises ServiceError LEADER_NOT_AVAILABLE if it is not registered."""
        node = image.node(node_id)
        if node is None:
            raise ServiceError("LEADER_NOT_AVAILABLE", f"node {node_id} is not registered")
        return pb_grpc.BrokerServiceStub(self._channels.to(node_id, node.address))

    async def close(self) -> None:
        """Close the connections; calls in flight fail."""
        await self._channels.close()
