"""Random schedules of a leader that proposes in-sync sets and a controller that is far away.

Requests, answers and images are lost, late or out of step; the controller changes sets by itself.
Whatever happens, nothing counts as committed that a member of the controller's set lacks (8, 10).
"""

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from millstream_raft.image import PartitionState
from millstream_server.broker.partition import Partition
from millstream_server.broker.replication.in_sync_changes import Brokers, wanted_in_sync

LEADER, FOLLOWERS = 1, (2, 3)
LAG_MS = 100
START = PartitionState(
    number=0,
    leader_id=LEADER,
    leader_epoch=1,
    partition_epoch=1,
    replicas=(1, 2, 3),
    isr=(1, 2),
    min_isr=2,
)


@dataclass
class Request:
    """A proposal on its way, and later its answer: None, True or False."""

    partition_epoch: int
    members: tuple[int, ...]
    accepted: bool | None = None


class Schedule(RuleBasedStateMachine):
    """The leader's partition beside what the controller and the followers really have."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.controller = START
        # Versions of the partition that the leader's image has not reached, oldest first.
        self.images: list[PartitionState] = []
        self.image = START
        self.eligible = {1: 10, 2: 20, 3: 30}
        self.partition = Partition(bytes(16), "logs", 0, LEADER)
        self.partition.elect(START, 0, 0)
        self.partition.begin_epoch(1, 0, 0, 0)
        self.ends = {LEADER: 0, 2: 0, 3: 0}
        self.mark = 0
        # One request is in flight at most, as far as the leader knows; those that it gave up may
        # arrive all the same.
        self.asked: Request | None = None
        self.late: list[Request] = []

    # The data

    @rule(count=st.integers(1, 3))
    def append(self, count: int) -> None:
        end = self.partition.end_offset + count
        self.partition.appended(end)
        self.ends[LEADER] = end
        self.partition.written(end, end)

    @rule(node=st.sampled_from(FOLLOWERS), part=st.sampled_from((0.0, 0.5, 1.0)))
    def copy(self, node: int, part: float) -> None:
        behind = self.ends[LEADER] - self.ends[node]
        self.ends[node] += int(part * behind)
        end = self.ends[node]
        self.partition.follower_reported(
            node,
            1,
            end,
            end,
            node_epoch=node * 10,
            begun_at=self.partition.in_sync.partition_epoch,
            now_ms=self.now_ms,
        )

    @rule(node=st.sampled_from(FOLLOWERS))
    def fenced_in_the_image_or_not(self, node: int) -> None:
        if self.eligible.pop(node, None) is None:
            self.eligible[node] = node * 10

    @rule(ms=st.sampled_from((1, 60, 200)))
    def look(self, ms: int) -> None:
        self.now_ms += ms
        self.partition.look_at_followers(self.eligible, self.now_ms, LAG_MS)

    # The leader's proposals

    @precondition(lambda self: self.asked is None)
    @rule()
    def propose(self) -> None:
        in_sync = self.partition.in_sync
        if in_sync.proposed and not in_sync.in_doubt:
            return
        members = wanted_in_sync(self.partition, Brokers(self.eligible), self.now_ms, LAG_MS)
        if members is not None:
            epoch = self.partition.propose_in_sync(members)
            self.asked = Request(epoch, members)

    @precondition(lambda self: self.asked is not None)
    @rule()
    def decide(self) -> None:
        assert self.asked is not None
        if self.asked.accepted is None:
            self.asked.accepted = self._apply(self.asked)

    @precondition(lambda self: self.asked is not None)
    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        assert self.asked is not None
        in_sync = self.partition.in_sync
        if self.asked.accepted is None:
            self.late.append(self.asked)
            in_sync.doubt(self.asked.partition_epoch)
        elif lost:
            in_sync.doubt(self.asked.partition_epoch)
        elif not self.asked.accepted:
            in_sync.withdraw(self.asked.partition_epoch)
        self.asked = None

    @precondition(lambda self: self.asked is None)
    @rule(decided=st.booleans(), lost=st.booleans())
    def propose_at_once(self, decided: bool, lost: bool) -> None:
        self.propose()
        if self.asked is not None:
            if decided:
                self.decide()
            self.answer(lost)

    @precondition(lambda self: self.late)
    @rule()
    def decide_late(self) -> None:
        self._apply(self.late.pop(0))

    def _apply(self, request: Request) -> bool:
        state = self.controller
        if request.partition_epoch != state.partition_epoch:
            return False
        self._change(isr=request.members)
        return True

    # The controller

    def _change(self, isr: tuple[int, ...]) -> None:
        self.controller = replace(
            self.controller, isr=isr, partition_epoch=self.controller.partition_epoch + 1
        )
        self.images.append(self.controller)

    @rule(node=st.sampled_from(FOLLOWERS))
    def fence(self, node: int) -> None:
        if node in self.controller.isr:
            self._change(isr=tuple(one for one in self.controller.isr if one != node))

    @rule(again=st.booleans())
    def follow_image(self, again: bool) -> None:
        if self.images and not again:
            self.image = self.images.pop(0)
        self.partition.update(self.image)  # other news may come with the same state

    # What must hold

    @invariant()
    def every_member_counts_while_anything_is_committed(self) -> None:
        in_sync = self.partition.in_sync
        if in_sync.enough:
            assert in_sync.maximal >= set(self.controller.isr)

    @invariant()
    def what_is_committed_is_on_every_member(self) -> None:
        mark = self.partition.high_watermark
        assert mark >= self.mark
        if mark > self.mark:
            assert all(self.ends[node] >= mark for node in self.controller.isr)
            assert len(self.image.isr) >= START.min_isr
        self.mark = mark


TestSchedules = Schedule.TestCase
TestSchedules.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
