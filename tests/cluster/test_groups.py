"""Groups of real consumers on a real node: nothing is lost, nothing comes twice without a reason.

Where members only come and go, every record of a partition comes once and in order, over all its
owners; where one of them or the coordinator crashes, records may come again, and none is skipped.
"""

import random
import signal
import time
from pathlib import Path

import pytest

from millstream import (
    Admin,
    Consumer,
    GroupNotEmptyError,
    InvalidCommitOffsetError,
    NewTopic,
    Producer,
    TopicPartition,
    UnknownMemberError,
)
from tests.campaigns.embedded import EmbeddedNode
from tests.cluster.group_readers import (
    OPTIONS,
    AsyncReader,
    Ledger,
    ProcessReader,
    Reader,
    Writer,
)

# Time for a member to join and to get its first records.
_JOINED_MS = 20_000
_COMMITTED_S = 15.0


def make_topic(node: EmbeddedNode, name: str, partitions: int = 4) -> None:
    with Admin(bootstrap_servers=node.address) as admin:
        admin.create_topics([NewTopic(name, partitions)])


def make_again(node: EmbeddedNode, name: str, partitions: int) -> None:
    with Admin(bootstrap_servers=node.address) as admin:
        admin.delete_topics([name])
        admin.create_topics([NewTopic(name, partitions)])


def produce(node: EmbeddedNode, topic: str, numbers: range, partitions: int) -> set[bytes]:
    """Write numbered records round robin; returns their values."""
    with Producer(bootstrap_servers=node.address) as producer:
        sent = [producer.send(topic, b"%d" % n, partition=n % partitions) for n in numbers]
        producer.flush()
        for receipt in sent:
            receipt.result(10)
    return {b"%d" % number for number in numbers}


def committed(node: EmbeddedNode, group: str) -> dict[TopicPartition, int]:
    with Admin(bootstrap_servers=node.address) as admin:
        return {name: one.offset for name, one in admin.list_group_offsets(group).items()}


def read_count(consumer: Consumer, count: int) -> None:
    """Read so many records and come back once more, so that they are processed."""
    got = 0
    while got < count:
        records = consumer.getmany(timeout_ms=10_000)
        assert records, f"only {got} of {count} came"
        got += sum(map(len, records.values()))
    consumer.getmany(timeout_ms=0)


# --- members that come and go -------------------------------------------------------------------


def test_members_that_come_and_go_get_every_record_once(shared_node: EmbeddedNode) -> None:
    make_topic(shared_node, "shared")
    writer, ledger = Writer(shared_node.address, "shared"), Ledger()
    place = (shared_node.address, "g-shared", "shared", ledger)
    first = Reader(*place, "first")
    first.wait_owned(4)
    second = AsyncReader(*place, "second")
    second.wait_owned(2)
    third = Reader(*place, "third")
    third.wait_owned(1)
    second.leave()
    first.wait_owned(2)
    first.leave()
    third.wait_owned(4)
    fourth = AsyncReader(*place, "fourth")
    fourth.wait_owned(2)
    ledger.wait_for(writer.stop())
    third.leave()
    fourth.leave()
    ledger.check_clean()
    assert not writer.failed
    assert sum(committed(shared_node, "g-shared").values()) == len(ledger.deliveries)


def test_a_restless_group_gets_every_record_once_and_commits_never_go_back(
    shared_node: EmbeddedNode,
) -> None:
    make_topic(shared_node, "restless", 8)
    writer, ledger, chance = Writer(shared_node.address, "restless"), Ledger(), random.Random(7)
    members: list[Reader] = []
    before: dict[TopicPartition, int] = {}
    for number in range(16):
        kind = chance.choice([Reader, AsyncReader])
        members.append(kind(shared_node.address, "g-restless", "restless", ledger, f"m{number}"))
        time.sleep(chance.uniform(0.05, 0.4))
        if len(members) > 3:
            members.pop(chance.randrange(4)).leave()
        now = committed(shared_node, "g-restless")
        assert all(now[name] >= offset for name, offset in before.items())
        before = now
    ledger.wait_for(writer.stop())
    for member in members:
        member.leave()
    ledger.check_clean()


def test_a_member_that_leaves_while_it_joins_leaves_nothing_behind(
    shared_node: EmbeddedNode,
) -> None:
    make_topic(shared_node, "ghosts")
    for pause_s in (0, 0.003, 0.01, 0.03):
        with Consumer("ghosts", bootstrap_servers=shared_node.address, group_id="g-ghosts"):
            time.sleep(pause_s)
    member = Reader(shared_node.address, "g-ghosts", "ghosts", Ledger(), "member")
    member.wait_owned(4)
    member.leave()


