"""The segment format, held by golden files: bytes written today must be read for ever.

``golden/first.segment`` was made by ``golden_segment``; ``golden/first.txt`` is what protoc says of
it. To change the format on purpose: raise ``FORMAT_VERSION``, keep reading the old file, and write
new ones with ``MILLSTREAM_WRITE_GOLDEN=1``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.record import (
    build_batch,
    compress,
    decode_records,
    decompress,
    encode_records,
    iterate_frames,
    parse_header,
    verify_batch,
)
from millstream.v1 import record_pb2
from millstream_server.storage import IncomingBatch
from tests.fakes.storage import Appender

GOLDEN = Path(__file__).parent / "golden"
PROTOS = Path(__file__).parents[4] / "protos"
HEADERS = [[("trace", b"\x00\xff"), ("trace", None)], [], [("", b"")]]


def golden_batches() -> list[IncomingBatch]:
    rows = [
        (0, encode_records([b"first", None, b""], [b"k", b"", None], [0, 5, -3], HEADERS), 3, 7),
        (0, encode_records([None, None]), 2, 0),
        # lz4 by hand (magic, one stored block, end mark): libraries may compress differently.
        (3, encode_records([b"\xff\xfe"]), 1, 7),
    ]
    out = []
    sequence = 0
    for codec, payload, count, producer_id in rows:
        if codec:
            stored = (len(payload) | 1 << 31).to_bytes(4, "little") + payload
            payload = bytes.fromhex("04224d18604082") + stored + bytes(4)
        data = build_batch(
            payload, record_count=count, base_timestamp_ms=1_700_000_000_000,
            max_timestamp_ms=1_700_000_000_005, attributes=codec, producer_id=producer_id,
            producer_epoch=2 if producer_id else 0, base_sequence=sequence if producer_id else 0,
        )  # fmt: skip
        sequence += count if producer_id else 0
        out.append(IncomingBatch(data, parse_header(data)))
    return out


def golden_segment() -> bytes:
    appender = Appender()
    first, second, third = golden_batches()
    appender.append(first, second, epoch=4, now_ms=1_700_000_000_100)
    appender.append(third, epoch=9, now_ms=1_700_000_000_200)
    return appender.files.content(f"{appender.folder}/{0:020d}.log")


def protoc_text(segment: bytes) -> str:
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}",
        "--decode=millstream.v1.Segment", "millstream/v1/record.proto",
    ]  # fmt: skip
    run = subprocess.run(command, input=segment, capture_output=True, check=True)
    return run.stdout.decode()


def test_the_bytes_written_are_the_golden_ones() -> None:
    segment = golden_segment()
    if os.environ.get("MILLSTREAM_WRITE_GOLDEN"):
        (GOLDEN / "first.segment").write_bytes(segment)
        (GOLDEN / "first.txt").write_text(protoc_text(segment), encoding="utf-8")
    assert segment == (GOLDEN / "first.segment").read_bytes()


def test_protoc_reads_a_segment() -> None:
    pytest.importorskip("grpc_tools")
    text = protoc_text((GOLDEN / "first.segment").read_bytes())
    assert text == (GOLDEN / "first.txt").read_text(encoding="utf-8")


def test_the_golden_segment_holds_what_was_put_into_it() -> None:
    data = (GOLDEN / "first.segment").read_bytes()
    headers, columns = [], []
    for frame in iterate_frames(data):
        batch = data[frame.batch_start : frame.end]
        header = parse_header(batch)
        verify_batch(batch, header)
        headers.append(header)
        payload = decompress(header.codec, batch[header.payload_start :])
        columns.append(decode_records(payload, header.record_count))
    assert [(h.base_offset, h.next_offset, h.leader_epoch) for h in headers] == [
        (0, 3, 4),
        (3, 5, 4),
        (5, 6, 9),
    ]
    assert [h.synced_end_offset for h in headers] == [0, 0, 5]
    assert headers[0].append_timestamp_ms == 1_700_000_000_100
    assert columns[0].values == [b"first", None, b""]
    assert columns[0].keys == [b"k", b"", None]
    assert columns[0].headers == [tuple(of_record) for of_record in HEADERS]
    assert columns[1].values is None
    assert columns[2].values == [b"\xff\xfe"]


def test_the_golden_segment_is_recovered_as_a_log() -> None:
    appender = Appender()
    path = f"{appender.folder}/{0:020d}.log"
    appender.files.damage(path, (GOLDEN / "first.segment").read_bytes())
    again = Appender(appender.files)
    assert (again.log.failure, again.log.end_offset) == (None, 6)
    assert again.log.epochs.entries == ((4, 0), (9, 5))
    assert again.log.producers.get(7) is not None


def test_protobuf_and_the_codec_agree_on_every_field() -> None:
    data = (GOLDEN / "first.segment").read_bytes()
    segment = record_pb2.Segment.FromString(data)
    assert segment.SerializeToString() == data
    names = [field.name for field in record_pb2.RecordBatch.DESCRIPTOR.fields]
    for batch, frame in zip(segment.batches, iterate_frames(data), strict=True):
        header = parse_header(data, frame.batch_start, frame.end)
        assert [getattr(batch, name) for name in names[:-1]] == list(header[:14])
        assert batch.payload == data[frame.batch_start + header.payload_start : frame.end]


def test_a_run_of_batches_read_is_a_serialised_message() -> None:
    appender = Appender()
    for batch in golden_batches():
        appender.append(batch)
    part = record_pb2.Segment.FromString(appender.log.read(3, 10_000, 6))
    assert [batch.base_offset for batch in part.batches] == [3, 5]


def test_stored_blocks_are_what_the_library_writes_too() -> None:
    assert decompress(3, compress(3, b"abc")) == b"abc"
