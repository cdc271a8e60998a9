"""Follows the image at one metadata node after another."""

import asyncio
import random

import grpc
import structlog
from google.protobuf.message import DecodeError

from millstream_raft.image_codec import CorruptImageError
from millstream_server.cluster.backoff import Backoff
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.followed_image import FollowedImage, ImageGapError
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.v1 import controller_service_pb2 as pb

_log = structlog.get_logger()


class ImageFollower:
    """Keeps one ``WatchImage`` stream open, at whichever metadata node answers."""

    def __init__(
        self,
        followed: FollowedImage,
        channels: MetadataChannels,
        identity: NodeIdentity,
        config: ClusterConfig,
        random: random.Random,
    ) -> None:
        self._followed = followed
        self._channels = channels
        self._identity = identity
        self._config = config
        self._random = random

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff = Backoff(
            self._config.reconnect_ms_min, self._config.reconnect_ms_max, self._random
        )
        addresses = self._channels.addresses
        # The nodes of a cluster spread over the metadata nodes; one's own comes first, if any.
        self._random.shuffle(addresses)
        addresses.sort(key=lambda address: address != self._identity.address)
        turn = 0
        while True:
            address = addresses[turn % len(addresses)]
            try:
                await self._follow(address, backoff)
                error = ServiceError("UNAVAILABLE", "the watch ended")
            except grpc.aio.AioRpcError as call_error:
                error = error_of(call_error)
            except (ImageGapError, CorruptImageError, DecodeError) as damage:
                error = ServiceError("INTERNAL", str(damage))
            except Exception as failure:  # noqa: BLE001 - without this task the image stands still
                _log.exception("following the image failed", address=address)
                error = ServiceError("INTERNAL", repr(failure))
            level = _log.error if error.reason in ("CLUSTER_MISMATCH", "INTERNAL") else _log.info
            level("image is not followed any more", address=address, error=str(error))
            turn += 1
            await asyncio.sleep(backoff.next_ms() / 1000)

    async def _follow(self, address: str, backoff: Backoff) -> None:
        request = pb.WatchImageRequest(
            node_id=self._identity.node_id, cluster_id=self._identity.cluster_id
        )
        call = self._channels.stub(address).WatchImage(request)
        try:
            chunks: list[bytes] = []
            chunk_bytes = 0
            async for response in call:
                if response.image_chunk or response.image_complete:
                    chunk_bytes += len(response.image_chunk)
                    if chunk_bytes > self._config.image_bytes_max:
                        raise CorruptImageError("the image exceeds image_bytes_max")
                    chunks.append(response.image_chunk)
                    if response.image_complete:
                        self._followed.take_snapshot(b"".join(chunks))
                        chunks = []
                        backoff.reset()
                        _log.debug("image is followed", address=address, version=response.version)
                else:
                    self._followed.take_entries(response)
        finally:
            call.cancel()
