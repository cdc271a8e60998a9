"""What is done to files of one broker's log directory: every kind of file, every kind of damage."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from millstream_server.runtime.system import SystemFiles
from millstream_server.storage.scan import DamageError, scan_batches

BLOCK_BYTES = 4096
Change = Callable[[bytearray, random.Random], None]


def flip(content: bytearray, chance: random.Random) -> None:
    """Flip one bit."""
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def zero(content: bytearray, chance: random.Random) -> None:
    """Zero a block of 4 KiB, or half of a smaller file."""
    block = min(BLOCK_BYTES, max(1, len(content) // 2))
    start = chance.randrange(-(-len(content) // block)) * block
    end = min(start + block, len(content))
    content[start:end] = bytes(end - start)


def swap(content: bytearray, chance: random.Random) -> None:
    """Let two blocks change places."""
    block = min(BLOCK_BYTES, max(1, len(content) // 2))
    one, two = chance.sample(range(max(2, len(content) // block)), 2)
    first, second = slice(one * block, (one + 1) * block), slice(two * block, (two + 1) * block)
    content[first], content[second] = content[second], content[first]


def lose_middle(content: bytearray, chance: random.Random) -> None:
    """Leave bytes out of the middle."""
    start = chance.randrange(1, max(2, len(content) - 1))
    del content[start : start + chance.randint(1, max(1, (len(content) - start) // 2))]


CHANGES: dict[str, Change] = {
    "flip": flip,
    "zero": zero,
    "swap": swap,
    "lose-middle": lose_middle,
}
# Patterns of files in the folder of a log, and at the top of the directory.
LOG_FILES = {
    "segment": "*.log",
    "offset-index": "*.index",
    "time-index": "*.timeindex",
    "epochs": "leader-epochs",
    "producers": "*.producers",
}
TOP_FILES = {
    "points": "log-points",
    "node-epoch": "node-epoch",
    "clean-shutdown": "clean-shutdown",
    "identity": "identity",
}


@dataclass(frozen=True, slots=True)
class Damage:
    """One kind of damage to one kind of file."""

    file: str
    change: str

    def __str__(self) -> str:
        return f"{self.file}/{self.change}"

    def inflict(self, folder: Path, chance: random.Random) -> Path | None:
        """Change a file of this kind in a folder, in place; which one, or None if there is none
        that can be changed so."""
        pattern = LOG_FILES.get(self.file) or TOP_FILES[self.file]
        paths = [path for path in sorted(folder.glob(pattern)) if path.stat().st_size > 1]
        chance.shuffle(paths)
        for path in paths:
            before = path.read_bytes()
            content = bytearray(before)
            for _ in range(10):
                CHANGES[self.change](content, chance)
                if content != before:
                    _overwrite(path, bytes(content))
                    return path
        return None


def _overwrite(path: Path, content: bytes) -> None:
    """The same file, for a broker may have it open."""
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def log_folder(data_folder: Path, topic_id: bytes, partition: int) -> Path:
    """Where a broker has the log of a partition."""
    return data_folder / "data" / "log" / f"{topic_id.hex()}-{partition}"


def damaged_folders(data_folder: Path) -> list[Path]:
    """Logs that a broker set aside because rot was found in them."""
    return sorted((data_folder / "data" / "log").glob("*.damaged"))


def is_sound(folder: Path) -> bool:
    """True if every byte of a log is right and no offset is missing. A log that is being written
    may look otherwise for a moment."""
    next_offset: int | None = None
    try:
        paths = sorted(folder.glob("*.log"))
        for path in paths:
            for base_offset, end_offset in _batches(path):
                if next_offset not in (None, base_offset):
                    return False
                next_offset = end_offset
    except (DamageError, FileNotFoundError):
        return False
    return bool(paths)


def _batches(path: Path) -> Iterator[tuple[int, int]]:
    file = SystemFiles().open(str(path), read_only=True)
    try:
        for placed in scan_batches(file, 0, file.size()):
            yield placed.header.base_offset, placed.header.next_offset
    finally:
        file.close()