def test_ctrl_c_commits_and_leaves(shared_node: EmbeddedNode, tmp_path: Path) -> None:
    make_topic(shared_node, "interrupted")
    writer, ledger = Writer(shared_node.address, "interrupted"), Ledger()
    place = (shared_node.address, "g-interrupted", "interrupted")
    # Its session would end too late for the other member.
    process = ProcessReader(*place, tmp_path / "rows", session_timeout_ms=60_000)
    process.wait_rows(100)
    member = Reader(*place, ledger, "member")
    member.wait_owned(2)
    assert process.end(signal.SIGINT) == 0
    member.wait_owned(4)
    acknowledged = writer.stop()
    ledger.wait_for(acknowledged - {row.value for row in process.rows})
    member.leave()
    places = [(one.place, one.offset) for one in (*process.rows, *ledger.deliveries)]
    assert len(places) == len(set(places))


def test_a_static_member_finds_its_partitions_again(shared_node: EmbeddedNode) -> None:
    make_topic(shared_node, "static")
    writer, ledger = Writer(shared_node.address, "static"), Ledger()
    place = (shared_node.address, "g-static", "static", ledger)
    first = Reader(*place, "first", group_instance_id="i1")
    # It stays a member until somebody with its name is there.
    lasting = {"group_instance_id": "i2", "session_timeout_ms": 60_000}
    second = AsyncReader(*place, "second", **lasting)
    first.wait_owned(2)
    second.wait_owned(2)
    before = set(second.owned)
    second.leave()
    time.sleep(0.3)
    assert len(first.owned) == 2
    again = Reader(*place, "again", **lasting)
    again.wait_owned(2)
    assert again.owned == before
    ledger.wait_for(writer.stop())
    first.leave()
    again.leave()
    ledger.check_clean()


# --- crashes ------------------------------------------------------------------------------------


def test_a_killed_members_partitions_are_read_on_by_others(
    shared_node: EmbeddedNode, tmp_path: Path
) -> None:
    make_topic(shared_node, "killed")
    writer, ledger = Writer(shared_node.address, "killed"), Ledger()
    place = (shared_node.address, "g-killed", "killed")
    member = Reader(*place, ledger, "member")
    process = ProcessReader(*place, tmp_path / "rows", session_timeout_ms=3_000)
    process.wait_rows(100)
    process.end(signal.SIGKILL)
    member.wait_owned(4)
    again = AsyncReader(*place, ledger, "again")
    again.wait_owned(2)
    ledger.wait_for(writer.stop() - {row.value for row in process.rows})
    member.leave()
    again.leave()
    assert not writer.failed


def test_a_coordinator_that_comes_back_within_the_session_disturbs_nobody(
    own_node: EmbeddedNode,
) -> None:
    make_topic(own_node, "restarted")
    writer, ledger = Writer(own_node.address, "restarted"), Ledger()
    place = (own_node.address, "g-restarted", "restarted", ledger)
    members = [
        Reader(*place, "sync", session_timeout_ms=30_000),
        AsyncReader(*place, "async", session_timeout_ms=30_000),
    ]
    for member in members:
        member.wait_owned(2)
    owned = [set(member.owned) for member in members]
    for _ in range(2):
        before = committed(own_node, "g-restarted")
        time.sleep(0.4)
        own_node.kill()
        own_node.start()
        now = committed(own_node, "g-restarted")
        assert all(now[name] >= offset for name, offset in before.items())
    time.sleep(0.5)
    ledger.wait_for(writer.stop())
    assert [set(member.owned) for member in members] == owned
    for member in members:
        member.leave()
    assert not writer.failed
    ledger.check_clean()


def test_a_coordinator_that_is_away_for_longer_than_the_session_loses_nothing(
    own_node: EmbeddedNode,
) -> None:
    make_topic(own_node, "away")
    writer, ledger = Writer(own_node.address, "away"), Ledger()
    place = (own_node.address, "g-away", "away", ledger)
    members = [
        Reader(*place, "sync", session_timeout_ms=1_000),
        AsyncReader(*place, "async", session_timeout_ms=1_000),
    ]
    for member in members:
        member.wait_owned(2)
    own_node.kill()
    for member in members:
        member.wait_owned(0)
    own_node.start()
    for member in members:
        member.wait_owned(2)
    ledger.wait_for(writer.stop())
    for member in members:
        member.leave()
    ledger.check_order()


# --- topics that change -------------------------------------------------------------------------


def test_topics_that_match_a_pattern_are_read_from_when_they_are_made(
    shared_node: EmbeddedNode,
) -> None:
    ledger = Ledger()
    member = Reader(shared_node.address, "g-pattern", "^pat-.*", ledger, "member")
    for number in (1, 2):
        make_topic(shared_node, f"pat-{number}", 2)
        member.wait_owned(2 * number)
        ledger.wait_for(produce(shared_node, f"pat-{number}", range(number, 100, 2), 2))
    member.leave()
    ledger.check_clean()


def test_added_partitions_are_shared(shared_node: EmbeddedNode) -> None:
    make_topic(shared_node, "grown", 2)
    ledger = Ledger()
    place = (shared_node.address, "g-grown", "grown", ledger)
    members = [Reader(*place, "sync"), AsyncReader(*place, "async")]
    for member in members:
        member.wait_owned(1)
    with Admin(bootstrap_servers=shared_node.address) as admin:
        admin.create_partitions({"grown": 4})
    values = produce(shared_node, "grown", range(100), 4)
    for member in members:
        member.wait_owned(2)
    ledger.wait_for(values)
    for member in members:
        member.leave()
    ledger.check_clean()


