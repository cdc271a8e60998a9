"""Jobs that end between two operations of a disk in memory, as when their process is killed."""

from collections.abc import Callable
from contextlib import suppress

from tests.fakes.memory_files import MemoryFiles


class _Killed(BaseException):
    """No error that a job could handle."""


def runs_to_its_end(files: MemoryFiles, operations: int, job: Callable[[], object]) -> bool:
    """False if the job was killed after so many operations of the disk, or had no more."""
    left = iter(range(operations))

    def before(_: str) -> None:
        if next(left, None) is None:
            raise _Killed

    files.before = before
    with suppress(_Killed):
        job()
    files.before = None
    return next(left, None) is not None
