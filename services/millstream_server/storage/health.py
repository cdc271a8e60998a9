"""Whether a log directory still works. One object, shared by its logs and its writer."""

import errno

from millstream_server.runtime.ports import Clock
from millstream_server.storage.errors import (
    DirectoryOfflineError,
    DiskFullError,
    DiskRefusedError,
    StorageError,
)

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Refusals that leave the disk as it was: too many open files, a read-only or forbidden path.
_REFUSALS = frozenset({errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EACCES, errno.EPERM})


def is_refusal(error: OSError) -> bool:
    """True if the disk only had no room or no right for a step, and may have later."""
    return error.errno in _NO_ROOM or error.errno in _REFUSALS


class DirectoryHealth:
    """The first fatal failure of a directory, which stays for as long as the process runs; and
    whether its disk hangs, which may pass."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        # When the operation that runs now began, monotonic. The directory's thread writes it, the
        # event loop reads it.
        self._operation_since_ms: int | None = None
        self.failure: DirectoryOfflineError | None = None

    def begin_operation(self) -> None:
        """An operation on the disk begins; the one before it, if any, is over."""
        self._operation_since_ms = self._clock.monotonic_ms()

    def end_operations(self) -> None:
        """Nothing is asked of the disk any more."""
        self._operation_since_ms = None

    def stuck_ms(self) -> int:
        """For how long the present operation has been running; 0 without one. A disk that hangs
        fails nothing, so a node watches this to give up its leaders (see ``NodeRegistration``)."""
        since_ms = self._operation_since_ms
        return 0 if since_ms is None else self._clock.monotonic_ms() - since_ms

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
            return DiskRefusedError(f"{action} failed in {self._path}: {error.strerror}")
        return self.fail(action, error)
