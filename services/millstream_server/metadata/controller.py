"""The controller of one metadata node: active on the quorum's leader, idle on the others.

A new leader first commits ``ControllerElected``; only when that took effect it decides anything,
and everything it decides carries the epoch that it got then (invariant 1a). Writes are decided on
the newest image, one after another, except those that cannot conflict, which share rounds through
the quorum.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from millstream_raft.commands import encode_entry
from millstream_raft.consensus import Consensus, NotProposed, OutcomeUnknown
from millstream_raft.decide import decide
from millstream_raft.decision import Decision
from millstream_raft.delta import Delta
from millstream_raft.image import Image
from millstream_raft.refusal import Refused
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.metrics import MetadataMetrics
from millstream_server.metadata.replicated_image import ReplicatedImage
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb

_log = structlog.get_logger()
# These take a number from a counter when they are applied, so their order does not matter.
_CANNOT_CONFLICT = frozenset({"allocate_producer_id", "open_request_session"})
_TAKE_OVER_RETRY_S = 0.1

ActivityCallback = Callable[[bool], None]


class Controller:
    """Decides and commits. Raises ServiceError only."""

    def __init__(
        self,
        consensus: Consensus,
        replicated: ReplicatedImage,
        identity: NodeIdentity,
        config: MetadataConfig,
        clock: Clock,
        random: random.Random,
        metrics: MetadataMetrics,
    ) -> None:
        self._consensus = consensus
        self._replicated = replicated
        self._identity = identity
        self._config = config
        self._clock = clock
        self._random = random
        self._metrics = metrics
        # Epoch under which this node decides; None while it is not the active controller.
        self._epoch: int | None = None
        self._take_over: asyncio.Task[None] | None = None
        self._deciding = asyncio.Lock()
        self._executes_pending = 0
        self._on_activity: list[ActivityCallback] = []
        consensus.on_leadership(self._leadership_changed)
        replicated.subscribe(self._image_changed)

    @property
    def image(self) -> Image:
        """The newest image of this node."""
        return self._replicated.image

    @property
    def is_active(self) -> bool:
        """True while this node is the active controller as far as it knows."""
        return self._epoch is not None

    def on_activity(self, callback: ActivityCallback) -> None:
        """Call ``callback(True)`` when this node became the active controller, ``False`` when it
        is so no more."""
        self._on_activity.append(callback)

    def stop(self) -> None:
        """Decide nothing more."""
        self._deactivate()

    def not_controller(self) -> ServiceError:
        """The error of a node that is not the active controller, with a hint to who is."""
        leader_id = self._consensus.leader_id
        metadata = {}
        # A leader that is not active yet is no better address than any other node.
        if leader_id is not None and leader_id != self._consensus.node_id:
            address = self._config.address_of(leader_id)
            if address is not None:
                metadata = {"leader_id": str(leader_id), "leader_address": address}
        return ServiceError(
            "NOT_CONTROLLER",
            f"node {self._identity.node_id} is not the active controller",
            metadata,
        )

    async def execute(self, request: pb.ExecuteRequest) -> pb.ExecuteResponse:
        """Decide a write and commit it."""
        if self._executes_pending >= self._config.executes_pending_max:
            raise ServiceError("THROTTLED", "too many metadata writes wait already")
        self._executes_pending += 1
        try:
            if request.WhichOneof("kind") in _CANNOT_CONFLICT:
                return await self._decide_and_commit(request)
            async with self._deciding:
                return await self._decide_and_commit(request)
        finally:
            self._executes_pending -= 1

    async def commit(
        self,
        commands: Sequence[command_pb.MetadataCommand],
        *,
        request_id: Any = None,
        reply: bytes = b"",
    ) -> command_pb.MetadataEntryResult:
        """Commit commands under this controller's epoch; on return ``image`` holds their effect.

        Raises ServiceError with the reason of a refusal; NOT_CONTROLLER and THROTTLED mean that
        nothing was changed, QUORUM_UNAVAILABLE that the outcome is unknown.
        """
        if self._epoch is None:
            raise self.not_controller()
        entry = encode_entry(
            list(commands), controller_epoch=self._epoch, request_id=request_id, reply=reply
        )
        result = await self._propose(entry)
        if result.reason == "NOT_CONTROLLER":
            raise self.not_controller()
        if result.reason:
            raise ServiceError(result.reason, result.message)
        return result

    async def decide_and_commit(
        self, decide: Callable[[Image], Sequence[command_pb.MetadataCommand]]
    ) -> bool:
        """Commit what ``decide`` makes of the image, in turn with the writes of others. False if
        that is nothing. Raises as ``commit``; VERSION_CONFLICT if the image was overtaken."""
        async with self._deciding:
            commands = decide(self.image)
            if not commands:
                return False
            await self.commit(commands)
            return True

    async def read_barrier(self) -> int:
        """A version that holds everything acknowledged before the call."""
        if self._epoch is None:
            raise self.not_controller()
        try:
            await self._consensus.barrier(self._config.proposal_timeout_ms)
        except NotProposed:
            raise self.not_controller() from None
        except OutcomeUnknown as error:
            raise ServiceError("QUORUM_UNAVAILABLE", str(error)) from None
        return self.image.version

    async def _decide_and_commit(self, request: pb.ExecuteRequest) -> pb.ExecuteResponse:
        # A deposed controller would refuse, or find nothing to do, by what was true once. So an
        # answer without a commit is given only on an image that a barrier has proven to be new.
        proven = False
        for _ in range(self._config.conflict_retries_max):
            image = self.image
            try:
                decision = self._decide(request)
            except ServiceError as refusal:
                if not proven and refusal.reason != "NOT_CONTROLLER":
                    proven = True
                    await self.read_barrier()
                    if self.image is not image:
                        continue
                raise
            if decision.commands:
                try:
                    return await self._commit_decision(decision)
                except ServiceError as error:
                    if error.reason != "VERSION_CONFLICT":
                        raise
                continue
            if not proven:
                proven = True
                await self.read_barrier()
                if self.image is not image:
                    continue
            return decision.reply
        raise ServiceError("VERSION_CONFLICT", "the metadata keeps changing; try again")

    def _decide(self, request: pb.ExecuteRequest) -> Decision:
        if self._epoch is None:
            raise self.not_controller()
        try:
            return decide(
                self.image,
                request,
                topic_id=self._random.randbytes(16),
                defaults=self._config.defaults,
            )
        except Refused as refused:
            raise ServiceError(refused.reason, refused.message) from None

    async def _commit_decision(self, decision: Decision) -> pb.ExecuteResponse:
        result = await self.commit(
            decision.commands,
            request_id=decision.request_id,
            reply=decision.reply.SerializeToString(),
        )
        return pb.ExecuteResponse.FromString(result.reply)

    async def _propose(self, entry: bytes) -> command_pb.MetadataEntryResult:
        begun_ms = self._clock.monotonic_ms()
        try:
            data = await self._consensus.propose(entry, self._config.proposal_timeout_ms)
        except NotProposed as error:
            if not self._consensus.is_leader:
                raise self.not_controller() from None
            raise ServiceError("THROTTLED", f"not proposed: {error}") from None
        except OutcomeUnknown as error:
            raise ServiceError("QUORUM_UNAVAILABLE", f"outcome unknown: {error}") from None
        self._metrics.commit_seconds.observe((self._clock.monotonic_ms() - begun_ms) / 1000)
        return command_pb.MetadataEntryResult.FromString(data)

    def _leadership_changed(self, is_leader: bool, term: int) -> None:
        self._metrics.leader_changes.inc()
        self._deactivate()
        if is_leader:
            self._begin_take_over()

    def _image_changed(self, delta: Delta) -> None:
        if not delta.controller_changed or delta.image.controller_epoch == self._epoch:
            return
        # Somebody else was elected, or an election of ours was applied late.
        if self._epoch is not None:
            self._deactivate()
            if self._consensus.is_leader:
                self._begin_take_over()

    def _begin_take_over(self) -> None:
        if self._take_over is not None:
            self._take_over.cancel()
        self._take_over = asyncio.get_running_loop().create_task(self._become_active())

    async def _become_active(self) -> None:
        while self._consensus.is_leader:
            elected = command_pb.ControllerElected(
                node_id=self._identity.node_id,
                expected_epoch=self.image.controller_epoch,
                cluster_id=self._identity.cluster_id,
            )
            command = command_pb.MetadataCommand(controller_elected=elected)
            try:
                result = await self._propose(encode_entry([command], controller_epoch=0))
            except ServiceError as error:
                _log.warning("controller election not committed", error=str(error))
                await asyncio.sleep(_TAKE_OVER_RETRY_S)
                continue
            if not result.reason and self._activate(result.number):
                return
            _log.warning("controller election overtaken", reason=result.reason)
            await asyncio.sleep(_TAKE_OVER_RETRY_S)

    def _activate(self, epoch: int) -> bool:
        if not self._consensus.is_leader or self.image.controller_epoch != epoch:
            return False
        self._epoch = epoch
        _log.info("became the active controller", controller_epoch=epoch)
        for callback in self._on_activity:
            callback(True)
        return True

    def _deactivate(self) -> None:
        if self._take_over is not None and self._take_over is not _current_task():
            self._take_over.cancel()
            self._take_over = None
        if self._epoch is None:
            return
        _log.info("is the active controller no more", controller_epoch=self._epoch)
        self._epoch = None
        for callback in self._on_activity:
            callback(False)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
