"""Rules of membership, one by one (invariants 25 to 27, 36, 40)."""

from dataclasses import replace

import pytest

from millstream_server.coordinator.changes import AssignmentPush, Moment, Reason
from millstream_server.coordinator.group import GroupState
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.membership import HeartbeatRequest, JoinRequest
from millstream_server.coordinator.records import MemberMetadata, Partition
from millstream_server.coordinator.refusal import Refusal
from tests.fakes.group_world import CONFIG, GROUP, SESSION_MS, Client, GroupWorld, Observer


@pytest.fixture
def world() -> GroupWorld:
    return GroupWorld({"a": 4})


def two_sharing(world: GroupWorld) -> tuple[Client, Client]:
    one = world.add(("a",))
    world.settle(3)
    two = world.add(("a",))
    world.settle(5)
    assert len(one.using) == len(two.using) == 2
    return one, two


def last_push(client: Client) -> AssignmentPush:
    pushes = [message for message in client.to_client if isinstance(message, AssignmentPush)]
    return pushes[-1]


def join_of(member_id: str = "", epoch: int = 0, instance_id: str = "") -> JoinRequest:
    metadata = MemberMetadata(
        instance_id=instance_id,
        topics=("a",),
        session_timeout_ms=SESSION_MS,
        rebalance_timeout_ms=3_000,
    )
    return JoinRequest(GROUP, member_id, epoch, metadata)


def report(client: Client, epoch: int, owned: set[Partition]) -> HeartbeatRequest:
    return HeartbeatRequest(GROUP, client.member_id, epoch, frozenset(owned))


def test_a_partition_is_granted_only_after_its_owner_let_go(world: GroupWorld) -> None:
    one = world.add(("a",))
    world.settle(3)
    two = world.add(("a",))
    world.drain(two)
    world.pass_time(CONFIG.rebalance_delay_ms)
    world.drain(one)
    world.drain(two)
    assert len(one.giving_up) == 2
    assert not two.using
    held_back = world.group.current(one.member_id)
    assert held_back.revoking == one.giving_up
    assert held_back.member_epoch < world.group.group_epoch
    world.release(one)
    world.drain(one)
    world.drain(two)
    assert two.using == world.group.target(two.member_id)
    assert one.epoch == two.epoch == world.group.group_epoch


def test_joins_within_the_delay_share_a_group_epoch(world: GroupWorld) -> None:
    clients = [world.add(("a",)) for _ in range(3)]
    for client in clients:
        world.drain(client)
    assert world.group.state is GroupState.ASSIGNING
    world.pass_time(CONFIG.rebalance_delay_ms)
    assert world.group.group_epoch == 1
    assert world.observer.started == 1
    for client in clients:
        world.drain(client)
    assert world.group.state is GroupState.STABLE
    assert world.observer.durations_ms == [CONFIG.rebalance_delay_ms]


