"""Who may commit, reset and delete, and when positions expire."""

import pytest

from millstream_server.coordinator.changes import Moment
from millstream_server.coordinator.positions import LogBounds, PositionCommit
from millstream_server.coordinator.refusal import Refusal
from tests.fakes.group_rules import contents, replayed
from tests.fakes.group_world import CONFIG, GROUP, GroupWorld

MINUTE_MS = 60_000
RETENTION_MS = CONFIG.offsets_retention_minutes * MINUTE_MS


@pytest.fixture
def world() -> GroupWorld:
    return GroupWorld({"a": 2})


def commit_of(world: GroupWorld, number: int, offset: int) -> PositionCommit:
    return PositionCommit(world.index().by_name["a"].topic_id, number, offset)


def test_a_member_commits_at_its_epoch_only(world: GroupWorld) -> None:
    one = world.add(("a",))
    world.settle(3)
    assert one.stream is not None

    def commit(epoch: int) -> list[str]:
        result = world.core.positions.commit_as_member(
            GROUP,
            one.member_id,
            epoch,
            "",
            [commit_of(world, 0, 5)],
            {},
            stream=one.stream or 0,
            now=world.moment(),
        )
        return [refusal.reason if refusal else "" for refusal in result.reply]

    assert commit(one.epoch) == [""]
    assert commit(one.epoch - 1) == ["STALE_MEMBER_EPOCH"]
    assert commit(one.epoch + 1) == ["STALE_MEMBER_EPOCH"]
    with pytest.raises(Refusal, match="UNKNOWN_MEMBER"):
        world.core.positions.commit_as_member(
            GROUP, "nobody", 1, "", [], {}, stream=1, now=world.moment()
        )


def test_without_membership_only_an_empty_group_changes(world: GroupWorld) -> None:
    positions, now = world.core.positions, world.moment()
    assert positions.commit(GROUP, [commit_of(world, 0, 5)], {}, now).reply == [None]
    assert positions.reset(GROUP, [commit_of(world, 0, 2)], {}, now).reply == [None]
    ((_, position),) = positions.fetch(GROUP, None).reply
    assert (position.offset, position.generation) == (2, 1)
    world.add(("a",))
    world.settle(3)
    for change in (positions.commit, positions.reset):
        with pytest.raises(Refusal, match="GROUP_NOT_EMPTY"):
            change(GROUP, [commit_of(world, 0, 9)], {}, now)
    with pytest.raises(Refusal, match="subscribes"):
        positions.delete(GROUP, [(world.index().by_name["a"].topic_id, 0)])


def test_one_bad_offset_does_not_spoil_the_others(world: GroupWorld) -> None:
    bounds = {(world.index().by_name["a"].topic_id, 0): LogBounds(0, 3)}
    result = world.core.positions.commit(
        GROUP, [commit_of(world, 0, 4), commit_of(world, 1, 4)], bounds, world.moment()
    )
    assert [refusal and refusal.reason for refusal in result.reply] == [
        "INVALID_COMMIT_OFFSET",
        None,
    ]
    assert contents(replayed(list(result.records))) == contents(world.core.state)


def test_positions_of_an_empty_group_expire_after_its_end_not_after_the_commit(
    world: GroupWorld,
) -> None:
    one = world.add(("a",))
    world.settle(3)
    assert one.stream is not None
    world.core.positions.commit_as_member(
        GROUP, one.member_id, one.epoch, "", [commit_of(world, 0, 5)], {},
        stream=one.stream, now=Moment(world.now_ms, 1_000),
    )  # fmt: skip
    late = Moment(world.now_ms, RETENTION_MS * 3)
    assert not world.core.positions.expire(late).records
    world.core.membership.leave(
        GROUP, one.member_id, temporary=False, instance_id="", stream=one.stream, now=late
    )
    assert not world.core.positions.expire(late).records
    assert not world.core.positions.expire(Moment(0, late.wall_ms + RETENTION_MS - 1)).records
    assert world.core.positions.expire(Moment(0, late.wall_ms + RETENTION_MS)).records
    assert GROUP not in world.core.state.groups


def test_positions_of_a_deleted_topic_are_forgotten(world: GroupWorld) -> None:
    world.core.positions.commit(GROUP, [commit_of(world, 0, 5)], {}, world.moment())
    world.core.positions.topics_removed({world.index().by_name["a"].topic_id})
    assert world.core.positions.fetch(GROUP, None).reply == ()


def test_a_group_is_described_listed_and_deleted(world: GroupWorld) -> None:
    groups = world.core.groups
    with pytest.raises(Refusal, match="UNKNOWN_GROUP"):
        groups.describe(GROUP)
    one = world.add(("a",))
    world.settle(3)
    with pytest.raises(Refusal, match="GROUP_NOT_EMPTY"):
        groups.delete(GROUP)
    (member,) = groups.describe(GROUP).reply.members
    assert member.owned == member.target == one.using
    assert [summary.member_count for summary in groups.list_groups(()).reply] == [1]
    world.leave(one, temporary=False)
    world.drain(one)
    world.core.positions.commit(GROUP, [commit_of(world, 0, 5)], {}, world.moment())
    assert groups.delete(GROUP).records
    assert not groups.list_groups(()).reply
