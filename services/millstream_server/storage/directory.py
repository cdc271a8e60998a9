"""The log directory of a node: whose it is, which logs it holds, how it was left.

::

    identity  node-epoch  clean-shutdown  log-points      checkpoints, see their modules
    <topic id, hex>-<partition>/                          one log
        <base offset>.log .index .timeindex               its segments
        <offset>.producers  leader-epochs  mark           its checkpoints
    <topic id, hex>-<partition>.<n>.deleted/              set aside, to be removed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from millstream_server.runtime.checkpoint import TEMPORARY_SUFFIX
from millstream_server.runtime.ports import Clock, Files
from millstream_server.storage.config import DirectoryConfig, LogConfig
from millstream_server.storage.errors import (
    DirectoryMismatchError,
    LogDamagedError,
    StorageError,
)
from millstream_server.storage.folder_checkpoints import (
    DirectoryIdentity,
    FolderCheckpoints,
    check_identity,
)
from millstream_server.storage.health import DirectoryHealth, is_refusal
from millstream_server.storage.log import Log
from millstream_server.storage.log_mark import mark_cut, mark_rot, read_mark, remove_mark
from millstream_server.storage.log_state import LogKey, LogSurroundings
from millstream_server.storage.points import LogPoints, Points
from millstream_server.storage.recovery import LogRecovery, RecoveredLog
from millstream_server.storage.segments import DELETED_SUFFIX
from millstream_server.storage.trash import Trash

# What rot was found in; nothing removes it but people.
DAMAGED_SUFFIX = ".damaged"


@dataclass(frozen=True, slots=True)
class RecoveryProgress:
    """How far ``LogDirectory.open`` is, or what it did."""

    logs_done: int = 0
    logs_total: int = 0
    # Bytes of segments read and verified so far.
    scanned_bytes: int = 0
    # Bytes of torn tails cut so far.
    cut_bytes: int = 0
    # Logs found damaged so far (they are offline).
    damaged_logs: int = 0


class LogDirectory:
    """All logs of a node. ``open`` and ``close`` block; the other methods say so."""

    def __init__(
        self,
        path: str,
        files: Files,
        clock: Clock,
        config: DirectoryConfig,
        *,
        random: Random,
    ) -> None:
        """Nothing is touched yet. ``random`` makes the directory id; a ``SystemRandom`` in
        production. Raises ValueError for an invalid config."""
        config.validate()
        self.path = path
        self.config = config
        self.health = DirectoryHealth(path, clock)
        # Random, 16 bytes, made once; known after ``open`` (invariant 7).
        self.directory_id = b""
        # Node epoch last recorded before this start; None if there was none.
        self.previous_node_epoch: int | None = None
        # True if the directory was left by ``close`` under ``previous_node_epoch``, or is new.
        self.clean_shutdown = False
        # True once the controller knows how the directory was left.
        self._is_told = False
        # What ``open`` had to do.
        self.recovery = RecoveryProgress()
        self.logs: dict[tuple[bytes, int], Log] = {}
        # Logs that ``open`` cut a tail off, or found damaged: their replicas can prove no place
        # in the in-sync set (invariant 7).
        self.cut_logs: list[LogKey] = []
        self._files = files
        self._clock = clock
        self._random = random
        self._checkpoints = FolderCheckpoints(files, path)
        self._points = LogPoints(files, path)
        self._node_epoch = 0
        # What was set aside and is to be removed.
        self.trash = Trash(files, self.health, config.trash_files_per_turn)

    # -- opening ---------------------------------------------------------------------------------
    def open(self, progress: Callable[[RecoveryProgress], None] | None = None) -> None:
        """Check whose directory it is, recover every log, set leftovers aside.

        The caller holds the lock on the node's folder. Raises ForeignClusterError,
        ForeignNodeError, NewerFormatError, DirectoryMismatchError, DirectoryOfflineError.
        """
        try:
            self._files.make_directory(self.path)
            names = self._files.list_directory(self.path)
            keys = {name: key for name in names if (key := LogKey.of_folder(name)) is not None}
            is_new = self._take_identity(bool(keys))
            recorded = self._checkpoints.read_node_epoch()
            marker = self._checkpoints.take_clean_shutdown()
            self.previous_node_epoch = recorded
            self._node_epoch = recorded or 0
            self.clean_shutdown = is_new or marker == self._node_epoch
            self._is_told = self.clean_shutdown
            self._points.load()
            self._collect_leftovers(names)
            self.recovery = RecoveryProgress(logs_total=len(keys))
            for name, key in keys.items():
                self._recover_log(name, key, progress)
            self.save_points()
        except OSError as error:
            raise self.health.fail("opening it", error) from error

    def _take_identity(self, has_logs: bool) -> bool:
        """Check or write the identity; True if the directory is new."""
        config = self.config
        identity = self._checkpoints.read_identity()
        if identity is None and has_logs:
            raise DirectoryMismatchError(
                f"{self.path} holds logs, but does not say whose: its identity file is missing"
            )
        is_new = identity is None
        if identity is None:
            directory_id = self._random.randbytes(16).hex()
            identity = DirectoryIdentity(config.cluster_id, config.node_id, directory_id)
            self._checkpoints.write_identity(identity)
        check_identity(identity, self.path, config.cluster_id, config.node_id)
        self.directory_id = bytes.fromhex(identity.directory_id)
        return is_new

    def _collect_leftovers(self, names: Iterable[str]) -> None:
        """Find what an earlier run set aside or left half written."""
        for name in names:
            path = f"{self.path}/{name}"
            if name.endswith(DELETED_SUFFIX):
                self.trash.take([path])
            elif name.endswith(TEMPORARY_SUFFIX):
                self._files.remove(path)
            elif LogKey.of_folder(name) is not None:
                for inner in self._files.list_directory(path):
                    if inner.endswith(DELETED_SUFFIX):
                        self.trash.take([f"{path}/{inner}"])
                    elif inner.endswith(TEMPORARY_SUFFIX):
                        self._files.remove(f"{path}/{inner}")

    def _recover_log(
        self, name: str, key: LogKey, progress: Callable[[RecoveryProgress], None] | None
    ) -> None:
        def report(scanned_bytes: int) -> None:
            now = self.recovery
            self.recovery = replace(now, scanned_bytes=now.scanned_bytes + scanned_bytes)
            if progress is not None:
                progress(self.recovery)

        recovered = LogRecovery(
            self._files,
            f"{self.path}/{name}",
            self.config.log_defaults,
            self._points.get(name),
            clean=self.clean_shutdown,
            report=report,
            before_cut=partial(self._mark_cut, f"{self.path}/{name}"),
        ).run()
        now = self.recovery
        self.recovery = replace(
            now,
            logs_done=now.logs_done + 1,
            cut_bytes=now.cut_bytes + recovered.cut_bytes,
            damaged_logs=now.damaged_logs + (recovered.state.damage is not None),
        )
        if recovered.lost_tail or recovered.state.damage is not None:
            self.cut_logs.append(key)
        self._adopt(key, self.config.log_defaults, recovered)
        if progress is not None:
            progress(self.recovery)

    def _mark_cut(self, folder: str) -> None:
        # A second start finds nothing to cut, though nobody may have heard of the first.
        try:
            mark_cut(self._files, folder)
        except OSError as error:
            if not is_refusal(error):
                raise
            # No room for it. Without the epoch no log of the directory proves a place.
            self._checkpoints.forget_node_epoch()

    def _adopt(self, key: LogKey, config: LogConfig, recovered: RecoveredLog) -> Log:
        surroundings = LogSurroundings(
            self._files,
            self.health,
            self._points,
            self.trash.take,
            self.config.recovery_point_bytes,
        )
        path = f"{self.path}/{key.folder_name}"
        log = Log(key, path, config, recovered.state, surroundings)
        if recovered.state.damage is None:
            log.put_points()
        self.logs[key] = log
        return log

    # -- facts -----------------------------------------------------------------------------------
    @property
    def offline_reason(self) -> StorageError | None:
        """Why nothing here works any more; None while all is well (any thread)."""
        return self.health.failure

    def disk_usage(self) -> tuple[int, int]:
        """(total, free) bytes of the disk. Raises OSError."""
        return self._files.disk_usage(self.path)

    def damaged_logs(self) -> list[LogKey]:
        """Logs that are offline because rot was found in them."""
        logs = list(self.logs.values())
        return [log.key for log in logs if isinstance(log.failure, LogDamagedError)]

    # -- logs ------------------------------------------------------------------------------------
    def create_log(self, topic_id: bytes, partition: int, config: LogConfig) -> Log:
        """Make the log of a partition, or return the one that is there with its settings replaced.
        Blocks for a few syncs; to be called where ``logs`` is read (the loop, or before it runs).

        Raises DiskFullError, DirectoryOfflineError, ValueError.
        """
        self.health.check()
        config.validate()
        if len(topic_id) != 16 or not 0 <= partition < 2**31:
            raise ValueError(f"no partition has topic id {topic_id!r} and number {partition}")
        key = LogKey(topic_id, partition)
        if key in self.logs:
            self.logs[key].configure(config)
            return self.logs[key]
        folder = f"{self.path}/{key.folder_name}"
        self._points.expect(key.folder_name)
        try:
            self._files.make_directory(folder)
            self._files.sync_directory(self.path)
            recovered = LogRecovery(
                self._files, folder, config, self._points.get(key.folder_name), clean=False
            ).run()
            log = self._adopt(key, config, recovered)
            self._points.save()
        except OSError as error:
            half_made = self.logs.pop(key, None)
            if half_made is not None:
                half_made.retire()
            raise self.health.refusal("making a log", error) from error
        return log

    def set_aside_log(self, topic_id: bytes, partition: int, *, damaged: bool = False) -> bool:
        """Take a log out of use at once: its folder is renamed, and removed later by
        ``trash``, unless it is ``damaged``: that one stays for people to look at. False if
        there is none. Blocks for two syncs. Raises StorageError."""
        log = self.logs.get((topic_id, partition))
        if log is None:
            return False
        self.health.check()
        name = log.key.folder_name
        log.is_moving = True
        try:
            number = 0
            suffix = DAMAGED_SUFFIX if damaged else DELETED_SUFFIX
            while self._files.exists(aside := f"{log.path}.{number}{suffix}"):
                number += 1
            self._files.rename(log.path, aside)
        except OSError as error:
            # It is where it was: a damaged log must not come back as a sound one.
            log.is_moving = False
            raise self.health.refusal("setting a log aside", error) from error
        del self.logs[log.key]
        log.retire()
        self._points.drop(name)
        if not damaged:
            self.trash.take([aside])
        try:
            self._files.sync_directory(self.path)
        except OSError as error:
            raise self.health.refusal("setting a log aside", error) from error
        self.save_points()  # points without a log do no harm: a full disk may keep them for now
        return True

    def cut_damaged_log(self, topic_id: bytes, partition: int) -> Log:
        """Cut a damaged log where the damage begins, durably, and take up what is sound: only by
        an operator's order (invariant 34). What is behind the damage is gone. Reads the whole log;
        called as ``create_log``. Raises KeyError, DiskFullError, DirectoryOfflineError."""
        self.health.check()
        old = self.logs[topic_id, partition]
        name = old.key.folder_name
        known = self._points.get(name)
        try:
            if known is not None:  # what trusts the bytes goes first
                self._points.put(name, Points(known.start_offset, known.start_offset))
                self._points.save()
            recovered = LogRecovery(
                self._files, old.path, old.config, known, clean=False, cut_rot=True
            ).run()
        except OSError as error:
            raise self.health.refusal("cutting a damaged log", error) from error
        old.retire()
        log = self._adopt(old.key, old.config, recovered)
        self.save_points()
        return log

    # -- the node's life -------------------------------------------------------------------------
    def record_node_epoch(self, epoch: int) -> None:
        """Remember the node epoch durably, before serving under it (invariant 7): the controller
        has heard of ``cut_logs`` with it. Blocks. Raises StorageError."""
        self.health.check()
        try:
            self._checkpoints.write_node_epoch(epoch)
            for key in self.cut_logs:
                log = self.logs.get(key)
                if log is not None and not isinstance(log.failure, LogDamagedError):
                    remove_mark(self._files, log.path)
        except OSError as error:
            raise self.health.refusal("recording the node epoch", error) from error
        self._node_epoch = epoch
        self._is_told = True

    def mark_damaged_log(self, topic_id: bytes, partition: int) -> None:
        """Remember durably that a log is damaged, should the process end before it was set aside.
        Blocks. Raises KeyError, StorageError."""
        self.health.check()
        log = self.logs[topic_id, partition]
        if not isinstance(log.failure, LogDamagedError):
            return
        try:
            mark = read_mark(self._files, log.path)
            if mark is None or mark.rot is None:
                mark_rot(self._files, log.path, log.failure)
        except OSError as error:
            raise self.health.refusal("marking a damaged log", error) from error

    def save_points(self) -> None:
        """Make recovery points durable, as ``DirectoryWriter`` does after each job. Raises
        DirectoryOfflineError."""
        try:
            self._points.save()
        except OSError as error:
            refusal = self.health.refusal("writing recovery points", error)
            if refusal is self.health.failure:
                raise refusal from error

    def close(self) -> None:
        """Sync all logs, write snapshots, recovery points and the clean-shutdown marker; close the
        files. The writer must be idle. Without the marker if the directory is offline or a step
        fails, or if this start followed an unclean stop that nobody has heard of; a later start
        then recovers."""
        clean = self.health.failure is None
        for log in self.logs.values():
            try:
                if isinstance(log.failure, LogDamagedError):
                    self.mark_damaged_log(*log.key)
                elif clean and log.failure is None:
                    log.flush()
                    clean = log.recovery_point == log.written_end_offset
            except StorageError:
                clean = False
            log.retire()
        if clean and self.health.failure is None:
            try:
                self._points.save()
                if self._is_told:
                    self._checkpoints.write_clean_shutdown(self._node_epoch)
            except OSError as error:
                self.health.refusal("leaving the clean-shutdown marker", error)