def test_a_member_that_is_silent_is_fenced_and_one_that_is_heard_is_not(world: GroupWorld) -> None:
    one, two = two_sharing(world)
    for _ in range(5):
        world.heartbeat(two)
        world.drain(two)
        world.pass_time(SESSION_MS // 4)
    assert list(world.group.members) == [two.member_id]
    assert not one.using


def test_after_a_stall_of_this_process_members_get_one_more_chance(world: GroupWorld) -> None:
    one, two = two_sharing(world)
    world.pass_time(10 * SESSION_MS)
    assert len(world.group.members) == 2
    world.pass_time(min(SESSION_MS, 2 * CONFIG.heartbeat_interval_ms))
    assert not world.group.members
    assert not one.using
    assert not two.using


def test_a_broken_stream_keeps_the_member_and_its_partitions(world: GroupWorld) -> None:
    one, _ = two_sharing(world)
    before = set(one.using)
    world.break_stream(one)
    world.join(one)
    world.drain(one)
    assert one.using == before
    assert world.group.state is GroupState.STABLE


def test_a_new_owner_of_the_shard_gives_everybody_a_whole_session(world: GroupWorld) -> None:
    one, two = two_sharing(world)
    world.pass_time(SESSION_MS - 10)
    world.crash()
    world.pass_time(SESSION_MS - 10)
    assert len(world.group.members) == 2
    world.settle(2)
    assert {one.member_id, two.member_id} == set(world.group.members)


def test_epochs_ahead_and_long_past_are_fenced(world: GroupWorld) -> None:
    one, _ = two_sharing(world)
    stream = one.stream
    assert stream is not None
    for epoch in (one.epoch + 1, 0):
        with pytest.raises(Refusal, match="FENCED_MEMBER_EPOCH"):
            world.core.membership.heartbeat(report(one, epoch, one.using), stream, world.moment())


def test_a_member_that_uses_what_it_was_not_given_is_fenced(world: GroupWorld) -> None:
    one, two = two_sharing(world)
    assert one.stream is not None
    with pytest.raises(Refusal, match="not given"):
        world.core.membership.heartbeat(
            report(one, one.epoch, one.using | two.using), one.stream, world.moment()
        )


def test_a_member_that_missed_several_epochs_may_come_back(world: GroupWorld) -> None:
    one = world.add(("a",))
    world.settle(3)
    heard = one.epoch
    for _ in range(2):
        # The group moves on, and so does this member, but no push reaches it.
        world.change_topics({"a": world.topic_counts["a"] + 1})
        world.pass_time(CONFIG.rebalance_delay_ms)
        while world.pending:
            world.store_one()
        one.to_client.clear()
        session = world.core.sessions.get(GROUP, one.member_id)
        assert session is not None
        session.unconfirmed = frozenset()
    assert world.group.current(one.member_id).member_epoch == heard + 2
    world.break_stream(one)
    assert one.epoch == heard
    world.join(one)
    world.drain(one)
    assert not one.reasons
    assert one.using == world.group.target(one.member_id)


def test_the_epoch_of_the_join_answer_does_not_confirm_a_grant(world: GroupWorld) -> None:
    one = world.add(("a",))
    world.settle(3)
    world.break_stream(one)
    one.using.clear()
    one.epoch = 0
    world.join(one)
    world.serve_one(one)
    world.store_one()
    world.receive_one(one)  # the answer; the assignment is still under way
    world.heartbeat(one)
    world.serve_one(one)
    session = world.core.sessions.get(GROUP, one.member_id)
    assert session is not None
    assert session.unconfirmed
    world.drain(one)
    assert not session.unconfirmed


def test_one_that_does_not_give_up_is_heard_no_more_but_keeps_its_session(
    world: GroupWorld,
) -> None:
    one = world.add(("a",))
    world.settle(3)
    two = world.add(("a",))
    world.drain(two)
    world.pass_time(CONFIG.rebalance_delay_ms)
    for _ in range(13):
        for client in (one, two):
            world.heartbeat(client)
            world.drain(client)
        world.check()
        world.pass_time(250)
    world.drain(one)
    assert one.reasons == ["UNKNOWN_MEMBER"]
    # It may not have heard: its partitions are free only when its session is over.
    assert len(two.using) == 2 or not two.using
    world.check()
    assert len(world.group.members) == 2
    for _ in range(5):
        world.heartbeat(two)
        world.drain(two)
        world.pass_time(250)
    world.drain(two)
    assert len(two.using) == 4


def test_the_newest_stream_of_a_member_wins(world: GroupWorld) -> None:
    one = world.add(("a",))
    world.settle(3)
    old = one.stream
    assert old is not None
    result = world.core.membership.join(join_of(one.member_id, one.epoch), 999, world.moment())
    ended = [push for push in result.pushes if push.stream == old]
    assert isinstance(ended[0].message, Refusal)
    assert ended[0].message.reason == "FENCED_MEMBER_EPOCH"
    with pytest.raises(Refusal, match="another stream"):
        world.core.membership.heartbeat(report(one, one.epoch, one.using), old, world.moment())
    world.core.membership.stream_broken(GROUP, one.member_id, old)
    session = world.core.sessions.get(GROUP, one.member_id)
    assert session is not None
    assert session.stream == 999


def test_an_instance_is_taken_over_only_after_it_left_for_a_while(world: GroupWorld) -> None:
    one = world.add(("a",), "i1")
    world.settle(3)
    before = world.group.group_epoch
    rival = world.add(("a",), "i1")
    world.drain(rival)
    assert rival.reasons == ["UNRELEASED_INSTANCE"]
    was_using, old_id = set(one.using), one.member_id
    world.leave(one, temporary=True)
    world.drain(one)
    assert world.group.current(old_id).away
    world.join(rival)
    world.drain(rival)
    assert rival.using == was_using
    assert world.group.group_epoch == before
    with pytest.raises(Refusal, match="FENCED_INSTANCE"):
        world.core.membership.join(join_of(old_id, 1, "i1"), 998, world.moment())
    with pytest.raises(Refusal, match="FENCED_INSTANCE"):
        world.core.membership.heartbeat(
            HeartbeatRequest(GROUP, old_id, 1, frozenset(), instance_id="i1"), 1, world.moment()
        )


def test_an_instance_that_stays_away_loses_its_partitions(world: GroupWorld) -> None:
    one = world.add(("a",), "i1")
    two = world.add(("a",))
    world.settle(4)
    world.leave(one, temporary=True)
    world.drain(one)
    for _ in range(5):
        world.heartbeat(two)
        world.drain(two)
        world.pass_time(SESSION_MS // 4)
    world.drain(two)
    world.release(two)
    world.drain(two)
    world.pass_time(CONFIG.rebalance_delay_ms)
    world.drain(two)
    assert len(two.using) == 4


def test_members_left_out_by_limits_hear_which(world: GroupWorld) -> None:
    config = replace(CONFIG, members_per_group_max=1, groups_per_shard_max=1)
    core = GroupShard(config, Observer(), lambda: "m")
    now = Moment(0, 0)
    core.membership.join(join_of(), 1, now)
    with pytest.raises(Refusal, match="GROUP_FULL"):
        core.membership.join(join_of("other"), 2, now)
    with pytest.raises(Refusal, match="THROTTLED"):
        core.membership.join(replace(join_of(), group_id="second"), 3, now)
    with pytest.raises(Refusal, match="UNKNOWN_MEMBER"):
        core.membership.join(join_of("other", 3), 4, now)


def test_grown_and_deleted_topics_rebalance_the_group(world: GroupWorld) -> None:
    one = world.add(("a", "b"))
    world.settle(3)
    world.change_topics({"a": 5, "b": 1})
    world.pass_time(CONFIG.rebalance_delay_ms)
    while world.pending:
        world.store_one()
    assert last_push(one).reason is Reason.TOPICS_CHANGED
    world.settle(2)
    assert len(one.using) == 6
    world.change_topics({"b": 1})
    world.settle(4)
    assert len(one.using) == 1


def test_a_topic_that_grew_while_nobody_owned_the_shard_is_noticed(world: GroupWorld) -> None:
    one = world.add(("a",))
    world.settle(3)
    world.topic_counts = {"a": 6}
    world.crash()
    world.settle(4)
    assert len(one.using) == 6
