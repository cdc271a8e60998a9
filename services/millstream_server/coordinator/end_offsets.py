"""Ends of the logs that groups read: to check commits, and for lag.

Asked of the partitions' leaders by `ListOffsets`: one call per leader at a time, with everything
that is wanted by then. What is not known is not guessed: a commit is checked only where it is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import grpc

from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import broker_service_pb2_grpc as pb_grpc
from millstream_raft.image import Image
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.log_client import BrokerChannels
from millstream_server.coordinator.log_ports import LogUnavailable
from millstream_server.coordinator.positions import LogBounds, PositionCommit
from millstream_server.coordinator.records import Partition
from millstream_server.runtime.ports import Clock

_QUERIES_PER_CALL = 1_000
# Ends remembered for lag in time; at one per poll, some minutes.
_SAMPLES_MAX = 60
_PARTITIONS_MAX = 200_000


@dataclass(slots=True)
class _Known:
    """One log."""

    bounds: LogBounds
    # Leader epoch that it was told under.
    leader_epoch: int
    # (monotonic milliseconds, end offset) when the end was first seen to have moved there.
    samples: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))


class EndOffsets:
    """What is known of logs' ends, and the calls that find out."""

    def __init__(
        self,
        image: Callable[[], Image],
        channels: BrokerChannels,
        config: CoordinatorConfig,
        clock: Clock,
    ) -> None:
        self._image = image
        self._channels = channels
        self._config = config
        self._clock = clock
        self._known: dict[Partition, _Known] = {}
        self._wanted: dict[int, dict[Partition, list[asyncio.Future[None]]]] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}

    async def bounds_for(self, commits: Iterable[PositionCommit]) -> Mapping[Partition, LogBounds]:
        """Bounds to check commits against. Asks only about offsets beyond the end last seen: an
        end never goes back (invariant 18)."""
        last = {
            (commit.topic_id, commit.partition): commit.ranges[-1][1]
            if commit.ranges
            else commit.offset
            for commit in commits
        }
        doubtful = [
            partition
            for partition, offset in last.items()
            if (known := self._known.get(partition)) is None or known.bounds.end_offset < offset
        ]
        confirmed = await self.refresh(doubtful) if doubtful else set()
        return {
            partition: known.bounds
            for partition in last
            if (known := self._known.get(partition)) is not None
            and (partition in confirmed or known.bounds.end_offset >= last[partition])
        }

    async def refresh(self, partitions: Collection[Partition]) -> set[Partition]:
        """Ask for the ends of some logs; returns those that answered in time."""
        waiting = {partition: self._ask(partition) for partition in partitions}
        futures = [future for future in waiting.values() if future is not None]
        if futures:
            await asyncio.wait(futures, timeout=self._config.end_offset_timeout_ms / 1000)
        return {
            partition
            for partition, future in waiting.items()
            if future is not None and future.done() and not future.cancelled()
        }

    def end_offset(self, partition: Partition) -> int | None:
        """End of a log as last seen, None if it was not."""
        known = self._known.get(partition)
        return None if known is None else known.bounds.end_offset

    def lag_ms(self, partition: Partition, offset: int) -> int:
        """How long ago the log was first seen to end beyond an offset; 0 if it does not."""
        known = self._known.get(partition)
        if known is None or known.bounds.end_offset <= offset:
            return 0
        now_ms = self._clock.monotonic_ms()
        return next((now_ms - since for since, end in known.samples if end > offset), 0)

    def forget_others(self, partitions: Collection[Partition]) -> None:
        """Keep only what is known of these."""
        for partition in self._known.keys() - partitions:
            del self._known[partition]

    async def close(self) -> None:
        """End all calls."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, partition: Partition) -> asyncio.Future[None] | None:
        try:
            leader, channel = self._channels.leader(self._image(), *partition)
        except LogUnavailable:
            return None
        if partition not in self._known and len(self._known) >= _PARTITIONS_MAX:
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(leader, {}).setdefault(partition, []).append(future)
        if leader not in self._asking:
            self._asking[leader] = asyncio.ensure_future(self._ask_leader(leader, channel))
        return future

    async def _ask_leader(self, leader: int, channel: grpc.aio.Channel) -> None:
        stub = pb_grpc.BrokerServiceStub(channel)
        try:
            while wanted := self._wanted.pop(leader, None):
                await self._ask_for(stub, wanted)
        finally:
            del self._asking[leader]

    async def _ask_for(
        self,
        stub: "pb_grpc.BrokerServiceAsyncStub",
        wanted: Mapping[Partition, list[asyncio.Future[None]]],
    ) -> None:
        partitions = list(wanted)
        try:
            for first in range(0, len(partitions), _QUERIES_PER_CALL):
                some = partitions[first : first + _QUERIES_PER_CALL]
                for partition in await self._list_offsets(stub, some):
                    for future in wanted[partition]:
                        if not future.done():
                            future.set_result(None)
        except grpc.RpcError:
            pass  # the leader is away: nothing is known
        finally:
            for futures in wanted.values():
                for future in futures:
                    future.cancel()

    async def _list_offsets(
        self, stub: "pb_grpc.BrokerServiceAsyncStub", partitions: list[Partition]
    ) -> list[Partition]:
        request = pb.ListOffsetsRequest()
        for topic_id, number in partitions:
            for position in (pb.Position(latest=True), pb.Position(earliest=True)):
                request.queries.add(topic_id=topic_id, partition=number, position=position)
        response = await stub.ListOffsets(
            request, timeout=self._config.end_offset_timeout_ms / 1000
        )
        answered = []
        answers = iter(response.answers)
        for partition, end, start in zip(partitions, answers, answers, strict=False):
            if end.error or start.error or not end.HasField("offset"):
                continue
            if self._learn(partition, LogBounds(start.offset, end.offset), end.leader_epoch):
                answered.append(partition)
        return answered

    def _learn(self, partition: Partition, bounds: LogBounds, leader_epoch: int) -> bool:
        """False for the late answer of a former leader: the end may be further by now."""
        known = self._known.get(partition)
        if known is None:
            known = self._known[partition] = _Known(bounds, leader_epoch)
        if leader_epoch < known.leader_epoch:
            return False
        known.bounds, known.leader_epoch = bounds, leader_epoch
        if not known.samples or known.samples[-1][1] != bounds.end_offset:
            known.samples.append((self._clock.monotonic_ms(), bounds.end_offset))
        return True
