"""What a log is made of: its name, what recovery found, what it shares with its neighbours."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from millstream_server.runtime.ports import Files
from millstream_server.storage.epochs import EpochHistory
from millstream_server.storage.errors import LogDamagedError
from millstream_server.storage.health import DirectoryHealth
from millstream_server.storage.points import LogPoints
from millstream_server.storage.producers import ProducerTable
from millstream_server.storage.segments import SegmentList

# Checkpoint of the leader epochs in a log's folder.
EPOCHS_FILE = "leader-epochs"
LOG_FOLDER = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,9})")


class LogKey(NamedTuple):
    """Which partition a log belongs to. Equal to the plain tuple."""

    topic_id: bytes
    partition: int

    @property
    def folder_name(self) -> str:
        """Name of the log's folder."""
        return f"{self.topic_id.hex()}-{self.partition}"

    @staticmethod
    def of_folder(name: str) -> "LogKey | None":
        """The partition whose log a folder of this name holds; None for other names."""
        match = LOG_FOLDER.fullmatch(name)
        return LogKey(bytes.fromhex(match[1]), int(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class LogState:
    """What recovery found out; a log begins its life with it."""

    segments: SegmentList
    start_offset: int
    end_offset: int
    recovery_point: int
    epochs: EpochHistory
    producers: ProducerTable
    damage: LogDamagedError | None = None


@dataclass(frozen=True, slots=True)
class LogSurroundings:
    """What a log shares with the others of its directory."""

    files: Files
    health: DirectoryHealth
    points: LogPoints
    # Takes paths of files to be removed later.
    trash: Callable[[list[str]], None]
    recovery_point_bytes: int
