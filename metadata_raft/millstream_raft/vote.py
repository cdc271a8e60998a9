"""What a voter promised, which must survive a restart.

The term and the vote: a node that forgets its vote may vote twice in one term, and two leaders
follow (Raft §5.2). Whether it must be silent: a node that lost what it had acknowledged may neither
vote nor stand for election until it holds it again. And how much of the journal is synced, since a
journal whose end was cut off cannot tell.
"""

import os.path
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from millstream_raft.checked_file import (
    decode_checked,
    encode_checked,
    read_from_disk,
    replace_file,
)
from millstream_raft.directory_errors import DirectoryDamaged
from millstream_raft.journal_format import JournalMark
from millstream_raft.ports import FailStop, Files
from millstream_server.v1 import raft_storage_pb2 as storage

FILE_NAME = "vote"
MAGIC = b"MSRVOTE\0"


@dataclass(frozen=True, slots=True)
class Promises:
    """The content of the file."""

    term: int = 0
    voted_for: int | None = None
    #: Neither votes nor stands for election until its log is committed up to this index; 0: does.
    silent_until: int = 0
    journal_mark: JournalMark | None = None


class VoteFile:
    """The promises in memory and on disk. Everything is durable on return, and nothing is written
    when nothing changes."""

    def __init__(self, directory: str, files: Files, fail_stop: FailStop) -> None:
        """Load the file. Raises DirectoryDamaged or NewerFormat."""
        self._path = os.path.join(directory, FILE_NAME)
        self._files = files
        self._fail_stop = fail_stop
        if not files.exists(self._path):
            raise DirectoryDamaged(f"{self._path} is missing")
        self._promises = decode_vote(read_from_disk(files, self._path), self._path)

    @property
    def term(self) -> int:
        """Current term."""
        return self._promises.term

    @property
    def voted_for(self) -> int | None:
        """Who got the vote in it."""
        return self._promises.voted_for

    @property
    def silent_until(self) -> int:
        """See ``Promises``."""
        return self._promises.silent_until

    @property
    def journal_mark(self) -> JournalMark | None:
        """See ``Promises``."""
        return self._promises.journal_mark

    def store(self, term: int, voted_for: int | None, mark: JournalMark | None = None) -> None:
        """Store a term and a vote, and with them, since it costs no more, how much of the journal
        is synced."""
        if (term, voted_for) != (self.term, self.voted_for):
            mark = mark or self.journal_mark
            self._replace(
                replace(self._promises, term=term, voted_for=voted_for, journal_mark=mark)
            )

    def mark_journal(self, mark: JournalMark) -> None:
        """Remember how much of the journal is synced."""
        self._replace(replace(self._promises, journal_mark=mark))

    def be_silent_until(self, index: int) -> None:
        """Promise not to vote before the log is committed up to an index; 0: vote again."""
        self._replace(replace(self._promises, silent_until=index))

    def _replace(self, promises: Promises) -> None:
        if promises == self._promises:
            return
        try:
            replace_file(self._files, self._path, [encode_vote(promises)])
        except OSError as error:
            self._fail_stop(f"cannot store the vote in {self._path}: {error}")
        self._promises = promises


def encode_vote(promises: Promises) -> bytes:
    """The file's bytes."""
    message = storage.RaftVoteFile(
        term=promises.term,
        voted_for_node_id=promises.voted_for or 0,
        silent_until_index=promises.silent_until,
    )
    if promises.journal_mark is not None:
        mark = promises.journal_mark
        message.journal_mark.first_index = mark.first_index
        message.journal_mark.whole_bytes = mark.whole_bytes
        message.journal_mark.synced_bytes = mark.synced_bytes
    return encode_checked(MAGIC, message.SerializeToString(deterministic=True))


def decode_vote(data: bytes, name: str) -> Promises:
    """Read the file's bytes. Raises DirectoryDamaged or NewerFormat, naming ``name``."""
    content = decode_checked(MAGIC, data, name)
    try:
        message = storage.RaftVoteFile.FromString(content)
    except DecodeError as error:
        raise DirectoryDamaged(f"{name} cannot be parsed") from error
    mark = None
    if message.HasField("journal_mark"):
        found = message.journal_mark
        mark = JournalMark(found.first_index, found.whole_bytes, found.synced_bytes)
    return Promises(
        message.term, message.voted_for_node_id or None, message.silent_until_index, mark
    )
