"""Real voters: files, threads and gRPC on loopback."""

import asyncio
from dataclasses import replace

import pytest

from millstream_raft.consensus import ENTRY_BYTES_MAX, NotProposed, OutcomeUnknown
from millstream_raft.directory import format_node
from millstream_raft.directory_errors import (
    DirectoryDamaged,
    ForeignDirectory,
    NotFormatted,
)
from millstream_server.runtime.system import SystemFiles
from tests.fakes.raft_quorum import PATIENT, Ledger, Quorum


@pytest.fixture
async def single(tmp_path):
    quorum = Quorum(tmp_path, 1)
    await quorum.start()
    yield quorum
    await quorum.stop()


@pytest.fixture
async def three(tmp_path):
    quorum = Quorum(tmp_path, 3)
    await quorum.start()
    yield quorum
    await quorum.stop()


async def test_single_voter_leads_commits_and_restarts_from_disk(single):
    leader = await single.leader()
    results = await asyncio.gather(*(leader.propose(b"%d" % n, 5_000) for n in range(100)))
    assert sorted(map(int, results)) == list(range(1, 101))
    assert single.ledgers[1].told == single.ledgers[1].entries
    before = single.ledgers[1].entries
    await single.stop_node(1)
    await single.start_node(1)
    leader = await single.leader()
    assert single.ledgers[1].told == before
    assert await leader.propose(b"after", 5_000) == b"101"


async def test_three_voters_survive_the_loss_of_their_leader_and_restart(three):
    leader = await three.leader()
    entries = [b"%d" % number for number in range(1_000)]
    await asyncio.gather(*(leader.propose(entry, 10_000) for entry in entries))
    ledger = three.ledgers[leader.node_id]
    assert ledger.told == ledger.entries
    assert sorted(ledger.told, key=int) == entries
    assert leader.status().journal_syncs < 200, "group commit"
    await three.stop_node(leader.node_id)
    second = await three.leader()
    assert second.node_id != leader.node_id
    assert second.term > leader.term
    assert three.ledgers[second.node_id].told == ledger.told
    await second.propose(b"after", 10_000)
    await three.start_node(leader.node_id)
    await three.until(leader.node_id, lambda each: b"after" in each.told)
    assert three.ledgers[leader.node_id].told == three.ledgers[second.node_id].told
    for node in three.ids:
        indexes = three.ledgers[node].indexes
        assert indexes == sorted(indexes)


async def test_every_voter_at_once_restarts_from_disk(three):
    leader = await three.leader()
    await asyncio.gather(*(leader.propose(b"%d" % n, 10_000) for n in range(50)))
    for node in three.ids:
        await three.stop_node(node)
    for node in three.ids:
        await three.start_node(node)
    leader = await three.leader()
    assert len(three.ledgers[leader.node_id].told) == 50
    assert await leader.propose(b"more", 10_000) == b"51"


async def test_voter_that_fell_behind_is_told_a_snapshot(tmp_path):
    quorum = Quorum(tmp_path, 3, replace(PATIENT, snapshot_entries=10, snapshot_part_bytes=100))
    await quorum.start()
    try:
        leader = await quorum.leader()
        behind = next(node for node in quorum.ids if node != leader.node_id)
        await quorum.stop_node(behind)
        for number in range(60):
            await leader.propose(b"%d" % number, 10_000)
        await quorum.start_node(behind)
        await quorum.until(behind, lambda each: b"59" in each.told)
        assert quorum.ledgers[behind].told == quorum.ledgers[leader.node_id].told
        assert quorum.nodes[behind].status().snapshot_index > 10
    finally:
        await quorum.stop()


async def test_followers_refuse_and_name_the_leader(three):
    leader = await three.leader()
    await three.until(leader.node_id, lambda _: True)
    await leader.barrier(5_000)
    follower = next(node for node in three.nodes.values() if node is not leader)
    with pytest.raises(NotProposed) as caught:
        await follower.propose(b"entry", 1_000)
    assert caught.value.leader_id in (leader.node_id, None)
    with pytest.raises(NotProposed):
        await follower.barrier(1_000)


async def test_barrier_shares_rounds_and_returns_what_was_applied(three):
    leader = await three.leader()
    await leader.propose(b"entry", 5_000)
    index = three.ledgers[leader.node_id].indexes[-1]
    syncs = leader.status().journal_syncs
    barriers = await asyncio.gather(*(leader.barrier(5_000) for _ in range(100)))
    assert min(barriers) > index
    assert len(set(barriers)) <= 3
    assert leader.status().journal_syncs - syncs <= 3


async def test_leader_without_a_majority_ends_proposals_as_unknown(three):
    leader = await three.leader()
    for node in three.ids:
        if node != leader.node_id:
            await three.stop_node(node)
    with pytest.raises(OutcomeUnknown):
        await leader.propose(b"entry", 300)
    while leader.is_leader:
        three._changed.clear()
        await asyncio.wait_for(three._changed.wait(), 20)
    with pytest.raises(NotProposed):
        await leader.propose(b"entry", 300)
    assert (leader.node_id, False) in [change[:2] for change in three.changes]


