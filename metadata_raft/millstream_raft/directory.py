"""A metadata node's folder: made once by ``format_node``, checked at every start.

An empty folder never becomes a voter by itself. It might be a lost disk, and a voter that forgot
what it acknowledged can elect a leader that lacks committed entries (invariant 37).
"""

import os.path
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from millstream_raft import journal, snapshot_file, vote
from millstream_raft.checked_file import (
    decode_checked,
    encode_checked,
    read_from_disk,
    replace_file,
)
from millstream_raft.directory_errors import (
    REPLACE_DISK,
    AlreadyFormatted,
    DirectoryDamaged,
    ForeignDirectory,
    NotFormatted,
    PeerHasLog,
    RaftDirectoryError,
)
from millstream_raft.disk_recovery import RecoveryPoint
from millstream_raft.journal_format import encode_file
from millstream_raft.ports import Files
from millstream_raft.raft_messages import FIRST_ENTRY
from millstream_raft.vote import Promises
from millstream_server.v1 import raft_storage_pb2 as storage

FILE_NAME = "identity"
MAGIC = b"MSRIDEN\0"


@dataclass(frozen=True, slots=True)
class RaftIdentity:
    """Whose folder it is. The voters cannot change while the cluster lives."""

    cluster_id: str
    node_id: int
    voter_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class PeerLog:
    """What another voter says of its log; see ``format_node``."""

    node_id: int
    cluster_id: str
    last_index: int


def format_node(
    path: str,
    cluster_id: str,
    node_id: int,
    voters: Collection[int],
    files: Files,
    peer_logs: Sequence[PeerLog] = (),
) -> None:
    """Make a folder that holds an empty log. ``peer_logs`` are the answers of the voters that
    could be reached. Durable on return; a crash before leaves a folder that can be formatted
    again. Raises AlreadyFormatted, PeerHasLog, ValueError or OSError."""
    for peer in peer_logs:
        if peer.last_index > FIRST_ENTRY.index:
            raise PeerHasLog(
                f"node {peer.node_id} already has a log of cluster {peer.cluster_id}, so this is "
                f"no new cluster. If this node lost its disk: {REPLACE_DISK}"
            )
    _make_folder(path, RaftIdentity(cluster_id, node_id, frozenset(voters)), Promises(), files)


def format_replacement(
    path: str,
    cluster_id: str,
    node_id: int,
    voters: Collection[int],
    files: Files,
    point: RecoveryPoint,
) -> None:
    """Make a folder for a voter that lost its disk. It holds an empty log, and the promise to be
    silent until it holds everything that it may have acknowledged; see ``disk_recovery``. Durable
    on return. Raises AlreadyFormatted, ValueError or OSError."""
    # The leader of this term is the one that it may have voted for; another it must not.
    promises = Promises(point.term, voted_for=point.leader_id, silent_until=point.index)
    _make_folder(path, RaftIdentity(cluster_id, node_id, frozenset(voters)), promises, files)


def _make_folder(path: str, identity: RaftIdentity, promises: Promises, files: Files) -> None:
    _check_identity(identity)
    files.make_directory(path)
    _refuse_used_folder(path, files)
    replace_file(files, os.path.join(path, vote.FILE_NAME), [vote.encode_vote(promises)])
    replace_file(files, os.path.join(path, journal.FILE_NAME), [encode_file([FIRST_ENTRY])])
    # Last, since its presence says that all the rest is there.
    replace_file(files, os.path.join(path, FILE_NAME), [_encode_identity(identity)])
    files.sync_directory(os.path.dirname(path) or ".")


def is_formatted(path: str, files: Files) -> bool:
    """True if ``format_node`` once finished here. May raise OSError."""
    return files.exists(os.path.join(path, FILE_NAME))


def read_identity(path: str, files: Files) -> RaftIdentity:
    """Whose folder it is. Raises NotFormatted, DirectoryDamaged, NewerFormat or OSError."""
    name = os.path.join(path, FILE_NAME)
    if not files.exists(name):
        raise NotFormatted(
            f"{path} is not the folder of a metadata node. If this node is new, run 'millstream "
            "format'. If it had data, its disk is not mounted, or lost; if it is lost: "
            f"{REPLACE_DISK}"
        )
    content = decode_checked(MAGIC, read_from_disk(files, name), name)
    try:
        message = storage.RaftIdentityFile.FromString(content)
    except DecodeError as error:
        raise DirectoryDamaged(f"{name} cannot be parsed") from error
    return RaftIdentity(message.cluster_id, message.node_id, frozenset(message.voter_ids))


def check_directory(path: str, expected: RaftIdentity, files: Files) -> None:
    """Raise ForeignDirectory unless the folder is this node's; else as ``read_identity``."""
    found = read_identity(path, files)
    if found.cluster_id != expected.cluster_id:
        raise ForeignDirectory(
            f"{path} belongs to cluster {found.cluster_id}, not {expected.cluster_id}"
        )
    if found.node_id != expected.node_id:
        raise ForeignDirectory(f"{path} belongs to node {found.node_id}, not {expected.node_id}")
    if found.voter_ids != expected.voter_ids:
        raise ForeignDirectory(
            f"{path} was made for the voters {sorted(found.voter_ids)}, the configuration names "
            f"{sorted(expected.voter_ids)}: the voters of a cluster are fixed"
        )


def _check_identity(identity: RaftIdentity) -> None:
    if not identity.cluster_id:
        raise ValueError("the cluster id must not be empty")
    if any(not 1 <= voter < 1 << 32 for voter in identity.voter_ids):
        raise ValueError("node ids are numbers from 1 to 2^32 - 1")
    if identity.node_id not in identity.voter_ids:
        raise ValueError(f"node {identity.node_id} is not among the voters")


def _refuse_used_folder(path: str, files: Files) -> None:
    if is_formatted(path, files):
        raise AlreadyFormatted(f"{path} is formatted already")
    if files.exists(os.path.join(path, snapshot_file.FILE_NAME)):
        raise AlreadyFormatted(f"{path} has a snapshot, but its identity is missing")
    log = os.path.join(path, journal.FILE_NAME)
    if files.exists(log) and read_from_disk(files, log) != encode_file([FIRST_ENTRY]):
        raise AlreadyFormatted(f"{path} has a log, but its identity is missing")


def _encode_identity(identity: RaftIdentity) -> bytes:
    message = storage.RaftIdentityFile(
        cluster_id=identity.cluster_id,
        node_id=identity.node_id,
        voter_ids=sorted(identity.voter_ids),
    )
    return encode_checked(MAGIC, message.SerializeToString(deterministic=True))


__all__ = [
    "PeerLog",
    "RaftDirectoryError",
    "RaftIdentity",
    "check_directory",
    "format_node",
    "format_replacement",
    "is_formatted",
    "read_identity",
]
