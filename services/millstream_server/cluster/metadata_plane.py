"""What a node's services may ask of the metadata plane, as a protocol. ``ClusterView`` keeps it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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

    def in_touch(self) -> bool:
        """False while this node's news of the cluster may be old for want of a controller that it
        can reach; True for nodes without a session."""

    async def describe_quorum(self) -> pb.DescribeQuorumResponse:
        """The quorum as one of its nodes sees it. Raises ServiceError UNAVAILABLE."""


class NodePlane(MetadataPlane, Protocol):
    """The metadata plane as brokers and coordinators use it: with a session of their own."""

    @property
    def node_epoch(self) -> int:
        """Epoch of this node's registration, 0 before the first one (invariant 3)."""

    def in_session(self) -> bool:
        """True within the session, counted by this node's own monotonic clock from the send of
        the last answered heartbeat whose version of the image is known here (invariant 3). Outside
        of it a leader answers nothing that claims to be the newest, and a coordinator nothing."""

    async def wait_registered(self, *, timeout_ms: int | None = None) -> int:
        """The node epoch, once this node's own image holds its registration, unfenced.

        Raises ServiceError TIMED_OUT, or what refused the registration: NODE_ID_IN_USE or
        CLUSTER_MISMATCH.
        """

    async def drain(self, *, timeout_ms: int) -> bool:
        """Tell the controller that this node wants to stop. True once it owns no shard and is in
        sync nowhere any more, other than where nobody leads, in its own image; False
        ``timeout_ms`` after it was first told so, and outside of its session: then the controller
        moves everything away without being asked."""

    def report_log_dir_offline(self) -> None:
        """Tell the controller that the log directory failed: this start of the process leads
        nothing any more."""


@dataclass(frozen=True, slots=True)
class NodeRegistration:
    """What a node registers with, beside its identity. Given to ``ClusterView``."""

    # Random id of the log directory, 16 bytes; empty for nodes without one.
    directory_id: bytes = b""
    # Node epoch held before the last stop, 0 for none, and whether that stop was clean.
    previous_epoch: int = 0
    clean_shutdown: bool = False
    # (topic id, partition) of logs that lost something when they were recovered (invariant 7).
    cut_logs: Sequence[tuple[bytes, int]] = ()
    # Awaited with the node epoch before the first heartbeat under it, hence before anything is
    # served under it: a broker makes the epoch durable here (invariant 7).
    on_registered: Callable[[int], Awaitable[None]] | None = None
    # For how long the present operation on this node's disk has been running, milliseconds. Past
    # half a session no heartbeat and no registration is sent until it ends, so that a node whose
    # disk hangs is fenced. None: no disk.
    stuck_ms: Callable[[], int] | None = None
    # True while this node's disk takes no appends; told with every heartbeat. None: no disk.
    disk_refuses: Callable[[], bool] | None = None
    # Called when the controller ended the session (fenced, or replaced); registration is retried.
    on_session_lost: Callable[[], None] | None = None
