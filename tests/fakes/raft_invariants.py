"""What must hold of a quorum at every moment, whatever happened to it: Raft's own invariants, seen
on all voters at once, long before a broken one costs an acknowledged write.

Sections and figures are those of Ongaro's thesis, "Consensus: Bridging Theory and Practice".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from millstream_raft.raft_messages import Position
from tests.fakes.raft_views import View

#: What is broken, always in the same words, and where.
Broken = tuple[str, str]


class Invariants:
    """Looks at a quorum after each event; remembers how far each process had applied its log."""

    def __init__(self) -> None:
        self._applied: dict[int, tuple[Any, int]] = {}

    def broken(self, up: Mapping[int, Any], down: Mapping[int, View]) -> Iterator[Broken]:
        """``up``: processes by node; ``down``: what is on the disks of the other nodes."""
        views = {node: process.view() for node, process in up.items()}
        everybody = {**views, **down}
        for node, view in views.items():
            yield from self._went_back(node, up[node], view)
            yield from _counted_but_not_held(node, view, everybody)
            yield from _committed_by_few(node, view, everybody)

    def _went_back(self, node: int, process: Any, view: View) -> Iterator[Broken]:
        """lastApplied increases monotonically while a process lives (figure 3.1)."""
        known, applied_index = self._applied.get(node, (None, 0))
        if known is process and view.applied_index < applied_index:
            yield (
                "a state went back",
                f"that of voter {node} from {applied_index} to {view.applied_index}",
            )
        self._applied[node] = (process, view.applied_index)


def _counted_but_not_held(node: int, leader: View, voters: Mapping[int, View]) -> Iterator[Broken]:
    """A leader counts an entry for a voter only if that voter said so in the leader's own term, and
    holds it (matchIndex of figure 3.1; by the log matching property of section 3.5 it then holds
    all before). Once a voter is in a newer term, another leader may have replaced what it held."""
    for other, index in leader.matches.items():
        voter = voters[other]
        where = f"leader {node}, voter {other}: {index}"
        if voter.term > leader.term:
            continue
        if index > 0 and voter.term < leader.term:
            yield "a leader counts for its term what an older one was told", where
        term = leader.term_at(index)
        if index > leader.entries[-1].index:
            yield "a leader counts entries beyond its own log", where
        elif term is not None and not voter.holds(Position(index, term)):
            yield "a leader counts entries that a voter lacks", where


def _committed_by_few(node: int, view: View, voters: Mapping[int, View]) -> Iterator[Broken]:
    """What a voter takes for committed is held by a majority and stays so, since no later leader
    lacks it (leader completeness, section 3.6.3)."""
    index = view.commit_index
    term = view.term_at(index)
    if term is None:
        if index > view.entries[-1].index:
            yield "a commit index is beyond the log", f"that of voter {node}: {index}"
        return
    position = Position(index, term)
    if sum(voter.holds(position) for voter in voters.values()) * 2 <= len(voters):
        yield "a majority lacks what a voter takes for committed", f"voter {node}: {position}"
