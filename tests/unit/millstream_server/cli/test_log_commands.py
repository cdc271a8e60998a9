"""Segment files read offline: what is sound is shown, what is damaged is found."""

import json
from pathlib import Path

import pytest

from millstream.record import build_batch, encode_records
from millstream.record.batch import broker_head, frame, parse_header
from millstream_server.cli.log_inspection import inspect_segment
from millstream_server.cli.log_records import batch_records
from millstream_server.cli.main import main

T0 = 1_700_000_000_000


def stored(base_offset: int, values: list[bytes | None]) -> bytes:
    """A framed batch as a broker stores it."""
    payload = encode_records(
        values, keys=[b"k"] * len(values), timestamp_deltas_ms=list(range(len(values)))
    )
    batch = build_batch(
        payload,
        record_count=len(values),
        base_timestamp_ms=T0,
        max_timestamp_ms=T0 + len(values) - 1,
    )
    head = broker_head(
        parse_header(batch).crc,
        base_offset=base_offset,
        leader_epoch=4,
        append_timestamp_ms=T0 + 100,
        synced_end_offset=base_offset,
    )
    return frame(head + batch[len(head) :])


def segment() -> bytes:
    return stored(0, [b"a", None]) + stored(2, [b"c"]) + stored(3, [b"d", b"\xff"])


def problems(data: bytes, **options: bool) -> list[str]:
    return [
        batch.problem
        for batch in inspect_segment(memoryview(data), decode=True, **options)
        if batch.problem
    ]


def test_a_sound_segment_has_no_problems():
    batches = list(inspect_segment(memoryview(segment()), decode=True, first_offset=0))
    assert [batch.problem for batch in batches] == ["", "", ""]
    assert [batch.header.base_offset for batch in batches if batch.header] == [0, 2, 3]
    assert batches[-1].end == len(segment())


def test_an_empty_segment_is_sound():
    assert list(inspect_segment(memoryview(b""), decode=True)) == []


def test_records_have_their_offsets_and_times():
    records = [
        record
        for batch in inspect_segment(memoryview(segment()), decode=True)
        for record in batch_records(batch)
    ]
    assert [(each.offset, each.value) for each in records] == [
        (0, b"a"), (1, None), (2, b"c"), (3, b"d"), (4, b"\xff"),
    ]  # fmt: skip
    assert (records[1].timestamp_ms, records[1].key, records[1].leader_epoch) == (T0 + 1, b"k", 4)


def test_every_flipped_bit_of_a_batch_is_found():
    sound = stored(0, [b"hello"])
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1
        assert problems(bytes(damaged)), f"byte {position}"


def test_every_cut_is_found():
    sound = stored(0, [b"a"]) + stored(1, [b"b"])
    first = len(stored(0, [b"a"]))
    for length in range(1, len(sound)):
        assert bool(problems(sound[:length])) == (length != first)


def test_damage_in_one_batch_does_not_hide_the_next():
    data = bytearray(segment())
    data[len(stored(0, [b"a", None])) - 1] ^= 0xFF
    assert problems(bytes(data)) == ["crc does not match"]


def test_offsets_that_go_back_or_are_missing_are_found():
    assert problems(stored(5, [b"a"]) + stored(5, [b"b"])) == ["offset 5 comes after offset 5"]
    gap = stored(0, [b"a"]) + stored(7, [b"b"])
    assert problems(gap) == ["offsets 1 to 6 are missing"]
    assert problems(gap, gaps_allowed=True) == []


def test_the_name_of_the_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "00000000000000000007.log"
    path.write_bytes(segment())
    assert main(["log", "verify", str(path)]) == 1
    assert "offset 0 comes after offset 6" in capsys.readouterr().err


def test_verify_says_what_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "00000000000000000000.log").write_bytes(segment())
    (tmp_path / "00000000000000000005.log").write_bytes(b"")
    assert main(["log", "verify", str(tmp_path), "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["batches"], first["records"], first["nextOffset"]) == (3, 5, 5)
    assert (second["batches"], second["problemCount"]) == (0, 0)


def test_verify_tells_where_the_damage_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "00000000000000000000.log"
    path.write_bytes(segment()[:-3])
    assert main(["log", "verify", str(path)]) == 1
    captured = capsys.readouterr()
    position = len(segment()) - len(stored(3, [b"d", b"\xff"]))
    assert f"at byte {position}: batch is cut off" in captured.err
    assert "1 of 1 files are damaged" in captured.err


def test_dump_shows_batches_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "0.log"
    path.write_bytes(segment())
    assert main(["log", "dump", str(path), "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["recordCount"] for line in lines] == [2, 1, 2]
    assert main(["log", "dump", str(path), "--records", "--format", "jsonl", "-n", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["offset"], line["value"]) for line in lines] == [(0, "a"), (1, None)]


def test_a_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["log", "dump", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"millstream: there is no file {tmp_path / 'none'}\n"
    assert main(["log", "verify", str(tmp_path)]) == 1
    assert "holds no segment files" in capsys.readouterr().err
