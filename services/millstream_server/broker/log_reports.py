"""What a broker tells the controller about its logs, until the controller knows it."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import structlog

from millstream_server.broker.hosted import HostedPartitions
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb

_log = structlog.get_logger()
# As many as the controller takes at once.
_LOGS_PER_REPORT = 1_000
_RETRY_FIRST_S = 0.1
_RETRY_MAX_S = 2.0

Key = tuple[bytes, int]
News = TypeVar("News")


class LogEnd(NamedTuple):
    """How far a log reaches: the epoch of its last record, and its synced end."""

    last_epoch: int
    synced_end_offset: int


class Damage(NamedTuple):
    """A log that is damaged: the partition epoch at which its replica has a place still, and what
    was found."""

    partition_epoch: int
    reason: str


class LogReports:
    """Two kinds of news: logs that are damaged, whose replicas must leave every set (invariants 6
    and 34), and how far logs reach of which one has to be elected (invariant 7).

    What the image says decides whether there is anything to tell; whoever sees it calls again, so
    that nothing is kept here but what is on its way. A report of damage is worth something only at
    the partition epoch that it names: told late, it would hit a replica that was repaired since.
    """

    def __init__(self, hosted: HostedPartitions) -> None:
        self._hosted = hosted
        self._damaged: dict[Key, Damage] = {}
        self._recovered: dict[Key, LogEnd] = {}
        self._wake = asyncio.Event()

    def damaged(self, key: Key, damage: Damage) -> None:
        """A log is damaged where it was synced."""
        self._damaged[key] = damage
        self._wake.set()

    def recovered(self, key: Key, end: LogEnd) -> None:
        """A replica that lost its place is whole up to here."""
        self._recovered[key] = end
        self._wake.set()

    async def run(self) -> None:
        """Tell, until cancelled."""
        delay_s = _RETRY_FIRST_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            told_as = self._hosted.cluster.node_epoch
            try:
                while self._damaged or self._recovered:
                    told_as = self._hosted.cluster.node_epoch
                    await self._tell_some()
                delay_s = _RETRY_FIRST_S
            except ServiceError as error:
                if error.reason == "STALE_NODE_EPOCH":
                    if self._hosted.cluster.node_epoch != told_as:
                        self._wake.set()  # what there is may have come in under the new one
                        continue
                    # The image will show the new registration, and everything is looked at anew.
                    self._damaged.clear()
                    self._recovered.clear()
                    continue
                _log.warning("logs not reported yet", reason=error.reason, message=str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _RETRY_MAX_S)
                self._wake.set()

    async def _tell_some(self) -> None:
        if self._damaged:
            await self._tell_damage()
        else:
            await self._tell_ends()

    async def _tell_damage(self) -> None:
        # What comes in for a key meanwhile is told next, so it must not be dropped with this.
        told = dict(list(self._damaged.items())[:_LOGS_PER_REPORT])
        request = pb.ExecuteRequest()
        report = request.report_damaged_logs
        report.node_id, report.node_epoch = self._hosted.node_id, self._hosted.cluster.node_epoch
        for (topic_id, partition), damage in told.items():
            report.logs.add(
                topic_id=topic_id,
                partition=partition,
                reason=damage.reason,
                partition_epoch=damage.partition_epoch,
            )
        response = await self._hosted.cluster.execute(request)
        unknown = {
            (answer.topic_id, answer.partition)
            for answer in response.altered_partitions.partitions
            if answer.reason == "NOT_CONTROLLER"
        }
        _forget(self._damaged, {key: told[key] for key in told if key not in unknown})
        if unknown:
            raise ServiceError("NOT_CONTROLLER", "the controller knows less than the image here")

    async def _tell_ends(self) -> None:
        told = dict(list(self._recovered.items())[:_LOGS_PER_REPORT])
        request = pb.ExecuteRequest()
        report = request.report_recovered_logs
        report.node_id, report.node_epoch = self._hosted.node_id, self._hosted.cluster.node_epoch
        for (topic_id, partition), end in told.items():
            report.logs.add(
                topic_id=topic_id,
                partition=partition,
                last_epoch=end.last_epoch,
                synced_end_offset=end.synced_end_offset,
            )
        await self._hosted.cluster.execute(request)
        _forget(self._recovered, told)


def _forget(waiting: dict[Key, News], told: Mapping[Key, News]) -> None:
    for key, news in told.items():
        if waiting.get(key) == news:
            del waiting[key]
