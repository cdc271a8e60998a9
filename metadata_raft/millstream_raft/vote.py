"""The term and the vote, which must survive a restart: a node that forgets its vote may vote twice
in one term, and two leaders follow (Raft §5.2)."""

import os.path

from google.protobuf.message import DecodeError

from millstream_raft.checked_file import (
    decode_checked,
    encode_checked,
    read_from_disk,
    replace_file,
)
from millstream_raft.directory_errors import DirectoryDamaged
from millstream_raft.ports import FailStop, Files
from millstream_server.v1 import raft_storage_pb2 as storage

FILE_NAME = "vote"
MAGIC = b"MSRVOTE\0"


class VoteFile:
    """The current term and who got the vote in it, in memory and on disk."""

    def __init__(self, directory: str, files: Files, fail_stop: FailStop) -> None:
        """Load the file. Raises DirectoryDamaged or NewerFormat."""
        self._path = os.path.join(directory, FILE_NAME)
        self._files = files
        self._fail_stop = fail_stop
        if not files.exists(self._path):
            raise DirectoryDamaged(f"{self._path} is missing")
        content = decode_checked(MAGIC, read_from_disk(files, self._path), self._path)
        try:
            message = storage.RaftVoteFile.FromString(content)
        except DecodeError as error:
            raise DirectoryDamaged(f"{self._path} cannot be parsed") from error
        self.term: int = message.term
        self.voted_for: int | None = message.voted_for_node_id or None

    def store(self, term: int, voted_for: int | None) -> None:
        """Durable on return; nothing is written when nothing changes."""
        if (term, voted_for) == (self.term, self.voted_for):
            return
        try:
            replace_file(self._files, self._path, [encode_vote(term, voted_for)])
        except OSError as error:
            self._fail_stop(f"cannot store the vote in {self._path}: {error}")
        self.term, self.voted_for = term, voted_for


def encode_vote(term: int, voted_for: int | None) -> bytes:
    """The file's bytes."""
    message = storage.RaftVoteFile(term=term, voted_for_node_id=voted_for or 0)
    return encode_checked(MAGIC, message.SerializeToString(deterministic=True))
