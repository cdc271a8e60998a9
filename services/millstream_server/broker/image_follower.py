"""Brings the replicas in line with the image: which logs exist here, and which are led.

Changes are collected by the partitions they touch and worked off by one task, one after another,
so that the newest image counts and the disk is never asked for two things of one log at once.
Data is never removed because the metadata lacks it: only a deletion that was seen as such takes a
log out of use, and what was set aside stays on the disk for a while.
"""

import asyncio
from functools import partial

import structlog

from millstream_raft.delta import Delta
from millstream_raft.image import Image, PartitionState, TopicState
from millstream_raft.topic_config import TopicSettings, settings
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.jobs import run_job
from millstream_server.broker.log_reports import Damage, LogEnd, LogReports
from millstream_server.broker.log_settings import log_config
from millstream_server.broker.partition import Partition, Role
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.replication.followed_partitions import FollowedPartitions
from millstream_server.runtime.ports import Executor
from millstream_server.storage.errors import LogDamagedError, StorageError

_log = structlog.get_logger()
_Key = tuple[bytes, int]


class ImageFollower:
    """Follows the image for one broker. Everything runs on the event loop but disk work."""

    def __init__(
        self,
        hosted: HostedPartitions,
        upkeep: Executor,
        followed: FollowedPartitions,
        reports: LogReports,
    ) -> None:
        self._hosted = hosted
        self._followed = followed
        self._reports = reports
        hosted.on_log_failed = self._log_failed
        self._upkeep, self._node_id = upkeep, hosted.node_id
        # In the order in which they changed.
        self._changed: dict[_Key, None] = {}
        self._removed: list[TopicState] = []
        # Partitions with rot in the log here, and their epochs when it was met.
        self._damage_met: dict[_Key, int] = {}
        # Partitions whose damaged log here the image knows of, until it is sound again.
        self._damage_known: dict[_Key, None] = {}
        # What the disk refused to open or to begin an epoch in, say for want of room, or failed as
        # nobody foresaw; and deleted topics whose logs it did not set aside.
        self._refused: dict[_Key, None] = {}
        self._undeleted: dict[bytes, TopicState] = {}
        self._wake = asyncio.Event()
        # Monotonic times at which logs were set aside and not removed yet.
        self.set_aside_ms: list[int] = []
        self._orphans_told = False

    def image_changed(self, delta: Delta) -> None:
        """Note what a step of the image touches. A subscriber of the cluster."""
        touched = set(delta.changed_partitions)
        if self._node_id in delta.changed_node_ids:
            for topic, state in delta.image.partitions_of_node(self._node_id):
                touched.add((topic.topic_id, state.number))
        for topic_id in delta.changed_topic_ids:
            touched.update(key for key in self._hosted.replicas if key[0] == topic_id)
        for topic in delta.removed_topics:
            if delta.reset:  # the image lacks it; that alone is no deletion
                touched.update(key for key in self._hosted.replicas if key[0] == topic.topic_id)
            else:
                self._removed.append(topic)
        self._changed.update(dict.fromkeys(sorted(touched)))
        self._wake.set()

    def _log_failed(self, key: _Key) -> None:
        self._changed[key] = None
        self._wake.set()

    def try_again(self) -> None:
        """Take up once more what the disk refused; there may be room now."""
        if self._refused or self._undeleted:
            self._changed.update(self._refused)
            self._removed.extend(self._undeleted.values())
            self._wake.set()

    async def run(self) -> None:
        """Work off what changed, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            removed, self._removed = self._removed, []
            for topic in removed:
                await self._delete(topic)
            while self._changed:
                key = next(iter(self._changed))
                del self._changed[key]
                try:
                    await self._align(key)
                    self._refused.pop(key, None)
                except StorageError as error:
                    self._storage_failed(key, error)
                except Exception:  # noqa: BLE001
                    # One partition that cannot be served must not stop all the others.
                    if key not in self._refused:
                        _log.exception("partition cannot be served", key=f"{key[0].hex()}-{key[1]}")
                    self._refused[key] = None
            self._tell_orphans()

    @property
    def image(self) -> Image:
        """The newest image."""
        return self._hosted.cluster.image

    def _registered(self) -> bool:
        """True once the image holds this broker's own registration (invariant 3)."""
        node = self.image.node(self._node_id)
        epoch = self._hosted.cluster.node_epoch
        return node is not None and epoch > 0 and node.epoch == epoch and not node.fenced

    async def _align(self, key: _Key) -> None:
        topic = self.image.topics.get(key[0])
        state = self.image.partition(*key)
        replica = self._hosted.replicas.get(key)
        if topic is None or state is None or self._node_id not in state.replicas:
            if replica is not None:
                self._drop(replica)
            return
        if self._hosted.offline is not None or not self._registered():
            if replica is not None and state.leader_id != self._node_id:
                self._follow(replica, state)
            if replica is not None and isinstance(replica.log.failure, LogDamagedError):
                await self._mark(key)
            return
        if replica is None:
            replica = await self._open(topic, state)
        else:
            self._configure(replica, topic)
        if not isinstance(replica.log.failure, LogDamagedError):
            self._damage_met.pop(key, None)
        if self._may_cut(key, state):
            replica = await self._cut_damage(replica, topic, state)
        elif isinstance(replica.log.failure, LogDamagedError):
            replica = await self._repair(replica, topic, state)
        elif self._node_id in state.last_known_elr and state.leader_id is None:
            # It is elected when all who lost their place have told theirs (invariant 7).
            log = replica.log
            end = LogEnd(log.epochs.latest or 0, log.synced_end_offset)
            self._reports.recovered(key, end)
        if state.leader_id == self._node_id:
            await self._lead(replica, state)
        else:
            self._follow(replica, state)

    async def _mark(self, key: _Key) -> None:
        """Never forget damage, should the process end before all is done. Raises StorageError."""
        await run_job(self._upkeep, partial(self._hosted.directory.mark_damaged_log, *key))

    async def _repair(self, replica: Replica, topic: TopicState, state: PartitionState) -> Replica:
        """Rot was found: never led from, never cut (invariant 34)."""
        try:
            await self._mark((topic.topic_id, state.number))
        except StorageError:  # the disk is asked again
            await self._leave_damaged(replica, topic, state)
            raise
        return await self._leave_damaged(replica, topic, state)

    async def _leave_damaged(
        self, replica: Replica, topic: TopicState, state: PartitionState
    ) -> Replica:
        """First the replica leaves every set, so that nobody counts on it; then its log is set
        aside and copied anew.

        Outside of them all its leader may be proposing it right now, by what this log was before.
        No such proposal is accepted once the partition epoch has stepped, which the report sees to.
        """
        own = replica.state
        key = (own.topic_id, own.number)
        met_at = self._damage_met.setdefault(key, state.partition_epoch)
        places = (*state.isr, *state.elr, *state.last_known_elr)
        has_place = self._node_id in places or self._node_id == state.leader_id
        if state.leader_id is None and not has_place:
            return replica  # it may be all that is left: the operator decides (invariant 5)
        if has_place or state.partition_epoch == met_at:
            damage = Damage(state.partition_epoch, str(replica.log.failure))
            self._reports.damaged(key, damage)
            return replica
        self._drop(replica)
        self._damage_met[key] = met_at  # should the disk refuse: nobody can propose it any more
        await run_job(
            self._upkeep, partial(self._hosted.directory.set_aside_log, *key, damaged=True)
        )
        del self._damage_met[key]
        _log.warning("damaged log set aside, copying anew", partition=str(own))
        return await self._open(topic, state)

    def _may_cut(self, key: _Key, state: PartitionState) -> bool:
        """True if this replica was elected although the image knew of damage in its log: nobody
        but an operator, who named it, can have ordered that (invariants 5 and 34)."""
        if self._node_id in state.damaged:
            self._damage_known[key] = None
            return False
        if state.leader_id == self._node_id and state.recovering:
            return key in self._damage_known
        self._damage_known.pop(key, None)
        return False

    async def _cut_damage(
        self, replica: Replica, topic: TopicState, state: PartitionState
    ) -> Replica:
        """Cut the log where the damage begins, and take up what is sound."""
        key = (topic.topic_id, state.number)
        error = str(replica.log.failure or "none was met since the start")
        log = await run_job(self._upkeep, partial(self._hosted.directory.cut_damaged_log, *key))
        _log.error(
            "damaged log cut by an operator's order, what was behind the damage is lost",
            partition=f"{topic.name}-{state.number}",
            error=error,
            start_offset=log.start_offset,
            end_offset=log.end_offset,
        )
        self._damage_known.pop(key, None)
        self._drop(replica)
        return await self._open(topic, state)

    def _settings(self, topic: TopicState) -> TopicSettings:
        return settings(topic.configs, self._hosted.config.topic_defaults)

    async def _open(self, topic: TopicState, state: PartitionState) -> Replica:
        chosen = self._settings(topic)
        config = log_config(self._hosted.config.log_defaults, chosen, topic, state)
        directory = self._hosted.directory
        key = (topic.topic_id, state.number)
        log = directory.logs.get(key)
        if log is None:
            log = await run_job(self._upkeep, partial(directory.create_log, *key, config))
        else:
            log.configure(config)
        replica = Replica(
            Partition(topic.topic_id, topic.name, state.number, self._node_id),
            log,
            chosen,
            self._hosted.counters.topic(topic.name),
            self._hosted,
        )
        replica.internal = topic.internal
        replica.state.resign(state)  # until it leads or follows it answers by the newest epochs
        self._hosted.replicas[key] = replica
        return replica

    def _configure(self, replica: Replica, topic: TopicState) -> None:
        chosen = self._settings(topic)
        state = topic.partitions[replica.state.number]
        config = log_config(self._hosted.config.log_defaults, chosen, topic, state)
        if config != replica.log.config:
            replica.log.configure(config)
        replica.settings = chosen

    async def _lead(self, replica: Replica, state: PartitionState) -> None:
        own = replica.state
        if replica.log.failure is not None:
            return
        # An epoch that is still being begun here is one that the disk refused to begin.
        if own.role is Role.LEADING and own.leader_epoch == state.leader_epoch:
            replica.deliver(own.update(state))
            self._sync_if_behind(replica)
            return
        log = replica.log
        self._followed.leave((own.topic_id, own.number))
        replica.deliver(own.elect(state, log.end_offset, log.synced_end_offset))
        begun: asyncio.Future[tuple[int | None, StorageError | None]] = (
            asyncio.get_running_loop().create_future()
        )

        def done(start_offset: int | None, error: StorageError | None) -> None:
            if not begun.done():  # else the broker is stopping
                begun.set_result((start_offset, error))

        self._hosted.writer.begin_epoch(log, state.leader_epoch, done)
        start_offset, error = await begun
        if error is not None:
            raise error
        assert start_offset is not None
        replica.deliver(
            own.begin_epoch(state.leader_epoch, start_offset, log.end_offset, log.synced_end_offset)
        )
        self._sync_if_behind(replica)
        _log.info(
            "leading",
            topic=own.topic,
            partition=own.number,
            leader_epoch=own.leader_epoch,
            end_offset=own.end_offset,
        )

    def _sync_if_behind(self, replica: Replica) -> None:
        """In fsync mode everything written before it must be synced once (invariant 10)."""
        log, own = replica.log, replica.state
        if not own.fsync:
            return
        # What was synced in the background before the mode became fsync counts at once.
        replica.deliver(own.written(log.written_end_offset, log.synced_end_offset))
        if log.synced_end_offset >= log.end_offset:
            return

        def synced(_: object, error: StorageError | None) -> None:
            if error is not None:
                self._hosted.note_failure(replica, error)
            elif own.leading:
                replica.deliver(own.written(log.written_end_offset, log.synced_end_offset))

        self._hosted.writer.run(log, log.flush, synced)

    def _follow(self, replica: Replica, state: PartitionState) -> None:
        own = replica.state
        led = own.role in (Role.LEADING, Role.STARTING)
        if state.leader_id is not None:
            replica.deliver(own.follow(state))
            self._followed.follow(replica, state)
        else:
            replica.deliver(own.resign(state))
            self._followed.leave((own.topic_id, own.number))
        if led:
            _log.info("leading no more", topic=own.topic, partition=own.number)
        try:
            # Whoever read from the leader shall look for the nearest replica again.
            (replica.check_readable if led else partial(replica.check_fetchable, None))()
        except Refusal as refusal:
            replica.lose_readers(refusal)

    def _drop(self, replica: Replica) -> None:
        """The partition is no longer here; its data stays."""
        own = replica.state
        key = (own.topic_id, own.number)
        self._hosted.replicas.pop(key, None)
        self._damage_met.pop(key, None)
        self._followed.leave(key)
        replica.deliver(own.resign(None))
        replica.lose_readers(Refusal("UNKNOWN_TOPIC", "the topic or partition is gone"))

    async def _delete(self, topic: TopicState) -> None:
        """A topic was deleted: take its logs out of use; they are removed after a while."""
        known = self._undeleted.pop(topic.topic_id, None) is not None
        for number in range(len(topic.partitions)):
            key = (topic.topic_id, number)
            replica = self._hosted.replicas.get(key)
            if replica is not None:
                self._drop(replica)
            if key not in self._hosted.directory.logs:
                continue
            try:
                await run_job(self._upkeep, partial(self._hosted.directory.set_aside_log, *key))
            except StorageError as error:
                if not known:
                    _log.error("log not set aside", topic=topic.name, error=str(error))
                self._undeleted[topic.topic_id] = topic
                continue
            self.set_aside_ms.append(self._hosted.clock.monotonic_ms())
            _log.info("log set aside", topic=topic.name, partition=number)
        if self._hosted.directory.offline_reason is not None:
            self._hosted.go_offline(self._hosted.directory.offline_reason)
        if topic.name not in self.image.topic_ids:  # else another has its name by now
            self._hosted.counters.topics.pop(topic.name, None)

    def _storage_failed(self, key: _Key, error: StorageError) -> None:
        replica = self._hosted.replicas.get(key)
        if key not in self._refused:
            name = f"{key[0].hex()}-{key[1]}"
            _log.error("partition cannot be served", key=name, error=str(error))
        self._refused[key] = None
        if replica is not None:
            self._hosted.note_failure(replica, error)
            return
        # Others may lead what cannot be opened here.
        refused = self._hosted.note_disk_refusal(error)
        if not refused and self._hosted.directory.offline_reason is not None:
            self._hosted.go_offline(self._hosted.directory.offline_reason)

    def _tell_orphans(self) -> None:
        if self._orphans_told or not self._registered():
            return
        self._orphans_told = True
        for topic_id, number in self.orphans():
            _log.warning(
                "log without metadata is kept, not served",
                topic_id=topic_id.hex(),
                partition=number,
            )

    def orphans(self) -> list[_Key]:
        """Logs of partitions that the image does not know, or not here."""
        image, node_id = self.image, self._node_id
        return [
            (topic_id, number)
            for topic_id, number in self._hosted.directory.logs
            if (state := image.partition(topic_id, number)) is None or node_id not in state.replicas
        ]
