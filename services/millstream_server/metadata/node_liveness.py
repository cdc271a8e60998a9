"""Registrations, heartbeats and fencing on the active controller.

Sessions are judged by this node's monotonic clock; they are ended only by a committed command
(invariants 1a and 3). A heartbeat is answered after a round through the quorum that began after
its receipt; heartbeats that come close together share one.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from millstream_raft.decide_nodes import (
    decide_heartbeat,
    decide_registration,
    expire_sessions,
    fence,
    may_stop,
)
from millstream_raft.image import NodeState
from millstream_raft.refusal import Refused
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.controller import Controller
from millstream_server.metadata.idle_sessions import IdleSessions
from millstream_server.metadata.metrics import MetadataMetrics
from millstream_server.metadata.node_sessions import NodeSessions
from millstream_server.metadata.reconnect_probe import ReconnectProbe
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock
from millstream_server.v1 import controller_service_pb2 as pb

_log = structlog.get_logger()
_WATCH_MS_MIN = 20
_WATCH_MS_MAX = 1_000
_IDLE_CHECK_MS = 60_000
# Shorter ones are everyday delays of an event loop.
_PAUSE_MS_MIN = 200


_Session = tuple[int, int, int]


def _session(node: NodeState) -> _Session:
    """What tells a session from all others: the version steps when it ends."""
    return node.node_id, node.epoch, node.registered_version


class SessionStream:
    """One open ``NodeSession`` stream. ``ended`` resolves to why it must end."""

    def __init__(self, node_id: int, node_epoch: int) -> None:
        self.node_id = node_id
        self.node_epoch = node_epoch
        self.ended: asyncio.Future[ServiceError] = asyncio.get_running_loop().create_future()
        # Version since which the node holds nothing, as long as it wants to stop; and whether its
        # own image has reached that: then it may stop, and nobody waits for its session's end.
        self._idle_version: int | None = None
        self.may_stop = False

    def note_idle(self, version: int, *, heard_version: int, idle: bool) -> None:
        """Learn if the node wants to stop and holds nothing by the image of ``version``;
        ``heard_version`` is its own image's."""
        if not idle:
            self._idle_version = None
        elif self._idle_version is None:
            self._idle_version = version
        self.may_stop = self._idle_version is not None and heard_version >= self._idle_version

    def end(self, error: ServiceError) -> None:
        """Ask the stream to end."""
        if not self.ended.done():
            self.ended.set_result(error)


