"""The hand-joined produce request and the generated message agree."""

from millstream._producer.wire import ProduceEntry, encode_produce_request
from millstream.record import build_batch, encode_records
from millstream.v1 import broker_service_pb2 as pb


def test_the_generated_message_reads_what_was_joined_by_hand() -> None:
    batches = [
        build_batch(
            encode_records([value]), record_count=1, base_timestamp_ms=1, max_timestamp_ms=1
        )
        for value in (b"a", b"b" * 300_000)
    ]
    entries = [
        ProduceEntry(b"\x01" * 16, 0, 0, batches[0]),
        ProduceEntry(b"\x02" * 16, 70_000, 129, batches[1]),
    ]
    data = encode_produce_request(1 << 40, pb.ACKS_ALL, 27_000, entries)
    request = pb.ProduceRequest.FromString(data)
    assert (request.correlation_id, request.acks, request.timeout_ms) == (1 << 40, 3, 27_000)
    for entry, part in zip(entries, request.partitions, strict=True):
        assert part.topic_id == entry.topic_id
        assert part.partition == entry.partition
        assert part.leader_epoch == entry.leader_epoch
        assert part.HasField("leader_epoch")
        assert [batch.SerializeToString() for batch in part.batches] == [entry.batch]
