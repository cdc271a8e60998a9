"""The logs of stopped brokers are compared byte for byte, but for what is each replica's own."""

from pathlib import Path

import pytest

from millstream.record import parse_header
from millstream.record.batch import BROKER_BYTES, broker_head, build_batch, frame
from tests.cluster.faults.replicas import compare

TOPIC = bytes(range(16))


def stored(payload: bytes, offset: int, *, synced_end: int = 0) -> bytes:
    """A batch of one record, as a replica stores it."""
    batch = build_batch(payload, record_count=1, base_timestamp_ms=0, max_timestamp_ms=0)
    head = broker_head(
        parse_header(batch).crc,
        base_offset=offset,
        leader_epoch=1,
        append_timestamp_ms=0,
        synced_end_offset=synced_end,
    )
    return frame(head + batch[BROKER_BYTES:])


def brokers(folder: Path, **logs: list[bytes]) -> dict[str, Path]:
    for broker, batches in logs.items():
        log = folder / broker / f"{TOPIC.hex()}-0"
        log.mkdir(parents=True)
        # Several segments.
        (log / "00000000000000000000.log").write_bytes(b"".join(batches[:1]))
        (log / "00000000000000000001.log").write_bytes(b"".join(batches[1:]))
    return {broker: folder / broker for broker in logs}


def test_replicas_that_agree_but_for_what_they_had_synced(tmp_path: Path) -> None:
    one = [stored(b"a", 0), stored(b"b", 1)]
    two = [stored(b"a", 0, synced_end=1), stored(b"b", 1)]
    compared, problems = compare(brokers(tmp_path, one=one, two=two), TOPIC, 0, 2)
    assert problems == []
    assert compared > 2 * len(b"a")


def test_replicas_may_differ_in_length_above_what_is_acknowledged(tmp_path: Path) -> None:
    one = [stored(b"a", 0), stored(b"b", 1)]
    folders = brokers(tmp_path, one=one, two=one[:1])
    assert compare(folders, TOPIC, 0, 1)[1] == []
    assert compare(folders, TOPIC, 0, 2)[1] == ["two ends at 1, acknowledged up to 2"]


@pytest.mark.parametrize("other", [stored(b"x", 1), stored(b"b", 2)])
def test_replicas_that_differ_in_a_record_or_its_offset(tmp_path: Path, other: bytes) -> None:
    one = [stored(b"a", 0), stored(b"b", 1)]
    folders = brokers(tmp_path, one=one, two=[stored(b"a", 0), other])
    assert compare(folders, TOPIC, 0, 2)[1] == ["one and two differ in the batch at 1"]


def test_a_log_that_cannot_be_read_or_is_missing(tmp_path: Path) -> None:
    one = [stored(b"a", 0)]
    folders = brokers(tmp_path, one=one, two=[b"\x00" + one[0]])
    (tmp_path / "three").mkdir()
    _, problems = compare({**folders, "three": tmp_path / "three"}, TOPIC, 0, 1)
    assert [problem.split(":")[0] for problem in problems] == [
        "two",
        "three ends at 0, acknowledged up to 1",
    ]
