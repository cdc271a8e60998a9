"""Connections to the metadata nodes."""

from collections.abc import Sequence

from millstream_server.runtime.channels import Dial, NodeChannels, dial_plaintext
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc


class MetadataChannels:
    """Stubs of the metadata nodes by address, as configured."""

    def __init__(self, bootstrap: Sequence[tuple[int, str]], dial: Dial = dial_plaintext) -> None:
        if not bootstrap:
            raise ValueError("no metadata node is named")
        self._node_ids = {address: node_id for node_id, address in bootstrap}
        self._channels = NodeChannels(dial)

    @property
    def addresses(self) -> list[str]:
        """Addresses of the metadata nodes, as configured."""
        return list(self._node_ids)

    def address_of(self, node_id: int) -> str | None:
        """Address of a metadata node, as configured; None for others."""
        return next((where for where, one in self._node_ids.items() if one == node_id), None)

    def is_known(self, address: str) -> bool:
        """True for a configured address; hints to others are not followed."""
        return address in self._node_ids

    def stub(self, address: str) -> "pb_grpc.ControllerServiceAsyncStub":
        """Calls to a metadata node. Raises KeyError for an address that is not configured."""
        channel = self._channels.to(self._node_ids[address], address)
        return pb_grpc.ControllerServiceStub(channel)

    async def close(self) -> None:
        """Close all channels."""
        await self._channels.close()
