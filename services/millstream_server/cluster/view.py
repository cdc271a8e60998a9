"""``ClusterView``: what a process knows of its cluster, and its session. One per process."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from millstream_raft.delta import Delta
from millstream_raft.image import Image
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.controller_client import ControllerClient
from millstream_server.cluster.followed_image import FollowedImage
from millstream_server.cluster.image_follower import ImageFollower
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.cluster.metadata_plane import NodeRegistration, Subscriber, Unsubscribe
from millstream_server.cluster.node_session import NodeSessionClient
from millstream_server.cluster.request_sessions import RequestSessions
from millstream_server.runtime.channels import Dial, dial_plaintext
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock
from millstream_server.v1 import controller_service_pb2 as pb

_log = structlog.get_logger()
_POLL_S = 0.02


class ClusterView:
    """See ``NodePlane``. ``bootstrap`` names the metadata nodes as (node id, "host:port")."""

    def __init__(
        self,
        identity: NodeIdentity,
        bootstrap: Sequence[tuple[int, str]],
        *,
        clock: Clock,
        random: random.Random,
        config: ClusterConfig | None = None,
        registration: NodeRegistration | None = None,
        dial: Dial = dial_plaintext,
    ) -> None:
        """Nothing is started. Without ``registration`` the node follows, but has no session: that
        is for nodes that are metadata nodes only. Raises ValueError for a bad configuration."""
        config = config or ClusterConfig()
        config.validate()
        identity.validate()
        self._identity = identity
        self._config = config
        self._clock = clock
        self.bootstrap = tuple(bootstrap)
        self._channels = MetadataChannels(bootstrap, dial)
        self._followed = FollowedImage(config.version_waiters_max)
        self._client = ControllerClient(self._channels, config, clock, random)
        self._requests = RequestSessions(self._client, config.request_sessions_max)
        self._follower = ImageFollower(self._followed, self._channels, identity, config, random)
        self._session: NodeSessionClient | None = None
        if registration is not None:
            self._session = NodeSessionClient(
                identity,
                registration,
                self._followed,
                self._channels,
                self._client,
                config,
                clock,
                random,
                self._follower.leave_for,
            )
        # When this node was first told to stop, monotonic.
        self._asked_to_stop_ms: int | None = None
        self._followed.subscribe(self._note_controller)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def image(self) -> Image:
        """See ``MetadataPlane``."""
        return self._followed.image

    @property
    def node_epoch(self) -> int:
        """See ``NodePlane``."""
        return self._session.node_epoch if self._session is not None else 0

    async def start(self) -> None:
        """Begin to follow and to register; does not wait for either."""
        self._spawn(self._follower.run())
        if self._session is not None:
            self._spawn(self._session.run())

    async def stop(self) -> None:
        """End session and watch; does not drain. Safe to call twice."""
        self._followed.stop()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channels.close()

    def subscribe(self, subscriber: Subscriber) -> Unsubscribe:
        """See ``MetadataPlane``."""
        return self._followed.subscribe(subscriber)

    async def wait_for_version(self, version: int, *, timeout_ms: int | None = None) -> Image:
        """See ``MetadataPlane``."""
        return await self._followed.wait_for_version(version, self._timeout_ms(timeout_ms))

    async def execute(
        self, request: pb.ExecuteRequest, *, timeout_ms: int | None = None
    ) -> pb.ExecuteResponse:
        """See ``MetadataPlane``."""
        return await self._requests.execute(request, self._timeout_ms(timeout_ms))

    async def read_barrier(self, *, timeout_ms: int | None = None) -> Image:
        """See ``MetadataPlane``."""
        milliseconds = self._timeout_ms(timeout_ms)
        version = await self._client.read_barrier(milliseconds)
        return await self._followed.wait_for_version(version, milliseconds)

    async def describe_quorum(self) -> pb.DescribeQuorumResponse:
        """See ``MetadataPlane``."""
        return await self._client.describe_quorum()

    def in_touch(self) -> bool:
        """See ``MetadataPlane``."""
        return self._session is None or self._session.in_session()

    def in_session(self) -> bool:
        """See ``NodePlane``."""
        return self._session is not None and self._session.in_session()

    async def wait_registered(self, *, timeout_ms: int | None = None) -> int:
        """See ``NodePlane``."""
        session = self._own_session()
        deadline_ms = self._clock.monotonic_ms() + self._timeout_ms(timeout_ms)
        while True:
            node = self.image.node(self._identity.node_id)
            if (
                node is not None
                and node.epoch == session.node_epoch
                and not node.fenced
                and session.in_session()
            ):
                return node.epoch
            refusal = session.refusal
            if refusal is not None and refusal.reason == "CLUSTER_MISMATCH":
                raise refusal
            if self._clock.monotonic_ms() >= deadline_ms:
                raise refusal or ServiceError(
                    "TIMED_OUT", "the node could not register in time: no active controller"
                )
            await asyncio.sleep(_POLL_S)

    async def drain(self, *, timeout_ms: int) -> bool:
        """See ``NodePlane``."""
        session = self._own_session()
        if self._asked_to_stop_ms is None:
            self._asked_to_stop_ms = self._clock.monotonic_ms()
            session.ask_to_stop()
        deadline_ms = self._asked_to_stop_ms + timeout_ms
        while not (session.may_stop and self._holds_nothing()):
            if self._clock.monotonic_ms() >= deadline_ms:
                _log.warning("drain not finished in time", timeout_ms=timeout_ms)
                return False
            if not session.in_session():
                _log.warning("not drained: there is no session with a controller")
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def report_log_dir_offline(self) -> None:
        """See ``NodePlane``."""
        self._own_session().report_log_dir_offline()

    def _note_controller(self, delta: Delta) -> None:
        if delta.controller_changed:
            image = delta.image
            self._client.controller_elected(image.controller_id, image.controller_epoch)

    def _holds_nothing(self) -> bool:
        node_id = self._identity.node_id
        counts = any(
            # The high watermark waits for whoever is in sync, until its session ends.
            partition.leader_id is not None and node_id in partition.isr
            for _, partition in self.image.partitions_of_node(node_id)
        )
        return not counts and not self.image.shards_owned_by(node_id)

    def _own_session(self) -> NodeSessionClient:
        if self._session is None:
            raise RuntimeError("this view was made without a registration")
        return self._session

    def _timeout_ms(self, timeout_ms: int | None) -> int:
        return self._config.request_timeout_ms if timeout_ms is None else timeout_ms

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))
