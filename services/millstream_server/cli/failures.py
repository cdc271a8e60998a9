"""What ends a command early: one plain sentence each, and the exit code that goes with it.

0    done
1    failed
2    used wrongly
64+n an RPC failed with gRPC code n
130  interrupted
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millstream import MillstreamError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RPC = 64
EXIT_INTERRUPTED = 130

# What to do about it, where the server's sentence does not say.
_ADVICE = {
    "UNKNOWN_TOPIC": "`millstream topic list` shows them, `millstream topic create` makes one",
    "UNKNOWN_PARTITION": "`millstream topic describe` shows the partitions",
    "TOPIC_ALREADY_EXISTS": "use it, choose another name, or pass --if-not-exists",
    "UNKNOWN_GROUP": "`millstream group list` shows the groups",
    "GROUP_NOT_EMPTY": "stop the group's members first; `millstream group describe` shows them",
    "INVALID_CONFIG": "`millstream topic describe-config` shows the keys",
    "LEADER_NOT_AVAILABLE": "try again in a moment; `millstream cluster health` shows what is down",
    "QUORUM_UNAVAILABLE": "`millstream metadata quorum describe` shows the metadata nodes",
    "DISK_FULL": "make space on the broker's disk, or lower retention",
    "RECORD_TOO_LARGE": "send smaller records, or raise max.message.bytes of the topic",
    "COORDINATOR_LOADING": "try again in a moment",
    "OFFSET_OUT_OF_RANGE": "start at `-o start`, or at an offset that the log still has",
}


class CommandError(Exception):
    """The command cannot be done; the message is one plain sentence that says what to do."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class UsageError(CommandError):
    """The command line itself is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_USAGE)


class Finished(Exception):
    """Ends a command whose result is told by its exit code alone."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def exit_code_of(error: "MillstreamError") -> int:
    """64 + the gRPC code for errors of servers, 1 for the client's own."""
    # Imported here, for gRPC takes a while and most commands end well.
    from millstream_server.runtime.errors import ServiceError, status_of

    try:
        return EXIT_RPC + int(status_of(ServiceError(error.code, "")).code)
    except KeyError:
        return EXIT_FAILED


def sentence_of(error: "MillstreamError", bootstrap_servers: str) -> str:
    """The error as one plain sentence with what to do."""
    if error.code == "UNAVAILABLE":
        return (
            f"cannot reach the cluster at {bootstrap_servers}; start one with `millstream up`, or "
            f"name its brokers with -b host:port ({_flat(error.message or error.code)})"
        )
    text = _flat(error.message or error.code.lower().replace("_", " ")).rstrip(".")
    if error.code == "TIMED_OUT":
        return f"{text}; the cluster did not answer in time; try again, or raise --timeout"
    advice = _ADVICE.get(error.code)
    if not advice:
        return text
    return f"{text} {advice}" if text.endswith("?") else f"{text}; {advice}"


def _flat(text: str) -> str:
    return " ".join(text.split())