async def test_oversized_entry_is_refused_and_the_largest_is_not(three):
    leader = await three.leader()
    with pytest.raises(NotProposed, match="at most"):
        await leader.propose(bytes(ENTRY_BYTES_MAX + 1), 5_000)
    largest = [b"%d" % n + bytes(ENTRY_BYTES_MAX - 1) for n in range(5)]
    await asyncio.gather(*(leader.propose(entry, 20_000) for entry in largest))
    for node in three.ids:
        await three.until(node, lambda each: len(each.told) == 5)


async def test_cancelled_proposal_is_withdrawn_or_ignored(single):
    leader = await single.leader()
    tasks = [asyncio.create_task(leader.propose(b"%d" % n, 5_000)) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, bytes) for result in results[1::2])
    assert leader.status().proposals_pending == 0


async def test_stopping_ends_every_proposal(single):
    leader = await single.leader()
    tasks = [asyncio.create_task(leader.propose(b"%d" % n, 60_000)) for n in range(50)]
    await asyncio.sleep(0)
    await single.stop_node(1)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, bytes | NotProposed | OutcomeUnknown) for each in results)
    with pytest.raises(NotProposed, match="not running"):
        await leader.propose(b"late", 1_000)


async def test_unformatted_folder_does_not_start(tmp_path):
    quorum = Quorum(tmp_path, 1)
    quorum.voters = {1: "127.0.0.1:1"}
    with pytest.raises(NotFormatted):
        await quorum.make(1, Ledger()).start()


async def test_folder_of_another_cluster_does_not_start(tmp_path):
    quorum = Quorum(tmp_path, 1)
    quorum.voters = {1: "127.0.0.1:1"}
    format_node(quorum.path(1), "other", 1, (1,), SystemFiles())
    with pytest.raises(ForeignDirectory):
        await quorum.make(1, Ledger()).start()


async def test_damaged_journal_does_not_start(single, tmp_path):
    leader = await single.leader()
    for number in range(5):
        await leader.propose(b"%d" % number, 5_000)
    await single.stop_node(1)
    path = tmp_path / "1" / "journal"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DirectoryDamaged, match="damaged at byte"):
        await single.make(1, Ledger()).start()


async def test_state_machine_that_raises_stops_the_process(single):
    stopped = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    class Raising(Ledger):
        def apply(self, index: int, entry: bytes) -> bytes:
            raise ValueError("cannot apply")

    def fail_stop(reason: str):
        def tell() -> None:
            if not stopped.done():
                stopped.set_result(reason)

        loop.call_soon_threadsafe(tell)
        raise SystemExit(70)  # ends the thread, as the process would

    await single.leader()
    await single.stop_node(1)
    node = single.make(1, Raising(), fail_stop)
    leads = asyncio.Event()
    node.on_leadership(lambda is_leader, term: leads.set())
    await node.start()
    await asyncio.wait_for(leads.wait(), 10)
    with pytest.raises(OutcomeUnknown):
        await node.propose(b"entry", 500)
    assert "cannot apply" in await asyncio.wait_for(stopped, 10)
    await node.stop()


async def test_a_listener_that_fails_stops_the_voter_instead_of_going_astray(tmp_path):
    quorum = Quorum(tmp_path, 1)
    await quorum.start()
    await (await quorum.leader()).propose(b"one", 5_000)
    await quorum.stop_node(1)
    reasons = []
    stopped = asyncio.Event()

    def stop(reason):
        reasons.append(reason)
        stopped.set()

    class Failing(Ledger):
        def committed(self, index, entry, result):
            raise RuntimeError("cannot follow")

    ledger = Failing()
    consensus = quorum.make(1, ledger, stop)
    consensus.on_commit(ledger)
    await consensus.start()
    await asyncio.wait_for(stopped.wait(), 10)
    assert "cannot follow" in reasons[0]
    await consensus.stop()


async def test_a_leader_that_resigns_is_replaced_before_it_stops(tmp_path):
    # None is eager, or it might lead again before the test has looked.
    three = Quorum(tmp_path, 3, eager=None)
    await three.start()
    try:
        leader = await three.leader()
        follower = next(node for node in three.nodes.values() if node is not leader)
        assert not await follower.resign()
        await leader.propose(b"before", 5_000)
        assert await leader.resign()
        assert not leader.is_leader
        second = await three.leader()
        assert second is not leader
        await second.propose(b"after", 5_000)
        with pytest.raises(NotProposed):
            await leader.propose(b"too late", 5_000)
    finally:
        await three.stop()


async def test_a_lone_voter_has_nobody_to_resign_to(single):
    leader = await single.leader()
    assert not await leader.resign()
    assert leader.is_leader
