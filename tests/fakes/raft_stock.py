"""Voters on PySyncObj as it is shipped, without the layer, for what it does wrong."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from millstream_raft.library import VoterNode, enter_environment, library
from millstream_raft.library_messages import from_library
from millstream_raft.raft_messages import AppendEntries, Envelope, LogEntry, Message, TermNotice
from tests.fakes.raft_cluster import NEVER_MS, Cluster
from tests.fakes.raft_schedule import Schedule
from tests.fakes.raft_views import View

_SHARED_MEMORY = Path("/dev/shm")


class StockNode:
    """The library on a memory journal, unless its configuration names files."""

    def __init__(self, cluster: Cluster, node_id: int, **conf: Any) -> None:
        self.cluster, self.node_id = cluster, node_id
        self._seen: list[LogEntry] = []
        self._enter()
        settings = {
            "raftMinTimeout": NEVER_MS,
            "raftMaxTimeout": 2 * NEVER_MS,
            "connectionTimeout": 3 * NEVER_MS,
            "leaderFallbackTimeout": NEVER_MS,
            "logCompactionMinTime": NEVER_MS,
            "appendEntriesBatchSizeBytes": cluster.append_bytes_max,
            "logCompactionBatchSize": cluster.snapshot_part_bytes,
            "useFork": False,
            "pollerType": "select",  # the others keep a file descriptor per node
            **conf,
        }
        others = [VoterNode(other) for other in cluster.ids if other != node_id]
        self.core = _StockCore(
            self, VoterNode(node_id), others, library.SyncObjConf(autoTick=False, **settings)
        )
        cluster.network.receivers[node_id] = self.receive
        for other in others:
            self.core._SyncObj__transport._onNodeConnected(other)

    def receive(self, sender: int, sent: tuple[int, dict[str, Any]]) -> None:
        self._enter()
        term, message = sent
        with self.cluster.watched(self, sender, Envelope(term, _known(message))):
            self._run(self.core._SyncObj__transport._onMessageReceived, VoterNode(sender), message)

    def tick(self) -> None:
        self._enter()
        with self.cluster.watched(self):
            self._run(self.core.doTick, 0)

    def campaign(self) -> None:
        self.core._SyncObj__raftElectionDeadline = 0
        self.tick()

    def put(self, value: str) -> None:
        self._enter()
        acks = self.cluster.acks
        self.core.put(value, callback=lambda _, reason: acks.__setitem__(value, reason == 0))

    def compact(self) -> None:
        self.core.forceLogCompaction()

    def view(self) -> View:
        matches = self.core._SyncObj__raftMatchIndex if self.leads else {}
        nexts = self.core._SyncObj__raftNextIndex if self.leads else {}
        return View(
            term=self.term,
            leads=self.leads,
            entries=self._seen_entries(),
            commit_index=int(self.core.raftCommitIndex),
            applied_index=self.applied_index,
            matches={int(node.id): index for node, index in matches.items()},
            nexts={int(node.id): index for node, index in nexts.items()},
        )

    def _seen_entries(self) -> list[LogEntry]:
        entries = self.core._SyncObj__raftLog[:]
        if entries[: len(self._seen)] != self._seen:
            self._seen = []
        self._seen = self._seen + [LogEntry(*entry) for entry in entries[len(self._seen) :]]
        return self._seen

    @property
    def log(self) -> list[str]:
        """What was applied. A dump that is loaded replaces the list."""
        return self.core.values

    @property
    def leads(self) -> bool:
        return bool(self.core._isLeader())

    @property
    def term(self) -> int:
        return int(self.core.raftCurrentTerm)

    @property
    def is_current(self) -> bool:
        first_own = self.core._SyncObj__noopIDx
        return self.leads and first_own is not None and self.applied_index >= first_own

    @property
    def applied_index(self) -> int:
        return int(self.core.raftLastApplied)

    @property
    def last_index(self) -> int:
        return self.view().last_index

    def connected(self, other: int) -> None:
        self._enter()
        self.core._SyncObj__transport._onNodeConnected(VoterNode(other))

    def disconnected(self, other: int) -> None:
        self._enter()
        self.core._SyncObj__transport._onNodeDisconnected(VoterNode(other))

    def entries(self) -> list[tuple[int, int]]:
        journal = self.core._SyncObj__raftLog
        return [(journal[at][1], journal[at][2]) for at in range(len(journal))]

    def _enter(self) -> None:
        enter_environment(self.cluster.clock, self.cluster.chance)

    def _run(self, work: Callable[..., object], *arguments: object) -> None:
        work(*arguments)


def stock_schedule(seed: int, count: int) -> Schedule:
    """A schedule with what the library should endure: no power loss, since it syncs nothing, and
    no messages lost but at the end of what a connection carried, since it trusts TCP."""
    return Schedule(seed, count, StockFileNode, power_loss=False, overflow=False)


def _known(message: dict[str, Any]) -> Message:
    """A message as a value; what the layer does not know is nothing to a witness."""
    known = from_library(message)
    if isinstance(known, AppendEntries):
        return replace(known, entries=tuple(LogEntry(*entry) for entry in known.entries))
    return known or TermNotice()


class StockFiles:
    """The folder of one voter, in shared memory where there is some. ``kill -9`` leaves the page
    cache, so nothing that was written is lost; power loss is not for the library, which syncs
    nothing."""

    def __init__(self) -> None:
        where = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="raft-stock-", dir=where))
        self.crashed = False

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class StockFileNode(StockNode):
    """The library on its own journal and dump files, and without its batching delay of 100 ms, as
    one would use it for metadata."""

    def __init__(
        self, cluster: Cluster, node_id: int, files: StockFiles | None = None, **conf: Any
    ) -> None:
        if files is None:
            files = StockFiles()
            cluster.closing.callback(files.remove)
        self.files = files
        super().__init__(
            cluster,
            node_id,
            journalFile=str(self.files.folder / "journal"),
            fullDumpFile=str(self.files.folder / "dump"),
            **{"appendEntriesUseBatch": False, "appendEntriesPeriod": 0.05, **conf},
        )
        self._open = True
        cluster.closing.callback(self._close_journal)
        # The first tick loads the dump; only then does the library look for messages.
        self.core.doTick(0)

    def crash(self, power: None) -> tuple[StockFiles, list[LogEntry]]:
        """The files after a ``kill -9``, and the entries of the journal there. The node must not
        be used any more."""
        entries = self.view().entries
        self._close_journal()
        return self.files, entries

    def _close_journal(self) -> None:
        """Changes nothing in the files: the pages are the same for whoever opens them next."""
        if self._open:
            self.core._SyncObj__raftLog._destroy()
        self._open = False

    def _run(self, work: Callable[..., object], *arguments: object) -> None:
        """As the library's own thread does: log what is raised, and go on with the next tick."""
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.cluster.errors.append(repr(error))


class _StockTransport(library.Transport):  # type: ignore[misc]
    def __init__(self, core: Any, me: VoterNode, others: Any) -> None:
        super().__init__(core, me, others)
        self._core, self._network, self._me = core, core.owner.cluster.network, me.id

    def send(self, node: VoterNode, message: dict[str, Any]) -> bool:
        # The library sends no terms with its replies; the witness wants to know them.
        sent = int(self._core.raftCurrentTerm), dict(message)
        return bool(self._network.send(self._me, node.id, sent))


class _StockCore(library.SyncObj):  # type: ignore[misc]
    def __init__(self, owner: StockNode, me: VoterNode, others: Any, conf: Any) -> None:
        self.owner = owner
        super().__init__(me, others, conf, transportClass=_StockTransport)
        self.values: list[str] = []  # named after construction, hence part of a dump

    @library.replicated
    def put(self, value: str) -> None:
        self.values.append(value)
