"""The log directory of a node: whose it is, which logs it holds, how it was left.

::

    identity  node-epoch  clean-shutdown  log-points      checkpoints, see their modules
    <topic id, hex>-<partition>/                          one log
        <base offset>.log .index .timeindex               its segments
        <offset>.producers  leader-epochs                 its checkpoints
    <topic id, hex>-<partition>.<n>.deleted/              set aside, to be removed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from threading import Lock

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
from millstream_server.storage.health import DirectoryHealth
from millstream_server.storage.log import Log
from millstream_server.storage.log_state import LogKey, LogSurroundings
from millstream_server.storage.points import LogPoints, Points
from millstream_server.storage.recovery import LogRecovery, RecoveredLog
from millstream_server.storage.segments import DELETED_SUFFIX

# What rot was found in; nothing removes it but people.
DAMAGED_SUFFIX = ".damaged"
_LOG_FOLDER = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,9})")


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
        self._trash: list[str] = []
        self._trash_lock = Lock()

    # -- opening ---------------------------------------------------------------------------------
    def open(self, progress: Callable[[RecoveryProgress], None] | None = None) -> None:
        """Check whose directory it is, recover every log, set leftovers aside.

        The caller holds the lock on the node's folder. Raises ForeignClusterError,
        ForeignNodeError, NewerFormatError, DirectoryMismatchError, DirectoryOfflineError.
        """
        try:
            self._files.make_directory(self.path)
            names = self._files.list_directory(self.path)
            keys = {name: key for name in names if (key := _log_key(name)) is not None}
            is_new = self._take_identity(bool(keys))
            recorded = self._checkpoints.read_node_epoch()
            marker = self._checkpoints.take_clean_shutdown()
            self.previous_node_epoch = recorded
            self._node_epoch = recorded or 0
            self.clean_shutdown = is_new or marker == self._node_epoch
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
                self._trash.append(path)
            elif name.endswith(TEMPORARY_SUFFIX):
                self._files.remove(path)
            elif _log_key(name) is not None:
                for inner in self._files.list_directory(path):
                    if inner.endswith(DELETED_SUFFIX):
                        self._trash.append(f"{path}/{inner}")
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
        ).run()
        now = self.recovery
        self.recovery = replace(
            now,
            logs_done=now.logs_done + 1,
            cut_bytes=now.cut_bytes + recovered.cut_bytes,
            damaged_logs=now.damaged_logs + (recovered.state.damage is not None),
        )
        if recovered.cut_bytes or recovered.state.damage is not None:
            self.cut_logs.append(key)
        self._adopt(key, self.config.log_defaults, recovered)
        if progress is not None:
            progress(self.recovery)

    def _adopt(self, key: LogKey, config: LogConfig, recovered: RecoveredLog) -> Log:
        surroundings = LogSurroundings(
            self._files,
            self.health,
            self._points,
            self._take_trash,
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
        ``empty_trash``, unless it is ``damaged``: that one stays for people to look at. False if
        there is none. Blocks for two syncs. Raises StorageError."""
        log = self.logs.pop((topic_id, partition), None)
        if log is None:
            return False
        self.health.check()
        log.retire()
        name = log.key.folder_name
        try:
            number = 0
            suffix = DAMAGED_SUFFIX if damaged else DELETED_SUFFIX
            while self._files.exists(aside := f"{log.path}.{number}{suffix}"):
                number += 1
            self._files.rename(log.path, aside)
            self._files.sync_directory(self.path)
        except OSError as error:
            raise self.health.refusal("setting a log aside", error) from error
        if not damaged:
            self._take_trash([aside])
        self._points.drop(name)
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

    def _take_trash(self, paths: list[str]) -> None:
        with self._trash_lock:
            self._trash.extend(paths)

    def empty_trash(self) -> int:
        """Remove a bounded number of files of deleted topics and segments; return how many paths
        are left. Any thread but the event loop. Raises StorageError."""
        for _ in range(self.config.trash_files_per_turn):
            with self._trash_lock:
                path = self._trash.pop(0) if self._trash else None
            if path is None:
                break
            try:
                self._remove_one(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._take_trash([path])  # for the next turn
                raise self.health.refusal("removing a deleted file", error) from error
        with self._trash_lock:
            return len(self._trash)

    def _remove_one(self, path: str) -> None:
        if _LOG_FOLDER.match(path.rsplit("/", 1)[-1]) is None:
            self._files.remove(path)
            return
        # A folder goes file by file, so that one call never removes a whole terabyte.
        inside = self._files.list_directory(path)
        if inside:
            self._files.remove(f"{path}/{inside[0]}")
            self._take_trash([path])
        else:
            self._files.remove_tree(path)

    # -- the node's life -------------------------------------------------------------------------
    def record_node_epoch(self, epoch: int) -> None:
        """Remember the node epoch durably, before serving under it (invariant 7). Blocks. Raises
        StorageError."""
        self.health.check()
        try:
            self._checkpoints.write_node_epoch(epoch)
        except OSError as error:
            raise self.health.refusal("recording the node epoch", error) from error
        self._node_epoch = epoch

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
        fails; a later start then recovers."""
        clean = self.health.failure is None
        for log in self.logs.values():
            if clean and log.failure is None:
                try:
                    log.flush()
                except StorageError:
                    clean = False
                clean = clean and log.recovery_point == log.written_end_offset
            log.retire()
        if clean and self.health.failure is None:
            try:
                self._points.save()
                self._checkpoints.write_clean_shutdown(self._node_epoch)
            except OSError as error:
                self.health.refusal("leaving the clean-shutdown marker", error)


def _log_key(name: str) -> LogKey | None:
    """The partition whose log a folder of this name holds; None for other names."""
    match = _LOG_FOLDER.fullmatch(name)
    return LogKey(bytes.fromhex(match[1]), int(match[2])) if match else None
