"""Proposals that wait, and how those that wait at the same time share a log entry (group commit).

One entry is under way at a time; whatever is proposed meanwhile forms the next one. So the number
of fsyncs and messages follows the number of rounds, not of proposals.
"""

import asyncio
import threading
from collections import deque
from enum import Enum, auto

from google.protobuf.message import DecodeError

from millstream_raft.consensus import ENTRY_BYTES_MAX, NotProposed
from millstream_server.v1 import raft_storage_pb2 as storage


class Stage(Enum):
    """Where a proposal is. Moves down this list only."""

    #: Nobody but the queue knows of it: it can be withdrawn for certain.
    WAITING = auto()
    #: In the log of this node, perhaps of others.
    UNDER_WAY = auto()
    #: Its fate is told.
    ENDED = auto()


class Proposal:
    """An entry, or a barrier if ``entry`` is None, on its way."""

    __slots__ = ("entry", "stage", "waiter")

    def __init__(self, entry: bytes | None, waiter: "asyncio.Future[tuple[bytes, int]]") -> None:
        self.entry = entry
        self.stage = Stage.WAITING
        #: Who waits for result and index; touched on the event loop only.
        self.waiter = waiter


class ProposalQueue:
    """Filled and withdrawn from on the event loop, emptied on the raft thread."""

    def __init__(
        self,
        *,
        waiting_entries_max: int,
        waiting_bytes_max: int,
        batch_entries_max: int,
        batch_bytes_max: int,
    ) -> None:
        self._waiting_entries_max = waiting_entries_max
        self._waiting_bytes_max = waiting_bytes_max
        self._batch_entries_max = batch_entries_max
        self._batch_bytes_max = batch_bytes_max
        self._lock = threading.Lock()
        self._waiting: deque[Proposal] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, proposal: Proposal) -> bool:
        """Queue a proposal; True if the queue was empty, so that the raft thread must be woken.
        Raises NotProposed when it is too large or too much waits (invariant 40)."""
        size = _size(proposal)
        if size > ENTRY_BYTES_MAX:
            raise NotProposed(f"an entry of {size} bytes; at most {ENTRY_BYTES_MAX} are allowed")
        with self._lock:
            if (
                len(self._waiting) >= self._waiting_entries_max
                or self._bytes + size > self._waiting_bytes_max
            ):
                raise NotProposed("too many proposals wait for the metadata quorum; try again")
            self._waiting.append(proposal)
            self._bytes += size
            return len(self._waiting) == 1

    def withdraw(self, proposal: Proposal) -> bool:
        """True if the proposal still waited and now never will be made."""
        with self._lock:
            if proposal.stage is not Stage.WAITING:
                return False
            proposal.stage = Stage.ENDED
            self._waiting.remove(proposal)
            self._bytes -= _size(proposal)
            return True

    def take_batch(self) -> list[Proposal]:
        """The proposals of the next entry, oldest first; they are under way from now on."""
        batch: list[Proposal] = []
        size = 0
        with self._lock:
            while self._waiting and len(batch) < self._batch_entries_max:
                following = _size(self._waiting[0])
                if batch and size + following > self._batch_bytes_max:
                    break
                proposal = self._waiting.popleft()
                proposal.stage = Stage.UNDER_WAY
                size += following
                batch.append(proposal)
            self._bytes -= size
        return batch

    def take_all(self) -> list[Proposal]:
        """Everything that waits; none of it will be made."""
        with self._lock:
            taken = list(self._waiting)
            for proposal in taken:
                proposal.stage = Stage.ENDED
            self._waiting.clear()
            self._bytes = 0
        return taken


def encode_batch(batch: list[Proposal]) -> bytes:
    """The content of a log entry. Barriers take no room."""
    entries = [proposal.entry for proposal in batch if proposal.entry is not None]
    return storage.RaftEntryBatch(entries=entries).SerializeToString()


def decode_batch(content: bytes) -> list[bytes]:
    """The entries of a log entry's content. Raises ValueError."""
    try:
        return list(storage.RaftEntryBatch.FromString(content).entries)
    except DecodeError as error:
        raise ValueError("not a batch of entries") from error


def _size(proposal: Proposal) -> int:
    return len(proposal.entry or b"")
