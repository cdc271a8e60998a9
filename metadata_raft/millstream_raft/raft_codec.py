"""Messages to Protobuf and back. Whatever arrives is checked here, so that the core behind sees
only messages that an honest voter can have sent: typed, contiguous, of known kinds."""

from collections.abc import Sequence

from millstream_raft.raft_messages import (
    KIND_BATCH,
    KIND_NOTHING,
    AppendEntries,
    AppendReply,
    EntriesLost,
    Envelope,
    InstallSnapshot,
    LeaderLeaves,
    LogEntry,
    Message,
    Position,
    RequestVote,
    SnapshotPart,
    TermNotice,
    VoteGranted,
)
from millstream_server.v1 import raft_pb2 as wire

_NUMBER_MAX = (1 << 63) - 1
#: Kinds of command that may enter a log. The library has more, which it reads with pickle.
_KINDS = frozenset((KIND_BATCH, KIND_NOTHING))


class MalformedMessage(Exception):
    """A peer sent something that no voter sends."""


def encode(envelope: Envelope) -> wire.RaftMessage:
    """The wire form of a message."""
    out = wire.RaftMessage(sender_term=envelope.sender_term)
    match envelope.message:
        case RequestVote(term, last_log_index, last_log_term):
            out.request_vote.term = term
            out.request_vote.last_log_index = last_log_index
            out.request_vote.last_log_term = last_log_term
        case VoteGranted(term):
            out.vote_granted.term = term
        case AppendEntries() as message:
            _encode_append(message, out.append_entries)
        case InstallSnapshot() as message:
            _encode_install(message, out.install_snapshot)
        case AppendReply(next_index, success, reset):
            out.append_reply.SetInParent()
            out.append_reply.next_index = next_index
            out.append_reply.success = success
            out.append_reply.reset = reset
        case TermNotice():
            out.term_notice.SetInParent()
        case EntriesLost(leader_last_index):
            out.entries_lost.leader_last_index = leader_last_index
        case LeaderLeaves(stand):
            out.leader_leaves.SetInParent()
            out.leader_leaves.stand = stand
    return out


def decode(message: wire.RaftMessage) -> Envelope:
    """The value of a wire message. Raises MalformedMessage."""
    kind = message.WhichOneof("kind")
    decoder = _DECODERS.get(kind or "")
    if decoder is None:
        raise MalformedMessage("a message of no known kind")
    return Envelope(_number(message.sender_term, "sender term"), decoder(message))


def check_command(command: bytes) -> bytes:
    """A command that may enter the log. Raises MalformedMessage."""
    if not command or command[0] not in _KINDS:
        raise MalformedMessage(f"a command of kind {command[0] if command else 'none'}")
    return command


def _encode_append(message: AppendEntries, out: wire.AppendEntries) -> None:
    out.term = message.term
    out.commit_index = message.commit_index
    if message.previous is not None:
        out.previous.index, out.previous.term = message.previous
    for command, index, term in message.entries:
        out.entries.add(index=index, term=term, command=command)


def _encode_install(message: InstallSnapshot, out: wire.InstallSnapshot) -> None:
    out.term = message.term
    out.commit_index = message.commit_index
    if message.part is not None:
        out.part.last.index, out.part.last.term = message.part.last
        out.part.position = message.part.position
        out.part.data = message.part.data
        out.part.complete = message.part.complete


def _decode_vote_request(message: wire.RaftMessage) -> Message:
    vote = message.request_vote
    return RequestVote(
        _term(vote.term),
        _number(vote.last_log_index, "last log index"),
        _number(vote.last_log_term, "last log term"),
    )


def _decode_vote(message: wire.RaftMessage) -> Message:
    return VoteGranted(_term(message.vote_granted.term))


def _decode_append(message: wire.RaftMessage) -> Message:
    append = message.append_entries
    term = _term(append.term)
    previous = _position(append.previous) if append.HasField("previous") else None
    entries = tuple(
        LogEntry(check_command(entry.command), entry.index, entry.term) for entry in append.entries
    )
    _check_entries(term, previous, entries)
    return AppendEntries(term, _number(append.commit_index, "commit index"), previous, entries)


def _check_entries(term: int, previous: Position | None, entries: Sequence[LogEntry]) -> None:
    if previous is None:
        if entries:
            raise MalformedMessage("entries without the position before them")
        return
    index, entry_term = previous
    for entry in entries:
        if entry.index != index + 1:
            raise MalformedMessage(f"entry {entry.index} follows {index}")
        if not entry_term <= entry.term <= term:
            raise MalformedMessage(f"entry {entry.index} of term {entry.term} in term {term}")
        index, entry_term = entry.index, entry.term
    _number(index, "index")


def _decode_install(message: wire.RaftMessage) -> Message:
    install = message.install_snapshot
    term = _term(install.term)
    commit_index = _number(install.commit_index, "commit index")
    if not install.HasField("part"):
        return InstallSnapshot(term, commit_index, None)
    part = install.part
    last = _position(part.last)
    if last.index < 2 or last.term > term:
        raise MalformedMessage(f"a snapshot up to {last.index} of term {last.term}")
    position = _number(part.position, "position")
    return InstallSnapshot(
        term, commit_index, SnapshotPart(last, position, part.data, part.complete)
    )


def _decode_reply(message: wire.RaftMessage) -> Message:
    reply = message.append_reply
    if reply.next_index < 2:  # every log holds entry 1
        raise MalformedMessage(f"next index {reply.next_index}")
    return AppendReply(_number(reply.next_index, "next index"), reply.success, reply.reset)


def _decode_notice(message: wire.RaftMessage) -> Message:
    return TermNotice()


def _decode_loss(message: wire.RaftMessage) -> Message:
    return EntriesLost(_number(message.entries_lost.leader_last_index, "last index"))


def _decode_leave(message: wire.RaftMessage) -> Message:
    return LeaderLeaves(message.leader_leaves.stand)


_DECODERS = {
    "request_vote": _decode_vote_request,
    "vote_granted": _decode_vote,
    "append_entries": _decode_append,
    "install_snapshot": _decode_install,
    "append_reply": _decode_reply,
    "term_notice": _decode_notice,
    "entries_lost": _decode_loss,
    "leader_leaves": _decode_leave,
}


def _number(value: int, name: str) -> int:
    if value > _NUMBER_MAX:
        raise MalformedMessage(f"{name} {value}")
    return value


def _term(value: int) -> int:
    if value < 1:
        raise MalformedMessage("term zero")
    return _number(value, "term")


def _position(message: wire.RaftPosition) -> Position:
    if message.index < 1:
        raise MalformedMessage("index zero")
    return Position(_number(message.index, "index"), _number(message.term, "term"))
