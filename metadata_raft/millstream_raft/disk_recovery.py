"""When a voter that lost its disk may come back, and what it must promise then.

A voter that forgot everything is dangerous in two ways. It may vote again in a term in which it
voted already, and two leaders follow. And what it acknowledged counts as stored, so it and a voter
that lags behind may elect a leader that lacks committed entries. A fact and a promise rule it out.

The fact, which ``LostDisk`` establishes while **all other voters** answer and the lost voter is
down: they all follow one leader in one term, and all of them have committed the log up to an index
that the leader's log reached *after* they were found so.

- No other voter ever was in a higher term, so the lost one never voted for another in a higher
  term, nor acknowledged entries of one. A higher term in which it stood itself got no vote that
  counts: who gave it one would be in that term.
- Whatever it acknowledged and was committed is in the leader's log (Raft, leader completeness),
  hence below that index, hence on the disks of all others. Whoever of them leads later has it.

The promise: it takes over that term, with its vote given to that leader, and is silent (neither
votes nor stands for election) until its own log is committed up to that index; see ``silence``. So
its vote can do no harm even if one of the others turns out not to hold what it said. What it
acknowledges meanwhile is true, and counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass


class NotRecoverable(Exception):
    """The disk must not be replaced now; the message says why."""


@dataclass(frozen=True, slots=True)
class VoterReport:
    """What another voter says of itself at one moment."""

    cluster_id: str
    #: None while it knows none that can serve.
    leader_id: int | None
    term: int
    commit_index: int
    last_index: int
    #: The voters that it is connected to.
    connected: frozenset[int]


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """What the new folder starts from."""

    leader_id: int
    term: int
    #: Silent until the log is committed up to here.
    index: int


class LostDisk:
    """One replacement: takes what the others report, as often as it takes."""

    def __init__(self, cluster_id: str, node_id: int, others: frozenset[int]) -> None:
        """``others`` are all other voters, at least one."""
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._others = others
        self._goal: RecoveryPoint | None = None

    def take(self, reports: Mapping[int, VoterReport]) -> RecoveryPoint:
        """Where to start from, after reports that were all asked for after the last call. Raises
        NotRecoverable; later reports may tell better."""
        try:
            leader_id, term = self._agreement(reports)
        except NotRecoverable:
            self._goal = None
            raise
        goal = self._goal
        if goal is None or (goal.leader_id, goal.term) != (leader_id, term):
            # Asked for again: only a later report shows a log that was all there when they agreed.
            self._goal = RecoveryPoint(leader_id, term, 0)
            raise NotRecoverable("the other metadata nodes were asked only once")
        if goal.index == 0:
            self._goal = goal = RecoveryPoint(leader_id, term, reports[leader_id].last_index)
        for voter, report in reports.items():
            if report.commit_index < goal.index:
                raise NotRecoverable(
                    f"metadata node {voter} has committed up to {report.commit_index} only, the "
                    f"leader's log reaches {goal.index}"
                )
        return goal

    def _agreement(self, reports: Mapping[int, VoterReport]) -> tuple[int, int]:
        """Leader and term."""
        missing = sorted(self._others - reports.keys())
        if missing:
            raise NotRecoverable(
                f"metadata node {', '.join(map(str, missing))} does not answer, and all others "
                "must be up: what the lost disk held may be there alone"
            )
        for voter, report in sorted(reports.items()):
            if report.cluster_id != self._cluster_id:
                raise NotRecoverable(
                    f"metadata node {voter} belongs to cluster {report.cluster_id}, not to "
                    f"{self._cluster_id}"
                )
            if self._node_id in report.connected:
                raise NotRecoverable(
                    f"metadata node {voter} is connected to node {self._node_id}: stop that first"
                )
        terms = {report.term for report in reports.values()}
        leaders = {report.leader_id for report in reports.values()}
        leader_id = next(iter(leaders))
        if len(terms) != 1 or len(leaders) != 1 or leader_id not in self._others:
            raise NotRecoverable("the other metadata nodes do not follow one leader")
        return leader_id, next(iter(terms))
