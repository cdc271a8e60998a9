"""Random schedules of one leader with two followers: what must hold after every step."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from millstream_raft.image import PartitionState
from millstream_server.broker.partition import Partition, Role
from millstream_server.broker.waiting_appends import Outcome, Waiter

LEADER, FOLLOWERS = 1, (2, 3)
START = PartitionState(
    number=0,
    leader_id=LEADER,
    leader_epoch=1,
    partition_epoch=1,
    replicas=(1, 2, 3),
    isr=(1, 2, 3),
    min_isr=2,
)


class Schedule(RuleBasedStateMachine):
    """The partition under test beside what the replicas really hold."""

    def __init__(self) -> None:
        super().__init__()
        self.state = START
        self.partition = Partition(bytes(16), "logs", 0, LEADER)
        self.partition.elect(START, 0, 0)
        self.partition.begin_epoch(1, 0, 0, 0)
        # Synced ends of everybody, as told to the leader in this epoch.
        self.synced = {LEADER: 0, 2: 0, 3: 0}
        self.mark = 0
        self.unanswered: set[Waiter] = set()

    def settle(self, outcomes: list[Outcome]) -> None:
        for waiter, failure in outcomes:
            self.unanswered.remove(waiter)  # nothing is answered twice
            if failure is None:
                assert waiter.leader_epoch == self.partition.leader_epoch
                assert waiter.last_offset < self.partition.counting_end_offset
                if waiter.acks_all:
                    holders = [n for n in self.state.isr if self.synced[n] > waiter.last_offset]
                    assert set(holders) == set(self.state.isr)
                    assert len(holders) >= self.state.min_isr
            else:
                assert failure.indeterminate

    @rule(count=st.integers(1, 5), acks_all=st.booleans())
    def append(self, count: int, acks_all: bool) -> None:
        if not self.partition.leading:
            return
        self.partition.appended(self.partition.end_offset + count)
        waiter = Waiter(
            self.partition.end_offset - 1,
            self.partition.leader_epoch,
            acks_all,
            0,
            lambda *_: None,
        )
        self.unanswered.add(waiter)
        if self.partition.await_ack(waiter):
            raise AssertionError("acknowledged before it was written")

    @rule(part=st.floats(0, 1))
    def sync(self, part: float) -> None:
        end = self.partition.end_offset
        synced = self.synced[LEADER] + int(part * (end - self.synced[LEADER]))
        self.synced[LEADER] = synced
        self.settle(self.partition.written(end, synced))

    @rule(node=st.sampled_from(FOLLOWERS), part=st.floats(0, 1), stale=st.booleans())
    def report(self, node: int, part: float, stale: bool) -> None:
        if not self.partition.leading:
            return
        end = self.partition.end_offset
        held = self.synced[node] + int(part * (end - self.synced[node]))
        epoch = self.partition.leader_epoch
        if stale:
            self.settle(self._reported(node, epoch - 1, end, end))
            return
        self.synced[node] = held
        self.settle(self._reported(node, epoch, end, held))

    def _reported(self, node: int, epoch: int, end: int, held: int) -> list[Outcome]:
        begun_at = self.partition.in_sync.partition_epoch
        return self.partition.follower_reported(
            node, epoch, end, held, node_epoch=node, begun_at=begun_at, now_ms=0
        )

    @rule(isr=st.sets(st.sampled_from(FOLLOWERS)))
    def change_in_sync(self, isr: set[int]) -> None:
        joiners = isr - set(self.state.isr)
        if self.partition.leading and any(not self.partition.may_join(n) for n in joiners):
            return
        members = (LEADER, *sorted(isr))
        if self.partition.leading:
            self.partition.propose_in_sync(members)
        self.state = replace(
            self.state, isr=members, partition_epoch=self.state.partition_epoch + 1
        )
        if self.partition.leading:
            self.settle(self.partition.update(self.state))

    @rule()
    def lose_leadership(self) -> None:
        self._step_epoch(leader_id=None)
        self.settle(self.partition.resign(self.state))
        assert not self.unanswered

    @rule()
    def elect(self) -> None:
        self._step_epoch(leader_id=LEADER)
        end = self.partition.end_offset
        self.settle(self.partition.elect(self.state, end, self.synced[LEADER]))
        assert not self.unanswered
        self.synced.update({2: 0, 3: 0})  # follower state is cleared (invariant 9)
        self.settle(
            self.partition.begin_epoch(self.state.leader_epoch, end, end, self.synced[LEADER])
        )

    def _step_epoch(self, leader_id: int | None) -> None:
        self.state = replace(
            self.state,
            leader_id=leader_id,
            leader_epoch=self.state.leader_epoch + 1,
            partition_epoch=self.state.partition_epoch + 1,
        )

    @invariant()
    def the_mark_never_goes_back_and_never_passes_what_is_safe(self) -> None:
        partition = self.partition
        assert self.mark <= partition.high_watermark <= partition.end_offset
        if partition.high_watermark > self.mark:
            assert partition.role is Role.LEADING
            assert len(self.state.isr) >= self.state.min_isr
            assert all(self.synced[node] >= partition.high_watermark for node in self.state.isr)
        self.mark = partition.high_watermark

    @invariant()
    def only_a_leader_lets_appends_wait(self) -> None:
        assert self.partition.waiting == len(self.unanswered)
        assert self.partition.leading or not self.unanswered


TestSchedules = Schedule.TestCase
TestSchedules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
