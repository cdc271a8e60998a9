"""The small files at the top of a log directory: whose it is, and how it was left.

- ``identity``: cluster id, node id, directory id, format version; written once, never changed.
- ``node-epoch``: the node epoch under which this node last served (invariant 7).
- ``clean-shutdown``: the node epoch at a clean stop; gone while the node runs.

All are checkpoints (CRC, temporary file, rename) with a JSON payload.
"""

import json
from dataclasses import asdict, dataclass

from millstream_server.runtime.checkpoint import (
    CorruptCheckpointError,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from millstream_server.runtime.ports import Files
from millstream_server.storage.errors import (
    DirectoryMismatchError,
    ForeignClusterError,
    ForeignNodeError,
    NewerFormatError,
)

# What this version of the software writes; it reads this and older ones.
FORMAT_VERSION = 1

IDENTITY_FILE = "identity"
_EPOCH_FILE = "node-epoch"
_CLEAN_FILE = "clean-shutdown"


@dataclass(frozen=True, slots=True)
class DirectoryIdentity:
    """Whose log directory it is."""

    cluster_id: str
    node_id: int
    # Random, 16 bytes as hex, made once: a replaced disk has another one.
    directory_id: str
    format_version: int = FORMAT_VERSION


class FolderCheckpoints:
    """Reads and writes those files. Methods raise OSError."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path

    def read_identity(self) -> DirectoryIdentity | None:
        """Whose directory it is; None in a new one. Raises DirectoryMismatchError if that cannot
        be read, NewerFormatError."""
        path = f"{self._path}/{IDENTITY_FILE}"
        try:
            payload = read_checkpoint(self._files, path)
            if payload is None:
                return None
            read = json.loads(payload)
            version = int(read["format_version"])
            if version > FORMAT_VERSION:
                raise NewerFormatError(
                    f"{self._path} has format {version}, this software knows up to "
                    f"{FORMAT_VERSION}: start the newer version"
                )
            directory_id = str(read["directory_id"])
            if len(bytes.fromhex(directory_id)) != 16:
                raise ValueError("directory_id is not 16 bytes long")
            return DirectoryIdentity(
                str(read["cluster_id"]), int(read["node_id"]), directory_id, version
            )
        except (CorruptCheckpointError, ValueError, KeyError, TypeError) as error:
            raise DirectoryMismatchError(f"{path} cannot be read: {error}") from error

    def write_identity(self, identity: DirectoryIdentity) -> None:
        """Write it, once."""
        payload = json.dumps(asdict(identity), indent=0).encode()
        write_checkpoint(self._files, f"{self._path}/{IDENTITY_FILE}", payload)

    def read_node_epoch(self) -> int | None:
        """The node epoch last recorded; None if there is none that can be read."""
        return self._read_epoch(_EPOCH_FILE)

    def write_node_epoch(self, epoch: int) -> None:
        """Record a node epoch, durably."""
        self._write_epoch(_EPOCH_FILE, epoch)

    def forget_node_epoch(self) -> None:
        """Remove it, durably: what the logs hold may be less than what was served under it."""
        remove_checkpoint(self._files, f"{self._path}/{_EPOCH_FILE}")

    def take_clean_shutdown(self) -> int | None:
        """The epoch in the marker, which is removed durably before anything else is written; None
        without a readable marker."""
        epoch = self._read_epoch(_CLEAN_FILE)
        remove_checkpoint(self._files, f"{self._path}/{_CLEAN_FILE}")
        return epoch

    def write_clean_shutdown(self, epoch: int) -> None:
        """Leave the marker: the last thing that a clean stop does."""
        self._write_epoch(_CLEAN_FILE, epoch)

    def _read_epoch(self, name: str) -> int | None:
        try:
            payload = read_checkpoint(self._files, f"{self._path}/{name}")
            return None if payload is None else int(json.loads(payload)["node_epoch"])
        except (CorruptCheckpointError, ValueError, KeyError, TypeError):
            return None

    def _write_epoch(self, name: str, epoch: int) -> None:
        payload = json.dumps({"node_epoch": epoch}).encode()
        write_checkpoint(self._files, f"{self._path}/{name}", payload)


def check_identity(identity: DirectoryIdentity, path: str, cluster_id: str, node_id: int) -> None:
    """Raises ForeignClusterError or ForeignNodeError unless the directory is ours."""
    if identity.cluster_id != cluster_id:
        raise ForeignClusterError(
            f"{path} belongs to cluster {identity.cluster_id}, not to {cluster_id}"
        )
    if identity.node_id != node_id:
        raise ForeignNodeError(f"{path} belongs to node {identity.node_id}, not to {node_id}")
