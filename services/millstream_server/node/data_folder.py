"""A node's data folder: whose it is, and that one process uses it.

``node.json`` says which cluster and node the folder belongs to; it is the last file that formatting
writes, so a folder without it is not formatted. The Raft log (``metadata/``) and the log directory
(``log/``) carry identities of their own, which catch folders that were mixed up one level below.
"""

import json
import os.path
from dataclasses import dataclass

from millstream_server.runtime.ports import DirectoryLock, Files

FILE_NAME = "node.json"
FORMAT_VERSION = 1
METADATA_FOLDER = "metadata"
LOG_FOLDER = "log"
_FILE_BYTES_MAX = 64 * 1024


class DataFolderError(Exception):
    """The folder cannot be used by this node; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class FolderIdentity:
    """Whose folder it is."""

    cluster_id: str
    node_id: int


class DataFolder:
    """The folder while this process holds it."""

    def __init__(self, path: str, files: Files) -> None:
        self.path = os.path.abspath(path)
        self._files = files
        self._lock: DirectoryLock | None = None

    @property
    def metadata_path(self) -> str:
        """Folder of the Raft log."""
        return os.path.join(self.path, METADATA_FOLDER)

    @property
    def log_path(self) -> str:
        """The log directory."""
        return os.path.join(self.path, LOG_FOLDER)

    def lock(self) -> None:
        """Make the folder if needed and keep other processes out until this one ends.

        Raises DataFolderError.
        """
        try:
            self._files.make_directory(self.path)
            self._lock = self._files.lock_directory(self.path)
        except BlockingIOError:
            raise DataFolderError(
                f"another process uses {self.path}: stop it, or choose another data.dir"
            ) from None
        except OSError as error:
            raise DataFolderError(f"cannot use {self.path}: {error.strerror}") from None

    def unlock(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def read_identity(self) -> FolderIdentity | None:
        """Whose folder it is; None if it is not formatted. Raises DataFolderError."""
        path = os.path.join(self.path, FILE_NAME)
        try:
            if not self._files.exists(path):
                return None
            file = self._files.open(path, read_only=True)
            try:
                content = json.loads(file.read(0, _FILE_BYTES_MAX))
            finally:
                file.close()
            version = content["format_version"]
            identity = FolderIdentity(content["cluster_id"], content["node_id"])
        except OSError as error:
            raise DataFolderError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise DataFolderError(f"{path} is damaged: restore it or use another folder") from None
        if version > FORMAT_VERSION:
            raise DataFolderError(
                f"{self.path} was written by a newer version (format {version}, this one knows "
                f"{FORMAT_VERSION}): start that version"
            )
        return identity

    def write_identity(self, identity: FolderIdentity) -> None:
        """Say whose folder it is; durable on return. Raises OSError."""
        content = {
            "format_version": FORMAT_VERSION,
            "cluster_id": identity.cluster_id,
            "node_id": identity.node_id,
        }
        path = os.path.join(self.path, FILE_NAME)
        file = self._files.open(f"{path}.tmp", create=True)
        try:
            file.truncate(0)
            file.write(0, [json.dumps(content, indent=2).encode() + b"\n"])
            file.sync()
        finally:
            file.close()
        self._files.rename(f"{path}.tmp", path)
        self._files.sync_directory(self.path)

    def check_identity(self, found: FolderIdentity, cluster_id: str, node_id: int) -> None:
        """Raise DataFolderError unless the folder is that node's. An empty cluster id fits all."""
        if found.node_id != node_id:
            raise DataFolderError(
                f"{self.path} belongs to node {found.node_id}, not to node {node_id}: "
                "check node.id and data.dir"
            )
        if cluster_id and found.cluster_id != cluster_id:
            raise DataFolderError(
                f"{self.path} belongs to cluster {found.cluster_id}, not to cluster {cluster_id}: "
                "check cluster.id and data.dir"
            )
