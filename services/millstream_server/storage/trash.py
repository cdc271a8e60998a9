"""Files and folders that were set aside, until they are removed a few at a time."""

from threading import Lock

from millstream_server.runtime.ports import Files
from millstream_server.storage.health import DirectoryHealth
from millstream_server.storage.log_state import LOG_FOLDER


class Trash:
    """The paths that wait to be removed. Any thread."""

    def __init__(self, files: Files, health: DirectoryHealth, files_per_turn: int) -> None:
        self._files = files
        self._health = health
        self._files_per_turn = files_per_turn
        self._paths: list[str] = []
        self._lock = Lock()

    def take(self, paths: list[str]) -> None:
        """Remove these, too."""
        with self._lock:
            self._paths.extend(paths)

    def empty(self) -> int:
        """Remove a bounded number of files; return how many paths are left. Any thread but the
        event loop. Raises StorageError."""
        for _ in range(self._files_per_turn):
            with self._lock:
                path = self._paths.pop(0) if self._paths else None
            if path is None:
                break
            try:
                self._remove_one(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.take([path])  # for the next turn
                raise self._health.refusal("removing a deleted file", error) from error
        with self._lock:
            return len(self._paths)

    def _remove_one(self, path: str) -> None:
        if LOG_FOLDER.match(path.rsplit("/", 1)[-1]) is None:
            self._files.remove(path)
            return
        # A folder goes file by file, so that one call never removes a whole terabyte.
        inside = self._files.list_directory(path)
        if inside:
            self._files.remove(f"{path}/{inside[0]}")
            self.take([path])
        else:
            self._files.remove_tree(path)
