"""Assignors: everything is assigned, evenly, and moves no more than it must."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from millstream_server.coordinator.assignors import (
    ASSIGNORS,
    Subscriber,
    assign_range,
    assign_uniform,
    preferred_assignor,
)
from millstream_server.coordinator.records import Partitions
from millstream_server.coordinator.topics import TopicInfo

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
Topics = dict[bytes, TopicInfo]


def topics_of(*counts: int) -> Topics:
    ids = (A, B, C)
    return {
        ids[index]: TopicInfo(ids[index], "abc"[index], count) for index, count in enumerate(counts)
    }


def members(count: int, topic_ids: frozenset[bytes]) -> list[Subscriber]:
    return [Subscriber(f"m{number:03}", topic_ids) for number in range(count)]


def again(subscribers: list[Subscriber], owned: dict[str, Partitions]) -> list[Subscriber]:
    return [
        Subscriber(one.member_id, one.topic_ids, one.rack, owned.get(one.member_id, frozenset()))
        for one in subscribers
    ]


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[Subscriber], Topics]:
    topics = topics_of(*draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    subscriptions = st.frozensets(st.sampled_from(sorted(topics)), min_size=0)
    partitions = st.frozensets(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 10)))
    subscribers = [
        Subscriber(f"m{number}", draw(subscriptions), "", draw(partitions))
        for number in range(draw(st.integers(1, 6)))
    ]
    return subscribers, topics


@given(groups(), st.sampled_from(sorted(ASSIGNORS)))
def test_every_partition_goes_to_one_subscriber(
    case: tuple[list[Subscriber], Topics], name: str
) -> None:
    subscribers, topics = case
    owned = ASSIGNORS[name](subscribers, topics)
    assert owned.keys() == {one.member_id for one in subscribers}
    given_out = Counter(partition for some in owned.values() for partition in some)
    wanted = {
        (topic_id, number)
        for one in subscribers
        for topic_id in one.topic_ids
        for number in range(topics[topic_id].partition_count)
    }
    assert given_out == dict.fromkeys(wanted, 1)
    for one in subscribers:
        assert {topic_id for topic_id, _ in owned[one.member_id]} <= one.topic_ids


@given(groups())
def test_uniform_is_balanced_wherever_a_partition_could_move(
    case: tuple[list[Subscriber], Topics],
) -> None:
    subscribers, topics = case
    owned = assign_uniform(subscribers, topics)
    for giver in subscribers:
        for taker in subscribers:
            shared = {topic_id for topic_id, _ in owned[giver.member_id]} & taker.topic_ids
            if shared:
                assert len(owned[giver.member_id]) - len(owned[taker.member_id]) <= 1


@given(groups())
def test_uniform_does_not_change_what_it_made(case: tuple[list[Subscriber], Topics]) -> None:
    subscribers, topics = case
    owned = assign_uniform(subscribers, topics)
    assert assign_uniform(again(subscribers, owned), topics) == owned


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 30))
def test_uniform_moves_only_what_balance_asks_for(before: int, after: int, count: int) -> None:
    topics = topics_of(count)
    everyone = members(8, frozenset({A}))
    owned = assign_uniform(everyone[:before], topics)
    then = assign_uniform(again(everyone[:after], owned), topics)
    moved = sum(len(some - owned.get(member, frozenset())) for member, some in then.items())
    share, extra = divmod(count, after)
    staying = sorted((len(owned.get(f"m{n:03}", ())) for n in range(after)), reverse=True)
    kept = sum(min(some, share + (index < extra)) for index, some in enumerate(staying))
    assert moved == count - kept


def test_uniform_spreads_each_topic() -> None:
    owned = assign_uniform(members(2, frozenset({A, B})), topics_of(2, 2))
    assert all(len({topic_id for topic_id, _ in some}) == 2 for some in owned.values())


def test_uniform_prefers_the_rack_where_that_costs_no_balance() -> None:
    racks = tuple(frozenset({"east" if number % 2 else "west"}) for number in range(6))
    topics = {A: TopicInfo(A, "a", 6, racks=racks)}
    subscribers = [
        Subscriber("m1", frozenset({A}), "east"),
        Subscriber("m2", frozenset({A}), "west"),
    ]
    owned = assign_uniform(subscribers, topics)
    assert owned["m1"] == {(A, 1), (A, 3), (A, 5)}
    assert owned["m2"] == {(A, 0), (A, 2), (A, 4)}


def test_uniform_is_fast_enough_for_a_large_group() -> None:
    topics = {bytes([n]) * 16: TopicInfo(bytes([n]) * 16, str(n), 100) for n in range(50)}
    owned = assign_uniform(members(500, frozenset(topics)), topics)
    assert {len(some) for some in owned.values()} == {10}


def test_range_gives_equal_numbers_of_all_topics_to_one_member() -> None:
    owned = assign_range(members(2, frozenset({A, B})), topics_of(3, 3))
    assert owned["m000"] == {(A, 0), (A, 1), (B, 0), (B, 1)}
    assert owned["m001"] == {(A, 2), (B, 2)}


def test_range_orders_static_members_by_their_instance() -> None:
    subscribers = [
        Subscriber("m1", frozenset({A}), instance_id="z"),
        Subscriber("m2", frozenset({A}), instance_id="a"),
    ]
    assert assign_range(subscribers, topics_of(2))["m2"] == {(A, 0)}


def test_most_members_decide_on_the_assignor() -> None:
    assert preferred_assignor(["range", "range", "uniform"]) == "range"
    assert preferred_assignor(["range", ""]) == "uniform"
    assert preferred_assignor([]) == "uniform"
