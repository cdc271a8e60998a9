"""What a node's services may ask of the metadata plane, as a protocol. ``ClusterView`` keeps it."""

from collections.abc import Callable
from typing import Protocol

from millstream_raft.delta import Delta
from millstream_raft.image import Image
from millstream_server.v1 import controller_service_pb2 as pb

Subscriber = Callable[[Delta], None]
Unsubscribe = Callable[[], None]


class MetadataPlane(Protocol):
    """The cluster's metadata, from the event loop of this process. Not thread-safe."""

    @property
    def image(self) -> Image:
        """The newest image known here. Never goes back; version 0 before the first one arrived."""

    def subscribe(self, subscriber: Subscriber) -> Unsubscribe:
        """Call ``subscriber`` after every step of the image, in order, on the event loop.

        When an image is known already, the subscriber is called at once with a delta from the
        empty image to it. Subscribers must not block and must not raise: an exception is logged
        and the others are still called. Returns a function that ends the subscription.
        """

    async def wait_for_version(self, version: int, *, timeout_ms: int | None = None) -> Image:
        """The image as soon as it has at least this version.

        Raises ServiceError TIMED_OUT after ``timeout_ms`` (unset: the configured request
        time-out), THROTTLED when too many already wait, NODE_SHUTTING_DOWN when stopped.
        """

    async def execute(
        self, request: pb.ExecuteRequest, *, timeout_ms: int | None = None
    ) -> pb.ExecuteResponse:
        """Execute a write on the active controller, wherever it is, retrying while that is safe.

        A write with a request id is executed once, whatever is retried; one without gets an id of
        this node's own session. Returns after the write is committed; ``response.version`` names
        the image that holds it (``wait_for_version`` to see it here). Raises ServiceError: the
        request's own reasons; QUORUM_UNAVAILABLE or TIMED_OUT when the outcome is unknown.
        """

    async def read_barrier(self, *, timeout_ms: int | None = None) -> Image:
        """An image that holds everything acknowledged anywhere before this call began.

        Raises ServiceError QUORUM_UNAVAILABLE or TIMED_OUT.
        """

    async def describe_quorum(self) -> pb.DescribeQuorumResponse:
        """The quorum as one of its nodes sees it. Raises ServiceError UNAVAILABLE."""
