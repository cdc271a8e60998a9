"""Random schedules in which disks are lost, too, and replaced as an operator would: tried again and
again until it is allowed. The next disk is lost only when the one before is whole again, since for
two at once there is no remedy."""

from collections.abc import Callable, Sequence
from typing import Any

from millstream_raft.directory import format_replacement
from millstream_raft.disk_recovery import LostDisk, NotRecoverable, RecoveryPoint, VoterReport
from millstream_raft.raft_messages import LogEntry
from tests.fakes.crash_files import CrashFiles
from tests.fakes.raft_schedule import Schedule, play_out
from tests.fakes.raft_views import View
from tests.fakes.raft_witness import Violation

_ROUNDS_MAX = 100

#: Makes the files of the new disk. The real one is ``promised``; others show that it is needed.
Replacement = Callable[["DiskLossSchedule", int, RecoveryPoint], CrashFiles]


class _Bystander:
    """The witness asks that a majority holds each entry at all times, which a lost disk breaks."""

    refused_forward = 0

    def crashed(self, node: int, on_disk: Sequence[LogEntry]) -> None: ...

    def restarted(self, node: int, after: View) -> None: ...


def promised(schedule: "DiskLossSchedule", node: int, point: RecoveryPoint) -> CrashFiles:
    """The folder as the command makes it."""
    files = CrashFiles()
    format_replacement("/raft", "sim", node, schedule.cluster.ids, files, point)
    return files


class DiskLossSchedule(Schedule):
    """``careless``: replaced as soon as anybody answers."""

    def __init__(
        self,
        seed: int,
        count: int,
        make: Callable[..., Any],
        replacement: Replacement = promised,
        careless: bool = False,
    ) -> None:
        super().__init__(seed, count, make, power_loss=True, overflow=True)
        self.witness: Any = _Bystander()
        self.cluster.witness = None
        self.replacement = replacement
        self.careless = careless
        #: The voter without a disk, if there is one.
        self.lost: tuple[int, LostDisk] | None = None
        self.replaced = 0
        self._recovering: set[int] = set()
        self.events += [self.lose_disk, self.calm_without]
        self.weights += [2.0, 6.0]

    def lose_disk(self) -> None:
        """The disk of a voter is gone, and the voter with it."""
        for node in self._recovering.intersection(self.up):
            if not self.cluster[node].core.silent_until:
                self._recovering.discard(node)
        if self.lost is not None or self._recovering or len(self.up) == 1:
            return
        node = self.some_node()
        self.crash(node)
        others = frozenset(self.cluster.ids) - {node}
        self.lost = (node, LostDisk("sim", node, others))

    def calm_without(self) -> None:
        """Most that can replace a disk happens when the others are left in peace."""
        if self.lost is not None:
            self.calm()
            self.start(self.lost[0])

    def start(self, node: int) -> None:
        """Start a voter; without a disk, try to replace it first."""
        if self.lost is not None and node == self.lost[0]:
            try:
                point = self._point(self.lost[1])
            except NotRecoverable:
                return
            self.disks[node] = self.replacement(self, node, point)
            self.lost = None
            self.replaced += 1
            self._recovering.add(node)
        super().start(node)

    def heal(self) -> None:
        """Let the others agree first, or the disk stays lost."""
        for number in range(_ROUNDS_MAX):
            if self.lost is None:
                break
            for node in [node for node in self.disks if node != self.lost[0]]:
                self.start(node)
            for node in self.up:
                self.cluster[node].files.crash_at = None
            self.cluster.network.held.clear()
            self.join_all()
            if not any(self.cluster[node].leads for node in self.up):
                self.cluster[self.up[number % len(self.up)]].campaign()
            self.cluster.step(self.up, rounds=20)
            self.start(self.lost[0])
        else:
            raise Violation("never replaced")
        super().heal()

    def _point(self, lost: LostDisk) -> RecoveryPoint:
        reports = {node: _report(self, node) for node in self.up}
        if self.careless and reports:
            any_report = reports[self.chance.choice(sorted(reports))]
            return RecoveryPoint(self.up[0], any_report.term, any_report.last_index)
        return lost.take(reports)


def _report(schedule: DiskLossSchedule, node: int) -> VoterReport:
    voter = schedule.cluster[node]
    leader = voter.core.leader_id
    if leader == node and not voter.is_current:
        leader = None
    return VoterReport(
        cluster_id="sim",
        leader_id=leader,
        term=voter.term,
        commit_index=voter.core.commit_index,
        last_index=voter.last_index,
        connected=frozenset(schedule.joined[node]),
    )


def play_with_lost_disks(
    seed: int, count: int, make: Callable[..., Any], **options: Any
) -> DiskLossSchedule:
    """A whole schedule, healed. Raises Violation."""
    schedule = DiskLossSchedule(seed, count, make, **options)
    play_out(schedule)
    return schedule
