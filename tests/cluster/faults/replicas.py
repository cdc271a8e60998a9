"""Compares the files of the replicas of a partition, byte for byte, below the smallest end."""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from millstream.record import iterate_frames, parse_header
from millstream.record.batch import BROKER_BYTES

# Each replica's own: header_crc (tag and four bytes) and the synced end (tag and eight).
_OWN_BYTES = 1 + 4 + 1 + 8
assert _OWN_BYTES < BROKER_BYTES


class ReplicaFiles:
    """The logs of one partition on one stopped broker."""

    def __init__(self, data_folder: Path, topic_id: bytes, partition: int) -> None:
        folders = sorted(data_folder.rglob(f"{topic_id.hex()}-{partition}"))
        self.folder = folders[0] if folders else None

    def batches(self) -> Iterator[tuple[int, int, bytes]]:
        """(base offset, next offset, bytes without what is the replica's own) of each batch.
        Raises ValueError on a batch that cannot be read."""
        if self.folder is None:
            return
        for path in sorted(self.folder.glob("*.log")):
            data = path.read_bytes()
            for frame in iterate_frames(data):
                header = parse_header(data, frame.batch_start, frame.end)
                own_end = frame.batch_start + _OWN_BYTES
                yield header.base_offset, header.next_offset, data[own_end : frame.end]


def compare(
    data_folders: Mapping[str, Path], topic_id: bytes, partition: int, acknowledged_end: int
) -> tuple[int, list[str]]:
    """(bytes compared, what differs) of a partition over all brokers. ``acknowledged_end``: the
    offset after the last acknowledged record, which every replica must reach."""
    problems: list[str] = []
    logs: dict[str, list[tuple[int, int, bytes]]] = {}
    for broker, folder in data_folders.items():
        try:
            logs[broker] = list(ReplicaFiles(folder, topic_id, partition).batches())
        except (ValueError, struct.error) as error:
            problems.append(f"{broker}: {error}")
            continue
        end = logs[broker][-1][1] if logs[broker] else 0
        if end < acknowledged_end:
            problems.append(f"{broker} ends at {end}, acknowledged up to {acknowledged_end}")
    compared = 0
    if len(logs) > 1:
        first, *others = logs
        for other in others:
            for one, two in zip(logs[first], logs[other], strict=False):
                if one != two:
                    problems.append(f"{first} and {other} differ in the batch at {one[0]}")
                    break
                compared += len(one[2])
    return compared, problems
