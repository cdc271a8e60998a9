"""Messages in the words of PySyncObj: dicts whose ``type`` says what they are."""

from typing import Any

from millstream_raft.raft_messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    Message,
    Position,
    RequestVote,
    VoteGranted,
)


def from_library(message: dict[str, Any]) -> Message | None:
    """The message of a dict. None for what voters do not send here: forwarded commands (a deposed
    leader's could be applied late), leadership transfer, pickled pieces."""
    match message["type"]:
        case "request_vote":
            return RequestVote(message["term"], message["last_log_index"], message["last_log_term"])
        case "response_vote":
            return VoteGranted(message["term"])
        case "next_node_idx":
            return AppendReply(message["next_node_idx"], message["success"], message["reset"])
        case "append_entries" if "transmission" in message:
            return None
        case "append_entries" if "prevLogIdx" in message:
            previous = None
            if message["prevLogIdx"] is not None:
                previous = Position(message["prevLogIdx"], message["prevLogTerm"])
            return AppendEntries(
                message["term"], message["commit_index"], previous, tuple(message["entries"])
            )
        case "append_entries":
            serialized = message["serialized"]
            return InstallSnapshot(
                message["term"], message["commit_index"], serialized[0] if serialized else None
            )
    return None


def to_library(message: Message) -> dict[str, Any]:
    """The dict of a message."""
    match message:
        case RequestVote(term, last_log_index, last_log_term):
            return {
                "type": "request_vote",
                "term": term,
                "last_log_index": last_log_index,
                "last_log_term": last_log_term,
            }
        case VoteGranted(term):
            return {"type": "response_vote", "term": term}
        case AppendReply(next_index, success, reset):
            return {
                "type": "next_node_idx",
                "next_node_idx": next_index,
                "success": success,
                "reset": reset,
            }
        case AppendEntries(term, commit_index, previous, entries):
            return {
                "type": "append_entries",
                "term": term,
                "commit_index": commit_index,
                "entries": list(entries),
                "prevLogIdx": None if previous is None else previous.index,
                "prevLogTerm": None if previous is None else previous.term,
            }
        case InstallSnapshot(term, commit_index, part):
            serialized = None if part is None else (part, part.position == 0, part.complete)
            return {
                "type": "append_entries",
                "term": term,
                "commit_index": commit_index,
                "serialized": serialized,
            }
    raise TypeError(f"the library does not know {message!r}")
