"""Snapshots in the words that PySyncObj uses for its ``Serializer``, which forks or pickles."""

from collections.abc import Callable
from typing import Any

from millstream_raft.ports import FailStop
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import LogEntry
from millstream_raft.snapshot_file import Snapshot, SnapshotAssembly, SnapshotFile, SnapshotSender

# The library's names for the states of its writer.
_NOT_WRITING = 0
_WRITTEN = 2


class LibrarySnapshots:
    """What the library takes for its ``Serializer``."""

    def __init__(
        self,
        snapshots: SnapshotFile,
        dump: Callable[[], bytes],
        restore: Callable[[Snapshot], None],
        fail_stop: FailStop,
        config: RaftConfig,
    ) -> None:
        self._snapshots = snapshots
        self._dump, self._restore = dump, restore
        self._fail_stop = fail_stop
        self._part_bytes = config.snapshot_part_bytes
        self._assembly = SnapshotAssembly(config.snapshot_bytes_max)
        self._senders: dict[Any, SnapshotSender] = {}
        self._written_id: int | None = None

    def checkSerializing(self) -> tuple[int, int | None]:
        written, self._written_id = self._written_id, None
        if written is None:
            return _NOT_WRITING, None
        return _WRITTEN, written

    def serialize(self, data: tuple[Any, ...], identifier: int) -> None:
        _, last, previous, _ = data
        self._snapshots.write(Snapshot(LogEntry(*last), LogEntry(*previous), self._dump()))
        self._written_id = identifier
        for node in list(self._senders):
            self.cancelTransmisstion(node)

    def deserialize(self) -> tuple[None, LogEntry, LogEntry, None]:
        snapshot = self._snapshots.take()
        if snapshot is None:
            self._fail_stop("the library asked for a snapshot that is not there")
        self._restore(snapshot)
        return None, snapshot.last, snapshot.previous, None

    def getTransmissionData(self, node: Any) -> tuple[Any, bool, bool] | None:
        sender = self._senders.get(node)
        if sender is None:
            sender = self._snapshots.open_for_sending(self._part_bytes)
            if sender is None:
                return None
            self._senders[node] = sender
        try:
            part = sender.next_part()
        except OSError as error:
            self._fail_stop(f"cannot read the snapshot: {error}")
        if part.complete:
            self.cancelTransmisstion(node)
        return part, part.position == 0, part.complete

    def setTransmissionData(self, data: tuple[Any, bool, bool] | None) -> bool:
        if data is None:
            return False
        part = data[0]
        whole = self._assembly.add(part)
        return whole is not None and self._snapshots.install(whole, part.last)

    def cancelTransmisstion(self, node: Any) -> None:
        sender = self._senders.pop(node, None)
        if sender is not None:
            sender.close()
