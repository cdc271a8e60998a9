"""Whether a log directory still works. One object, shared by its logs and its writer."""

import errno

from millstream_server.storage.errors import DirectoryOfflineError, DiskFullError, StorageError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Refusals that leave the disk as it was: too many open files, a read-only or forbidden path.
_REFUSALS = frozenset({errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EACCES, errno.EPERM})


def is_refusal(error: OSError) -> bool:
    """True if the disk only had no room or no right for a step, and may have later."""
    return error.errno in _NO_ROOM or error.errno in _REFUSALS


class DirectoryHealth:
    """The first fatal failure of a directory; it stays for as long as the process runs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.failure: DirectoryOfflineError | None = None

    def check(self) -> None:
        """Raises DirectoryOfflineError once the directory has failed."""
        if self.failure is not None:
            raise self.failure

    def fail(self, action: str, error: BaseException) -> DirectoryOfflineError:
        """Take the directory offline (invariant 32). Returns the error to raise."""
        if self.failure is None:
            self.failure = DirectoryOfflineError(
                f"log directory {self._path} is offline: {action} failed: {error!r}"
            )
        return self.failure

    def refusal(self, action: str, error: OSError) -> StorageError:
        """The error for a failed step that left nothing behind; an I/O error takes the directory
        offline."""
        if error.errno in _NO_ROOM:
            return DiskFullError(f"{action} failed: no room in {self._path}: {error.strerror}")
        if error.errno in _REFUSALS:
            return StorageError(f"{action} failed in {self._path}: {error.strerror}")
        return self.fail(action, error)
