"""Files of a disk that a test slows down or fills: only logs are touched, not checkpoints."""

import threading
from collections.abc import Sequence
from typing import Any

from millstream_server.runtime.ports import File
from millstream_server.runtime.system import SystemFiles


class _LogFile:
    def __init__(self, inner: File, files: "SlowFiles") -> None:
        self._inner = inner
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        if self._files.write_error:
            raise OSError(self._files.write_error, "injected")
        self._inner.write(position, buffers)

    def sync(self) -> None:
        self._files.sync_begun.set()
        assert self._files.syncing.wait(10)
        if self._files.sync_error:
            raise OSError(self._files.sync_error, "injected")
        self._inner.sync()


class SlowFiles(SystemFiles):
    """Log files that are synced while ``syncing`` is set, and fail on demand."""

    def __init__(self) -> None:
        self.syncing = threading.Event()
        self.syncing.set()
        # Set by every sync that begins.
        self.sync_begun = threading.Event()
        self.write_error = 0
        self.sync_error = 0

    def hold_syncs(self) -> None:
        """Let the next sync wait until ``syncing`` is set; ``sync_begun`` tells that it does."""
        self.syncing.clear()
        self.sync_begun.clear()

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        file = super().open(path, create=create, read_only=read_only)
        return _LogFile(file, self) if path.endswith(".log") else file  # type: ignore[return-value]
