"""The shards of this node: taken and given up as the image's leases say.

A lease counts only if this very start of the process is registered: under a lease of the start
before, writes of that process may still be under way (invariant 28).
"""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from millstream_raft.delta import Delta
from millstream_raft.image import Image
from millstream_server.cluster.metadata_plane import NodePlane
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.log_ports import ShardLogs
from millstream_server.coordinator.shard_runtime import ShardPhase, ShardRuntime
from millstream_server.coordinator.topics import TopicIndex, index_of
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock

_log = structlog.get_logger()


class Shards:
    """See the module."""

    def __init__(
        self,
        config: CoordinatorConfig,
        identity: NodeIdentity,
        cluster: NodePlane,
        logs: ShardLogs,
        clock: Clock,
        new_shard: Callable[[], GroupShard],
    ) -> None:
        self.topics = TopicIndex()
        self._config = config
        self._identity = identity
        self._cluster = cluster
        self._logs = logs
        self._clock = clock
        self._new_shard = new_shard
        self._runtimes: dict[int, ShardRuntime] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._stopping = False

    def of_group(self, group_id: str) -> ShardRuntime:
        """The shard of a group. Raises ServiceError NOT_COORDINATOR or COORDINATOR_LOADING."""
        image = self._cluster.image
        number = image.shard_of_group(group_id)
        if number is None:
            raise ServiceError("COORDINATOR_LOADING", "no group was used in this cluster yet")
        runtime = self._runtimes.get(number)
        if runtime is not None:
            return runtime
        if self._owned_epoch(image, number) is not None and not self._stopping:
            raise ServiceError("COORDINATOR_LOADING", f"shard {number} is being taken over")
        raise ServiceError("NOT_COORDINATOR", f"shard {number} belongs to another coordinator")

    def check_used(self, group_id: str) -> None:
        """Raise ServiceError UNKNOWN_GROUP while no group ever was in this cluster: asking for one
        does not make the topic that would hold it."""
        if self._cluster.image.shard_of_group(group_id) is None:
            raise ServiceError("UNKNOWN_GROUP", f"there is no group {group_id!r}")

    def serving(self) -> Iterator[ShardRuntime]:
        """The shards that are served now."""
        for runtime in self._runtimes.values():
            if runtime.phase is ShardPhase.SERVING:
                yield runtime

    def follow(self, delta: Delta) -> None:
        """Take in a step of the image."""
        if self._topics_changed(delta):
            self.topics = index_of(delta.image)
            topics = self.topics
            gone = frozenset(topic.topic_id for topic in delta.removed_topics)
            for runtime in self.serving():
                runtime.change(lambda core, now: core.topics_changed(topics, now))
                if gone:
                    runtime.change(lambda core, _: core.positions.topics_removed(gone))
        if delta.changed_shards or delta.reset or self._identity.node_id in delta.changed_node_ids:
            self._follow_leases(delta.image)

    async def drain(self) -> None:
        """Take in nothing more; wait until everything taken in is stored, for a while."""
        self._stopping = True
        draining = [asyncio.ensure_future(one.drain()) for one in self._runtimes.values()]
        if draining:
            timeout_s = self._config.stop_timeout_ms / 1000
            _, late = await asyncio.wait(draining, timeout=timeout_s)
            for task in late:
                _log.warning("a shard could not store everything in time")
                task.cancel()

    async def close(self) -> None:
        """Give all shards up."""
        self._stopping = True
        for number in list(self._runtimes):
            self._give_up(number)
        if self._closing:
            await asyncio.gather(*self._closing)

    def _follow_leases(self, image: Image) -> None:
        for number, runtime in list(self._runtimes.items()):
            if self._owned_epoch(image, number) != runtime.lease.shard_epoch:
                self._give_up(number)
        if self._stopping:
            return
        for lease in image.shards:
            owned = self._owned_epoch(image, lease.shard) is not None
            if owned and lease.shard not in self._runtimes:
                self._runtimes[lease.shard] = ShardRuntime(
                    lease,
                    self._identity.node_id,
                    self._logs.shard(lease.shard),
                    config=self._config,
                    clock=self._clock,
                    new_shard=self._new_shard,
                    topics=lambda: self.topics,
                    in_session=self._cluster.in_session,
                )

    def _owned_epoch(self, image: Image, number: int) -> int | None:
        """Epoch of a shard that this node owns, None if it does not."""
        node = image.node(self._identity.node_id)
        if node is None or node.fenced or node.incarnation_id != self._identity.incarnation_id:
            return None
        if number >= len(image.shards) or image.shards[number].owner_id != node.node_id:
            return None
        return image.shards[number].shard_epoch

    def _give_up(self, number: int) -> None:
        runtime = self._runtimes.pop(number)
        _log.info("shard given up", shard=number, shard_epoch=runtime.lease.shard_epoch)
        closing = asyncio.ensure_future(runtime.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _topics_changed(self, delta: Delta) -> bool:
        if delta.reset or delta.removed_topics:
            return True
        for topic_id in delta.changed_topic_ids:
            before = delta.previous.topics.get(topic_id)
            after = delta.image.topics[topic_id]
            if before is None or len(before.partitions) != len(after.partitions):
                return True
        return False