class NodeLiveness:
    """Keeps the sessions of all nodes while this node is the active controller."""

    def __init__(
        self,
        controller: Controller,
        identity: NodeIdentity,
        config: MetadataConfig,
        clock: Clock,
        probe: ReconnectProbe,
        metrics: MetadataMetrics,
    ) -> None:
        self._controller = controller
        self._identity = identity
        self._config = config
        self._clock = clock
        self._probe = probe
        self._metrics = metrics
        self.sessions = NodeSessions()
        self._idle = IdleSessions(config.request_session_idle_ms)
        self._idle_checked_ms = clock.monotonic_ms()
        self._streams: dict[int, SessionStream] = {}
        # Sessions whose end is on its way through the quorum, or was when the answer was lost:
        # they get no more time, whatever order the quorum finds (invariant 3).
        self._ending: set[_Session] = set()
        # Nodes whose last heartbeat said that their disks take no appends, each with its epoch.
        self.refusing_disks: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathered: asyncio.Task[int] | None = None
        controller.on_activity(self._activity_changed)

    def start(self) -> None:
        """Begin to watch the sessions."""
        self._spawn(self._watch_sessions())

    async def stop(self) -> None:
        """End all streams and watch nothing more."""
        self._end_streams(ServiceError("NODE_SHUTTING_DOWN", "the metadata node stops"))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def register(self, registration: pb.Registration) -> tuple[SessionStream, pb.Registered]:
        """Register a node and open its session. Raises ServiceError."""
        if not self._controller.is_active:
            raise self._controller.not_controller()
        known = self._controller.image.node(registration.node_id)
        if known is not None and _session(known) in self._ending:
            await self._fence(known.node_id, known.epoch, "its end was not known to be done")
        image = self._controller.image
        try:
            commands = decide_registration(
                image,
                registration,
                predecessor_is_dead=self._predecessor_is_dead(registration),
                session_timeout_ms=self._timeout_ms(registration),
            )
        except Refused as refused:
            raise ServiceError(refused.reason, refused.message) from None
        if commands:
            await self._controller.commit(commands)
        else:
            await self._controller.read_barrier()
        node = self._controller.image.node(registration.node_id)
        if node is None or node.incarnation_id != registration.incarnation_id:
            raise ServiceError("STALE_NODE_EPOCH", "another incarnation has registered")
        timeout_ms = node.session_timeout_ms
        self.sessions.open(node.node_id, node.epoch, timeout_ms, self._clock.monotonic_ms())
        stream = SessionStream(node.node_id, node.epoch)
        replaced, self._streams[node.node_id] = self._streams.get(node.node_id), stream
        if replaced is not None:
            replaced.end(ServiceError("STALE_NODE_EPOCH", "the node opened another session stream"))
        _log.info(
            "node registered",
            registered_node_id=node.node_id,
            node_epoch=node.epoch,
            roles=sorted(node.roles),
            address=f"{node.host}:{node.port}",
        )
        return stream, pb.Registered(
            node_epoch=node.epoch,
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=min(self._config.heartbeat_interval_ms, timeout_ms // 3),
            version=self._controller.image.version,
            controller_epoch=self._controller.image.controller_epoch,
        )

    async def heartbeat(
        self, stream: SessionStream, heartbeat: pb.NodeHeartbeat
    ) -> pb.NodeHeartbeatAck:
        """Renew a session; answered after a round through the quorum. Raises ServiceError."""
        received_ms = self._clock.monotonic_ms()
        node = self._registered(stream)
        if heartbeat.node_epoch != stream.node_epoch:
            raise ServiceError("STALE_NODE_EPOCH", "the heartbeat is of another epoch")
        self.sessions.renew(node.node_id, node.epoch, received_ms)
        if heartbeat.disk_refuses:
            self.refusing_disks[node.node_id] = node.epoch
        else:
            self.refusing_disks.pop(node.node_id, None)
        commands = decide_heartbeat(node, heartbeat)
        if commands:
            await self._controller.commit(commands)
        else:
            await self._barrier()
        node = self._registered(stream)
        image = self._controller.image
        idle = may_stop(image, node)
        stream.note_idle(image.version, heard_version=heartbeat.version, idle=idle)
        return pb.NodeHeartbeatAck(
            sequence=heartbeat.sequence,
            may_stop=stream.may_stop,
            version=image.version,
            controller_epoch=image.controller_epoch,
        )

    def closed(self, stream: SessionStream, *, by_node: bool) -> None:
        """A stream ended; ``by_node`` if it broke rather than was ended here."""
        if self._streams.get(stream.node_id) is stream:
            del self._streams[stream.node_id]
        elif self._streams.get(stream.node_id) is not None:
            return
        if by_node and self._controller.is_active:
            self._suspect(stream.node_id, stream.node_epoch, stopped=stream.may_stop)

    async def fence_expired(self) -> None:
        """Fence the nodes that were silent for their session time-out."""
        self._watch_all_live()
        for node_id, node_epoch in self.sessions.expired(self._clock.monotonic_ms()):
            # Fencing those before took a round through the quorum, in which this one may have come.
            if (node_id, node_epoch) not in self.sessions.expired(self._clock.monotonic_ms()):
                continue
            await self._fence(node_id, node_epoch, "silent for its session time-out")

    def allow_for_pause(self, late_ms: int) -> None:
        """This process woke up so much later than it meant to. Heartbeats that came meanwhile wait
        to be read, so a controller that was paused must not take the silence for the nodes'."""
        if late_ms >= _PAUSE_MS_MIN:
            _log.warning("the controller was paused", late_ms=late_ms)
            self.sessions.postpone(late_ms)

    async def expire_request_sessions(self) -> None:
        """End the request sessions that nobody used for their time."""
        image = self._controller.image
        idle = self._idle.idle(image.sessions, self._clock.monotonic_ms())
        commands = expire_sessions(image, idle)
        if commands:
            await self._controller.commit(commands)

    def _watch_all_live(self) -> None:
        # A heartbeat may bring a node to life while its session is being ended. Should the node not
        # come back, only a session of its own lets it be fenced.
        now_ms = self._clock.monotonic_ms()
        for node in self._controller.image.nodes.values():
            if not node.fenced:
                self.sessions.ensure(node.node_id, node.epoch, node.session_timeout_ms, now_ms)

    def _registered(self, stream: SessionStream) -> NodeState:
        node = self._controller.image.node(stream.node_id)
        if node is None or node.epoch != stream.node_epoch or stream.ended.done():
            raise ServiceError("STALE_NODE_EPOCH", "the node's session ended or was replaced")
        if _session(node) in self._ending:
            raise ServiceError("STALE_NODE_EPOCH", "the node's session is being ended")
        return node

    def _timeout_ms(self, registration: pb.Registration) -> int:
        wanted = registration.session_timeout_ms or self._config.session_timeout_ms
        return min(
            max(wanted, self._config.session_timeout_min_ms), self._config.session_timeout_max_ms
        )

    def _predecessor_is_dead(self, registration: pb.Registration) -> bool:
        # Only proofs count: this very process took over the node's folder; or the stream is gone
        # and the newcomer holds what only one process can hold: the locked log directory or, of
        # nodes without one, the listening port. Of nodes with directories the port proves nothing:
        # containers that share an advertised name would each pass for the other whenever a change
        # of controller breaks the streams, and another directory costs the node its partitions.
        known = self._controller.image.node(registration.node_id)
        if known is None or registration.node_id in self._streams:
            return False
        if registration.incarnation_id == self._identity.incarnation_id:
            return True
        if known.directory_id or registration.directory_id:
            return known.directory_id == registration.directory_id
        return (known.host, known.port) == (registration.host, registration.port)

    async def _barrier(self) -> int:
        # Whoever comes while the round has not begun shares it; the round begins after a pause in
        # which the heartbeats of other nodes come.
        if self._gathered is None:
            self._gathered = asyncio.get_running_loop().create_task(self._gathered_barrier())
            # Whoever waited may be gone when it fails.
            self._gathered.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._gathered)

    async def _gathered_barrier(self) -> int:
        await asyncio.sleep(self._config.heartbeat_gather_ms / 1000)
        self._gathered = None
        return await self._controller.read_barrier()

    def _activity_changed(self, active: bool) -> None:
        self._idle.clear()
        self._ending.clear()
        self.refusing_disks.clear()
        if not active:
            self.sessions.clear()
            self._end_streams(self._controller.not_controller())
            return
        live = [
            (node.node_id, node.epoch, node.session_timeout_ms)
            for node in self._controller.image.nodes.values()
            if not node.fenced
        ]
        now_ms = self._clock.monotonic_ms()
        self.sessions.restart(live, now_ms)
        self._spawn(self._suspect_absent(self._controller.image.controller_epoch))

    async def _suspect_absent(self, controller_epoch: int) -> None:
        """Suspect who does not come to this new controller: a node that died together with the one
        before, on the same machine perhaps, has no stream here that could break. Fencing needs the
        refused connection and the few others suspected all the same (invariant 38)."""
        await asyncio.sleep(self._config.reconnect_grace_ms / 1000)
        if not self._controller.is_active:
            return
        if self._controller.image.controller_epoch != controller_epoch:
            return
        for node_id, node_epoch in self.sessions.nodes():
            if node_id not in self._streams:
                self._suspect(node_id, node_epoch)

    def _suspect(self, node_id: int, node_epoch: int, *, stopped: bool = False) -> None:
        self.sessions.suspect(node_id, node_epoch)
        self._spawn(self._confirm_suspicion(node_id, node_epoch, stopped=stopped))

    def _end_streams(self, error: ServiceError) -> None:
        for stream in tuple(self._streams.values()):
            stream.end(error)
        self._streams.clear()

    async def _watch_sessions(self) -> None:
        while True:
            deadline_ms = self.sessions.next_deadline_ms()
            now_ms = self._clock.monotonic_ms()
            wait_ms = _WATCH_MS_MAX if deadline_ms is None else deadline_ms - now_ms
            wait_ms = min(max(wait_ms, _WATCH_MS_MIN), _WATCH_MS_MAX)
            await asyncio.sleep(wait_ms / 1000)
            self.allow_for_pause(self._clock.monotonic_ms() - now_ms - wait_ms)
            if not self._controller.is_active:
                continue
            try:
                await self.fence_expired()
                if self._clock.monotonic_ms() - self._idle_checked_ms >= _IDLE_CHECK_MS:
                    self._idle_checked_ms = self._clock.monotonic_ms()
                    await self.expire_request_sessions()
            except ServiceError as error:  # tried again in the next round
                _log.warning("session not ended", error=str(error))

    async def _confirm_suspicion(self, node_id: int, node_epoch: int, *, stopped: bool) -> None:
        while self._controller.is_active and self.sessions.is_suspected(node_id, node_epoch):
            node = self._controller.image.node(node_id)
            if node is None or node.epoch != node_epoch or node.fenced:
                return
            try:
                if stopped and may_stop(self._controller.image, node):
                    await self._fence(node_id, node_epoch, "stopped after its drain")
                    return
                refused = await self._probe.is_refused(
                    node.host, node.port, self._config.probe_timeout_ms
                )
                if refused and self.sessions.may_fence_early(node_id, node_epoch):
                    await self._fence(node_id, node_epoch, "gone: it refuses connections")
                    return
            except ServiceError as error:
                _log.warning("suspected node not fenced", error=str(error))
            await asyncio.sleep(self._config.probe_interval_ms / 1000)

    async def _fence(self, node_id: int, node_epoch: int, why: str) -> None:
        node = self._controller.image.node(node_id)
        if node is not None and node.epoch == node_epoch and not node.fenced:
            self._ending.add(_session(node))
            try:
                await self._controller.commit([fence(node)])
            except ServiceError as error:
                if error.reason != "VERSION_CONFLICT":
                    raise
                # An earlier try was done after all, and the node may be back.
                self._ending.discard(_session(node))
                return
            self._metrics.nodes_fenced.inc()
            _log.warning("node fenced", fenced_node_id=node_id, node_epoch=node_epoch, why=why)
        self._ending = {one for one in self._ending if one[:2] != (node_id, node_epoch)}
        self.sessions.end(node_id, node_epoch)
        if self.refusing_disks.get(node_id) == node_epoch:
            del self.refusing_disks[node_id]
        stream = self._streams.get(node_id)
        if stream is not None and stream.node_epoch == node_epoch:
            stream.end(ServiceError("STALE_NODE_EPOCH", f"the session ended: {why}"))
            del self._streams[node_id]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
