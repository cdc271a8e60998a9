"""Follows the image at one metadata node after another.

A node that is hung sends nothing, not even the pulse of a quiet watch; one that is cut off from
the quorum goes on pulsing, but the controller tells newer versions in its answers to heartbeats.
Either is left after a while (``image_patience_ms``), by which the image does not go back (invariant
3).
"""

import asyncio
import random
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from millstream_raft.image_codec import CorruptImageError
from millstream_server.cluster.backoff import Backoff
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.followed_image import FollowedImage, ImageGapError
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.runtime.errors import ServiceError, error_of, raise_status
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.v1 import controller_service_pb2 as pb

_log = structlog.get_logger()
# Pulses that may be late or lost before the node counts as hung.
_PULSES = 3


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
        # How long the next node may take to begin; longer after each that did not.
        self._patience_ms = config.image_patience_ms
        self._call: grpc.aio.UnaryStreamCall[Any, Any] | None = None
        self._following: str | None = None
        # Set while the present node is being left: where to go.
        self._successor: str | None = None

    def leave_for(self, address: str) -> None:
        """The followed metadata node was left behind: follow the one at this address, or, where
        that is the one that was left behind, any other."""
        if self._call is None or self._successor is not None:
            return
        others = [one for one in self._channels.addresses if one != self._following]
        if address in others or not others:
            self._successor = address
        else:
            self._successor = self._random.choice(others)
        self._call.cancel()

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
            error = await self._follow_or_fail(address, backoff)
            level = _log.error if error.reason in ("CLUSTER_MISMATCH", "INTERNAL") else _log.info
            level("image is not followed any more", address=address, error=str(error))
            turn += 1
            if self._successor is not None:
                turn = addresses.index(self._successor)
                self._successor = None
            else:
                await asyncio.sleep(backoff.next_ms() / 1000)

    async def _follow_or_fail(self, address: str, backoff: Backoff) -> ServiceError:
        """Follow one node; why that ended."""
        try:
            await self._follow(address, backoff)
        except grpc.aio.AioRpcError as call_error:
            return error_of(call_error)
        except ServiceError as error:
            return error
        except TimeoutError:
            self._patience_ms = min(2 * self._patience_ms, self._config.call_timeout_ms)
            return ServiceError("TIMED_OUT", "the metadata node is silent")
        except (ImageGapError, CorruptImageError, DecodeError) as damage:
            return ServiceError("INTERNAL", str(damage))
        except asyncio.CancelledError:
            # grpc.aio reports a call cancelled here as if the reading task had been cancelled.
            task = asyncio.current_task()
            if self._successor is None or (task is not None and task.cancelling()):
                raise
            return ServiceError("UNAVAILABLE", "the metadata node was left behind by the quorum")
        except Exception as failure:  # noqa: BLE001 - without this task the image stands still
            _log.exception("following the image failed", address=address)
            return ServiceError("INTERNAL", repr(failure))
        return ServiceError("UNAVAILABLE", "the watch ended")

    async def _follow(self, address: str, backoff: Backoff) -> None:
        request = pb.WatchImageRequest(
            node_id=self._identity.node_id, cluster_id=self._identity.cluster_id
        )
        call = self._channels.stub(address).WatchImage(request)
        self._call, self._following = call, address
        silence_s: float | None = self._patience_ms / 1000
        try:
            chunks: list[bytes] = []
            chunk_bytes = 0
            while True:
                async with asyncio.timeout(silence_s):
                    response = await call.read()
                if not isinstance(response, pb.WatchImageResponse):
                    await raise_status(call)
                    return
                if not (response.image_chunk or response.image_complete):
                    self._followed.take_entries(response)
                    continue
                chunk_bytes += len(response.image_chunk)
                if chunk_bytes > self._config.image_bytes_max:
                    raise CorruptImageError("the image exceeds image_bytes_max")
                chunks.append(response.image_chunk)
                if response.image_complete:
                    self._followed.take_snapshot(b"".join(chunks))
                    chunks = []
                    backoff.reset()
                    self._patience_ms = self._config.image_patience_ms
                    # A node that announces no pulse may be silent for ever.
                    pulse_ms = response.pulse_interval_ms
                    longest_ms = max(self._patience_ms, _PULSES * pulse_ms)
                    silence_s = longest_ms / 1000 if pulse_ms else None
                    _log.debug("image is followed", address=address, version=response.version)
        finally:
            self._call = self._following = None
            call.cancel()