def test_a_topic_made_again_is_read_and_committed_from_its_beginning(
    shared_node: EmbeddedNode,
) -> None:
    make_topic(shared_node, "again", 2)
    ledger = Ledger()
    place = (shared_node.address, "g-again", "again", ledger)
    members = [Reader(*place, "sync"), AsyncReader(*place, "async")]
    for member in members:
        member.wait_owned(1)
    ledger.wait_for(produce(shared_node, "again", range(200), 2))
    make_again(shared_node, "again", 2)
    ledger.wait_for(produce(shared_node, "again", range(1000, 1050), 2))
    for member in members:
        member.leave()
    parts = [TopicPartition("again", number) for number in (0, 1)]
    assert committed(shared_node, "g-again") == dict.fromkeys(parts, 25)


def test_an_assigned_partition_of_a_topic_made_again_is_committed(
    shared_node: EmbeddedNode,
) -> None:
    make_topic(shared_node, "assigned", 1)
    part = TopicPartition("assigned", 0)
    produce(shared_node, "assigned", range(100), 1)
    with Consumer(bootstrap_servers=shared_node.address, group_id="g-as", **OPTIONS) as consumer:
        consumer.assign([part])
        read_count(consumer, 100)
        deadline = time.monotonic() + _COMMITTED_S
        while consumer.committed(part) != 100:
            assert time.monotonic() < deadline, "it commits by itself"
            consumer.getmany(timeout_ms=50)
        make_again(shared_node, "assigned", 1)
        produce(shared_node, "assigned", range(10), 1)
        read_count(consumer, 10)
    assert committed(shared_node, "g-as") == {part: 10}


# --- positions ----------------------------------------------------------------------------------


def test_commits_go_forward_and_only_a_reset_goes_back(shared_node: EmbeddedNode) -> None:
    make_topic(shared_node, "positions", 1)
    part = TopicPartition("positions", 0)
    produce(shared_node, "positions", range(100), 1)
    options = {**OPTIONS, "enable_auto_commit": False, "group_id": "g-positions"}
    with (
        Admin(bootstrap_servers=shared_node.address) as admin,
        Consumer("positions", bootstrap_servers=shared_node.address, **options) as consumer,
    ):
        read_count(consumer, 100)
        assert consumer.committed(part) is None
        consumer.commit()
        consumer.seek(part, 10)
        records = consumer.getmany(timeout_ms=_JOINED_MS, max_records=3)[part]
        assert [record.offset for record in records] == [10, 11, 12]
        for offset in (13, 101):
            with pytest.raises(InvalidCommitOffsetError):
                consumer.commit({part: offset})
        assert consumer.committed(part) == 100
        consumer.seek_to_committed()
        assert consumer.position(part) == 100
        consumer.seek_to_beginning()
        assert consumer.position(part) == 0
        with pytest.raises(GroupNotEmptyError):
            admin.reset_group_offsets("g-positions", {part: 40})
        consumer.unsubscribe()
        admin.reset_group_offsets("g-positions", {part: 40})
        consumer.subscribe(["positions"])
        records = consumer.getmany(timeout_ms=_JOINED_MS, max_records=1)[part]
        assert records[0].offset == 40


def test_a_member_that_polls_too_rarely_loses_its_partitions_and_its_commit_says_so(
    shared_node: EmbeddedNode,
) -> None:
    make_topic(shared_node, "slow")
    values = produce(shared_node, "slow", range(200), 4)
    options = {**OPTIONS, "max_poll_interval_ms": 3_000, "group_id": "g-slow"}
    ledger = Ledger()
    with Consumer("slow", bootstrap_servers=shared_node.address, **options) as consumer:
        while not consumer.getmany(timeout_ms=1_000, max_records=10):
            pass
        member = Reader(shared_node.address, "g-slow", "slow", ledger, "member")
        member.wait_owned(4)
        ledger.wait_for(values)
        with pytest.raises(UnknownMemberError, match="lost slow-0"):
            consumer.commit()
        while len(consumer.assignment()) != 2:
            consumer.getmany(timeout_ms=50)
        member.leave()


def test_a_paused_member_keeps_its_partitions(shared_node: EmbeddedNode) -> None:
    make_topic(shared_node, "paused", 1)
    part = TopicPartition("paused", 0)
    produce(shared_node, "paused", range(100), 1)
    options = {**OPTIONS, "session_timeout_ms": 4_000, "group_id": "g-paused"}
    with Consumer("paused", bootstrap_servers=shared_node.address, **options) as consumer:
        records = consumer.getmany(timeout_ms=_JOINED_MS, max_records=10)[part]
        consumer.pause(part)
        assert consumer.getmany(timeout_ms=5_000) == {}
        consumer.resume(part)
        records += consumer.getmany(timeout_ms=_JOINED_MS)[part]
        assert [record.offset for record in records] == list(range(100))
