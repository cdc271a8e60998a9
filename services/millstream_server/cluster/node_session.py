"""This node's session with the active controller.

The session is counted by this node's own monotonic clock from the *send* of the last heartbeat
that was answered (invariant 3; see ``session_lease``): whatever the controller believes, this node
then stops first. A node whose disk hangs sends no heartbeats: it must not stay a leader because
another thread says that all is well.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import grpc
import structlog

from millstream_server.cluster.backoff import Backoff
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.controller_client import ControllerClient
from millstream_server.cluster.followed_image import FollowedImage
from millstream_server.cluster.image_lag import ImageLag
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.cluster.metadata_plane import NodeRegistration
from millstream_server.cluster.public_messages import role_numbers
from millstream_server.cluster.session_lease import SessionLease
from millstream_server.runtime.errors import ServiceError, error_of, raise_status
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

_log = structlog.get_logger()
# The session itself is over, as opposed to the connection that carried it.
_SESSION_OVER = frozenset({"STALE_NODE_EPOCH", "NODE_ID_IN_USE", "CLUSTER_MISMATCH"})
_HEARTBEATS_IN_FLIGHT_MAX = 16
_DISK_POLL_S = 0.05


class NodeSessionClient:
    """Registers, sends heartbeats, and registers again whenever that ended."""

    def __init__(
        self,
        identity: NodeIdentity,
        registration: NodeRegistration,
        followed: FollowedImage,
        channels: MetadataChannels,
        client: ControllerClient,
        config: ClusterConfig,
        clock: Clock,
        random: random.Random,
        leave_followed_node: Callable[[str], None],
    ) -> None:
        """``leave_followed_node`` is called with the controller's address when the metadata node
        whose image is followed was left behind."""
        self._identity = identity
        self._registration = registration
        self._followed = followed
        self._channels = channels
        self._client = client
        self._config = config
        self._clock = clock
        self._random = random
        self._shutting_down = False
        self._log_dir_offline = False
        # Set to send a heartbeat before its time.
        self._hurry = asyncio.Event()
        self._lease = SessionLease()
        self._lag = ImageLag(config.image_patience_ms)
        self._leave_followed_node = leave_followed_node
        self.node_epoch = 0
        # The controller said that this node may stop.
        self.may_stop = False
        # Why the last registration was refused; None while there is no such reason.
        self.refusal: ServiceError | None = None

    def in_session(self) -> bool:
        """See ``NodePlane``."""
        return self._lease.is_held(self._followed.image.version, self._clock.monotonic_ms())

    def ask_to_stop(self) -> None:
        """Say with the next heartbeat, which is sent at once, that this node wants to stop."""
        self._shutting_down = True
        self._hurry.set()

    def report_log_dir_offline(self) -> None:
        """See ``NodePlane``."""
        self._log_dir_offline = True
        self._hurry.set()

    async def run(self) -> None:
        """Keep the session until cancelled."""
        backoff = Backoff(
            self._config.reconnect_ms_min, self._config.reconnect_ms_max, self._random
        )
        while True:
            await self._until_unstuck()
            address = self._client.leader_address()
            try:
                await self._client.unless_elsewhere(address, self._hold_session(address, backoff))
                error = ServiceError("UNAVAILABLE", "the session stream ended")
            except grpc.aio.AioRpcError as call_error:
                error = error_of(call_error)
            except (ServiceError, TimeoutError) as failure:
                error = (
                    failure
                    if isinstance(failure, ServiceError)
                    else ServiceError("TIMED_OUT", "the controller does not answer")
                )
            except Exception as failure:  # noqa: BLE001 - without this task the node is a zombie
                _log.exception("session failed")
                error = ServiceError("INTERNAL", repr(failure))
            self._ended(error)
            hinted = "leader_address" in error.metadata
            self._client.failed(address, error)
            await self._client.pause(self._config.reconnect_ms_min if hinted else backoff.next_ms())

    def _ended(self, error: ServiceError) -> None:
        if error.reason in _SESSION_OVER:
            self.refusal = error if error.reason != "STALE_NODE_EPOCH" else None
            _log.warning("session is over", error=str(error))
            self._lose_session()
        elif error.reason != "NOT_CONTROLLER":
            _log.info("session stream ended", error=str(error))

    def _lose_session(self) -> None:
        was_in_session = self._lease.lose()
        self.may_stop = False
        if was_in_session and self._registration.on_session_lost is not None:
            self._registration.on_session_lost()

    async def _hold_session(self, address: str, backoff: Backoff) -> None:
        call = self._channels.stub(address).NodeSession()
        heartbeats: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._config.call_timeout_ms / 1000):
                await call.write(pb.NodeSessionRequest(registration=self._registration_message()))
                response = await call.read()
            if not isinstance(response, pb.NodeSessionResponse):
                await raise_status(call)
                return
            registered = response.registered
            self._client.succeeded(address)
            backoff.reset()
            self.refusal = None
            await self._adopt(registered, address)
            sent: dict[int, int] = {}
            heartbeats = asyncio.get_running_loop().create_task(
                self._send_heartbeats(call, registered, sent)
            )
            await self._read_acks(call, address, registered, sent, heartbeats)
        finally:
            if heartbeats is not None:
                heartbeats.cancel()
                await asyncio.gather(heartbeats, return_exceptions=True)
            call.cancel()

    async def _adopt(self, registered: pb.Registered, address: str) -> None:
        if self.node_epoch != registered.node_epoch:
            # Replaced or fenced meanwhile: what the former registration was granted is void.
            self._lose_session()
            if self._registration.on_registered is not None:
                # Durable before anything is served under it (invariant 7).
                await self._registration.on_registered(registered.node_epoch)
            self.node_epoch = registered.node_epoch
            _log.info("registered", node_epoch=registered.node_epoch)
        # Not before the image holds the registration: the first heartbeat says so (invariant 3).
        await self._follow_up_to(registered, address)

    async def _follow_up_to(self, registered: pb.Registered, address: str) -> None:
        try:
            await self._followed.wait_for_version(
                registered.version, self._config.image_patience_ms
            )
        except ServiceError as error:
            if error.reason != "TIMED_OUT":
                raise
            self._leave_followed_node(address)
            await self._followed.wait_for_version(registered.version, registered.session_timeout_ms)

    async def _send_heartbeats(
        self,
        call: "grpc.aio.StreamStreamCall[pb.NodeSessionRequest, pb.NodeSessionResponse]",
        registered: pb.Registered,
        sent: dict[int, int],
    ) -> None:
        async for heartbeat in self._heartbeats(registered):
            if len(sent) >= _HEARTBEATS_IN_FLIGHT_MAX:
                return  # nobody answers; the reader ends the stream
            sent[heartbeat.sequence] = self._clock.monotonic_ms()
            await call.write(pb.NodeSessionRequest(heartbeat=heartbeat))

    async def _heartbeats(self, registered: pb.Registered) -> AsyncIterator[pb.NodeHeartbeat]:
        sequence = 0
        while True:
            await self._until_unstuck()
            self._hurry.clear()
            sequence += 1
            yield pb.NodeHeartbeat(
                node_epoch=registered.node_epoch,
                sequence=sequence,
                version=self._followed.image.version,
                shutting_down=self._shutting_down,
                log_dir_offline=self._log_dir_offline,
                disk_refuses=self._disk_refuses(),
            )
            try:
                async with asyncio.timeout(registered.heartbeat_interval_ms / 1000):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    async def _read_acks(
        self,
        call: "grpc.aio.StreamStreamCall[pb.NodeSessionRequest, pb.NodeSessionResponse]",
        address: str,
        registered: pb.Registered,
        sent: dict[int, int],
        heartbeats: "asyncio.Task[None]",
    ) -> None:
        while True:
            # A controller that is silent for a whole session is as good as gone: try another.
            async with asyncio.timeout(registered.session_timeout_ms / 1000):
                response = await call.read()
            if not isinstance(response, pb.NodeSessionResponse):
                await raise_status(call)
                return
            if heartbeats.done():
                raise ServiceError("UNAVAILABLE", "heartbeats cannot be sent")
            ack = response.heartbeat_ack
            sent_ms = sent.pop(ack.sequence, None)
            if sent_ms is None:
                continue
            self._take_ack(address, ack, sent_ms + registered.session_timeout_ms)
            if self._shutting_down and not ack.may_stop:
                self._hurry.set()

    def _take_ack(self, address: str, ack: pb.NodeHeartbeatAck, until_ms: int) -> None:
        image = self._followed.image
        if ack.controller_epoch < image.controller_epoch:
            raise ServiceError("NOT_CONTROLLER", "a former controller answers")
        self._lease.grant(ack.version, until_ms)
        self.may_stop = ack.may_stop
        if self._lag.is_too_long(ack.version, image.version, self._clock.monotonic_ms()):
            _log.warning("the followed image is old", version=image.version, newest=ack.version)
            self._leave_followed_node(address)

    def _disk_refuses(self) -> bool:
        refuses = self._registration.disk_refuses
        return refuses is not None and refuses()

    async def _until_unstuck(self) -> None:
        stuck_ms = self._registration.stuck_ms
        limit_ms = self._config.session_timeout_ms // 2
        if stuck_ms is None or stuck_ms() <= limit_ms:
            return
        _log.error("the disk hangs: no heartbeats are sent until it works", stuck_ms=stuck_ms())
        while stuck_ms() > limit_ms:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(_DISK_POLL_S)
        _log.info("the disk works again: heartbeats are sent")

    def _registration_message(self) -> pb.Registration:
        return pb.Registration(
            cluster_id=self._identity.cluster_id,
            node_id=self._identity.node_id,
            incarnation_id=self._identity.incarnation_id,
            roles=role_numbers(self._identity.roles),
            host=self._identity.host,
            port=self._identity.port,
            rack=self._identity.rack,
            version=self._identity.version,
            directory_id=self._registration.directory_id,
            previous_epoch=self._registration.previous_epoch,
            clean_shutdown=self._registration.clean_shutdown,
            cut_logs=[
                command_pb.PartitionId(topic_id=topic_id, partition=partition)
                for topic_id, partition in self._registration.cut_logs
            ],
            session_timeout_ms=self._config.session_timeout_ms,
        )
