"""A node with a planted fault: what a campaign must find, or it would find nothing.

Usage: python -m tests.campaigns.mutant FAULT serve … The faults are such as no test of a single
part would have to notice; what the rest of the command line means is as for ``millstream``.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

from millstream_raft.journal import Journal
from millstream_raft.pysyncobj_consensus import PySyncObjConsensus
from millstream_server.cli.main import main
from millstream_server.local_cluster import NodePlan
from millstream_server.local_cluster.supervisor import serve_command
from millstream_server.node import settings


def answer_reads_without_a_majority() -> None:
    """A leader believes that it still leads, and asks nobody; for longer than it would by its own
    clock, for it must still believe that when a pause is over."""
    real_config = settings.raft_config
    settings.raft_config = lambda config: replace(
        real_config(config), leader_fallback_ms=_BELIEVES_MS
    )
    real = PySyncObjConsensus.barrier

    async def barrier(self: PySyncObjConsensus, timeout_ms: int) -> int:
        if self.is_leader:
            return self.status().applied_index
        return await real(self, timeout_ms)

    PySyncObjConsensus.barrier = barrier  # type: ignore[method-assign]


def write_the_journal_late() -> None:
    """What is acknowledged is written when the first of it is half a second old: the voters hold
    the same back, for they get it at the same time."""
    real = Journal.sync
    began: WeakKeyDictionary[Journal, float] = WeakKeyDictionary()

    def sync(self: Journal) -> None:
        if not self._unwritten:
            return
        if time.monotonic() - began.setdefault(self, time.monotonic()) >= _LATE_S:
            real(self)
            began.pop(self)

    Journal.sync = sync  # type: ignore[method-assign]


_LATE_S = 0.5
_BELIEVES_MS = 60_000
_FAULTS = {
    fault.__name__: fault for fault in (answer_reads_without_a_majority, write_the_journal_late)
}


def mutant_command(fault: Callable[[], None]) -> Callable[[NodePlan], list[str]]:
    """Starts nodes with a fault, for a ``LocalCluster``."""

    def command(node: NodePlan) -> list[str]:
        python, _, _, *arguments = serve_command(node)
        return [python, "-m", __spec__.name, fault.__name__, *arguments]

    return command


if __name__ == "__main__":
    _FAULTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
