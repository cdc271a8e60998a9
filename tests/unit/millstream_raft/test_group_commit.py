"""Proposals that wait, travel together, or are refused."""

import asyncio

import pytest

from millstream_raft.consensus import ENTRY_BYTES_MAX, NotProposed
from millstream_raft.group_commit import (
    Proposal,
    ProposalQueue,
    Stage,
    decode_batch,
    encode_batch,
)


def proposal(entry: bytes | None = b"entry") -> Proposal:
    loop = asyncio.new_event_loop()
    try:
        return Proposal(entry, loop.create_future())
    finally:
        loop.close()


def queue(**limits: int) -> ProposalQueue:
    settings = {
        "waiting_entries_max": 10,
        "waiting_bytes_max": 4 * ENTRY_BYTES_MAX,
        "batch_entries_max": 4,
        "batch_bytes_max": ENTRY_BYTES_MAX,
        **limits,
    }
    return ProposalQueue(**settings)


def test_proposals_that_wait_together_travel_together_in_order():
    waiting = queue()
    proposals = [proposal(b"%d" % number) for number in range(6)]
    assert [waiting.add(each) for each in proposals] == [True] + [False] * 5
    assert waiting.take_batch() == proposals[:4]
    assert waiting.take_batch() == proposals[4:]
    assert waiting.take_batch() == []


def test_batch_ends_before_it_passes_its_bytes():
    waiting = queue()
    large = [proposal(bytes(ENTRY_BYTES_MAX)), proposal(b"small"), proposal(bytes(ENTRY_BYTES_MAX))]
    for each in large:
        waiting.add(each)
    assert [len(waiting.take_batch()) for _ in range(3)] == [1, 1, 1]


def test_waiting_proposal_can_be_withdrawn_for_certain():
    waiting = queue()
    first, second = proposal(), proposal()
    waiting.add(first)
    waiting.add(second)
    assert waiting.withdraw(first)
    assert waiting.take_batch() == [second]
    assert not waiting.withdraw(second), "it is under way"
    assert second.stage is Stage.UNDER_WAY


def test_too_many_waiting_are_refused():
    waiting = queue(waiting_entries_max=2)
    waiting.add(proposal())
    waiting.add(proposal())
    with pytest.raises(NotProposed, match="too many"):
        waiting.add(proposal())
    waiting.take_batch()
    waiting.add(proposal())


def test_too_many_bytes_waiting_are_refused():
    waiting = queue(waiting_bytes_max=100)
    waiting.add(proposal(bytes(90)))
    with pytest.raises(NotProposed, match="too many"):
        waiting.add(proposal(bytes(20)))


def test_entry_that_the_library_would_pickle_is_refused():
    queue().add(proposal(bytes(ENTRY_BYTES_MAX)))
    with pytest.raises(NotProposed, match="at most"):
        queue().add(proposal(bytes(ENTRY_BYTES_MAX + 1)))


def test_barriers_take_no_room_in_the_entry():
    batch = [proposal(None), proposal(b"one"), proposal(None), proposal(b"")]
    assert decode_batch(encode_batch(batch)) == [b"one", b""]


def test_content_that_is_no_batch_is_refused():
    with pytest.raises(ValueError, match="not a batch"):
        decode_batch(b"\xff\xff\xff")


def test_taking_all_ends_them():
    waiting = queue()
    each = proposal()
    waiting.add(each)
    assert waiting.take_all() == [each]
    assert each.stage is Stage.ENDED
    assert len(waiting) == 0
    assert waiting.add(proposal())
