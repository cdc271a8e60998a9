"""The only module that imports PySyncObj, and what it changes in it.

The library is unmodified. These of its names are replaced or read, and checked at the start
(``check_library``), since they are private and only 0.3.17 is known to have them in this form:

* module globals of ``pysyncobj.syncobj``, for good: ``monotonicTime`` and ``random`` (the library
  reads its own clock and chance; here each core answers from what was injected into it) and
  ``PIPE_NOTIFIER_ENABLED`` (the driver wakes itself);
* module globals while a core is constructed: ``createJournal`` and ``Serializer``;
* methods overridden or called: ``_METHODS``; attributes read: ``INSTANCE_ATTRIBUTES``.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pysyncobj.syncobj

from millstream_raft.ports import Clock, Random

library: Any = pysyncobj.syncobj
VERSION: str = library.VERSION
LIBRARY_VERSION = "0.3.17"
_GLOBALS = (
    "monotonicTime",
    "random",
    "PIPE_NOTIFIER_ENABLED",
    "createJournal",
    "Serializer",
)
_METHODS = (
    "_SyncObj__doApplyCommand",
    "_SyncObj__parseChangeClusterRequest",
    "_SyncObj__loadDumpFile",
    "_SyncObj__onMessageReceived",
    "_applyCommand",
    "_isLeader",
    "_getLeader",
    "doTick",
    "forceLogCompaction",
)
INSTANCE_ATTRIBUTES = (
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__commandsWaitingCommit",
    "_SyncObj__noopIDx",
    "_SyncObj__raftLog",
)


class UnsupportedLibrary(Exception):
    """The installed pysyncobj is not the one that this layer was proven with."""


def check_library(version: str = VERSION) -> None:
    """Raise UnsupportedLibrary unless version and private names are as expected."""
    if version != LIBRARY_VERSION:
        raise UnsupportedLibrary(
            f"pysyncobj {version} is installed, but only {LIBRARY_VERSION} is known to be safe "
            f"under this layer: pip install pysyncobj=={LIBRARY_VERSION}"
        )
    missing = [name for name in _GLOBALS if not hasattr(library, name)]
    missing += [name for name in _METHODS if not hasattr(library.SyncObj, name)]
    if missing:
        raise UnsupportedLibrary(f"pysyncobj {version} lacks {', '.join(missing)}")


class _Environment(threading.local):
    """Clock and chance of the core that runs in this thread at the moment."""

    clock: Clock | None = None
    chance: Random | None = None


_environment = _Environment()
_library_monotonic = library.monotonicTime
_library_random = library.random
_construction = threading.Lock()


def enter_environment(clock: Clock | None, chance: Random | None) -> None:
    """Let the library in this thread read this clock and chance; None: its own."""
    _environment.clock, _environment.chance = clock, chance


def _monotonic_s() -> float:
    clock = _environment.clock
    return float(_library_monotonic()) if clock is None else clock.monotonic_ms() / 1000


class _Chance:
    """Stands for the module ``random``, of which the library calls this one function."""

    @staticmethod
    def random() -> float:
        chance = _environment.chance
        return float(_library_random.random()) if chance is None else chance.random()


class _FalseAlarm(logging.Filter):
    """Drops the library's warning that it truncates applied entries: it asks for that at every
    repeated message, and the journal does not do it (``Rule.TRUNCATE_ONLY_ON_CONFLICT``)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("truncating already-applied")


check_library()
logging.getLogger("pysyncobj.syncobj").addFilter(_FalseAlarm())
library.monotonicTime = _monotonic_s
library.random = _Chance
library.PIPE_NOTIFIER_ENABLED = False


class VoterNode(library.Node):  # type: ignore[misc]
    """A node whose id is a number, so that the order of sets does not depend on a hash seed."""

    def __str__(self) -> str:
        return str(self.id)


@contextmanager
def replaced_parts(
    make_journal: Callable[[Any], object], make_serializer: Callable[..., object]
) -> Iterator[None]:
    """Let the node that is constructed meanwhile use these instead of the library's own."""
    with _construction:
        kept = library.createJournal, library.Serializer
        library.createJournal, library.Serializer = make_journal, make_serializer
        try:
            yield
        finally:
            library.createJournal, library.Serializer = kept
