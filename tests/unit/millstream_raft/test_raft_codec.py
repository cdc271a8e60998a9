"""Messages over the wire, honest and hostile."""

import random

import pytest
from google.protobuf.message import DecodeError

from millstream_raft.raft_codec import MalformedMessage, decode, encode
from millstream_raft.raft_messages import (
    AppendEntries,
    AppendReply,
    EntriesLost,
    Envelope,
    InstallSnapshot,
    LeaderLeaves,
    LogEntry,
    Position,
    RequestVote,
    SnapshotPart,
    TermNotice,
    VoteGranted,
)
from millstream_server.v1 import raft_pb2 as wire

ENTRIES = (LogEntry(b"\1", 5, 2), LogEntry(b"\0payload", 6, 3))
MESSAGES = [
    RequestVote(3, 10, 2),
    VoteGranted(3),
    AppendEntries(3, 4, Position(4, 2), ENTRIES),
    AppendEntries(3, 4, Position(4, 2), ()),
    AppendEntries(3, 0, None, ()),
    InstallSnapshot(3, 0, SnapshotPart(Position(9, 2), 100, b"bytes", False)),
    InstallSnapshot(3, 0, SnapshotPart(Position(9, 2), 0, b"", True)),
    InstallSnapshot(3, 0, None),
    AppendReply(7, True, False),
    AppendReply(2, False, True),
    TermNotice(),
    EntriesLost(7),
    LeaderLeaves(stand=True),
    LeaderLeaves(stand=False),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_message_survives_the_wire(message):
    data = encode(Envelope(3, message)).SerializeToString()
    assert decode(wire.RaftMessage.FromString(data)) == Envelope(3, message)


def append(**changes):
    fields = {
        "term": 3,
        "commit_index": 4,
        "previous": wire.RaftPosition(index=4, term=2),
        "entries": [wire.RaftEntry(index=5, term=3, command=b"\0x")],
    }
    fields.update(changes)
    return wire.RaftMessage(sender_term=3, append_entries=wire.AppendEntries(**fields))


def entry(index=5, term=3, command=b"\0x"):
    return wire.RaftEntry(index=index, term=term, command=command)


HOSTILE = {
    "nothing": wire.RaftMessage(sender_term=3),
    "membership command": append(entries=[entry(command=b"\2pickle")]),
    "version command": append(entries=[entry(command=b"\3pickle")]),
    "unknown command": append(entries=[entry(command=b"\xff")]),
    "empty command": append(entries=[entry(command=b"")]),
    "gap": append(entries=[entry(index=6)]),
    "going back": append(entries=[entry(5), entry(5)]),
    "term of the future": append(entries=[entry(term=4)]),
    "term going back": append(entries=[entry(term=1)]),
    "entries without a position": append(previous=None),
    "index zero": append(previous=wire.RaftPosition(index=0, term=0), entries=[]),
    "term zero": append(term=0),
    "commit index beyond all numbers": append(commit_index=1 << 63),
    "index beyond all numbers": append(
        previous=wire.RaftPosition(index=(1 << 63) - 1, term=2),
        entries=[entry(index=1 << 63)],
    ),
    "sender term beyond all numbers": wire.RaftMessage(
        sender_term=1 << 63, term_notice=wire.TermNotice()
    ),
    "vote in term zero": wire.RaftMessage(vote_granted=wire.VoteGranted()),
    "reply below the common entry": wire.RaftMessage(
        sender_term=3, append_reply=wire.AppendReply(next_index=1, reset=True)
    ),
    "snapshot of nothing": wire.RaftMessage(
        sender_term=3,
        install_snapshot=wire.InstallSnapshot(
            term=3, part=wire.SnapshotPart(last=wire.RaftPosition(index=1, term=0))
        ),
    ),
    "snapshot of the future": wire.RaftMessage(
        sender_term=3,
        install_snapshot=wire.InstallSnapshot(
            term=3, part=wire.SnapshotPart(last=wire.RaftPosition(index=9, term=4))
        ),
    ),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_message_that_no_voter_sends_is_refused(message):
    with pytest.raises(MalformedMessage):
        decode(message)


def test_random_bytes_are_refused_or_harmless():
    chance = random.Random(1)
    good = [encode(Envelope(3, message)).SerializeToString() for message in MESSAGES]
    for _ in range(3_000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            envelope = decode(wire.RaftMessage.FromString(bytes(data)))
        except (DecodeError, MalformedMessage):
            continue
        if isinstance(envelope.message, AppendEntries):
            assert all(each.command[0] in (0, 1) for each in envelope.message.entries)
