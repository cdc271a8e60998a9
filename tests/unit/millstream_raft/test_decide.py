"""Requests decided on images: what is committed, what is answered, what is refused and why."""

from collections import Counter

import pytest

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.commands import apply_entry, encode_entry
from millstream_raft.decide import decide
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import OFFSETS_TOPIC, Image
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes import metadata_images as images

DEFAULTS = ClusterDefaults(partition_count=3)
NEW_ID = images.topic_id(500)


def create(name: str = "logs", **fields: object) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        create_topic=public.CreateTopicRequest(name=name, **fields)  # type: ignore[arg-type]
    )


def execute(
    image: Image,
    request: pb.ExecuteRequest,
    *,
    defaults: ClusterDefaults = DEFAULTS,
    topic_id: bytes = NEW_ID,
) -> tuple[Image, pb.ExecuteResponse]:
    decision = decide(image, request, topic_id=topic_id, defaults=defaults)
    if not decision.commands:
        return image, decision.reply
    entry = encode_entry(
        list(decision.commands),
        controller_epoch=image.controller_epoch,
        request_id=decision.request_id,
        reply=decision.reply.SerializeToString(),
    )
    applied = apply_entry(image, entry)
    assert not applied.result.reason, applied.result
    return applied.image, pb.ExecuteResponse.FromString(applied.result.reply)


def refusal(image: Image, request: pb.ExecuteRequest, **more: object) -> Refused:
    with pytest.raises(Refused) as caught:
        execute(image, request, **more)  # type: ignore[arg-type]
    return caught.value


def test_leaders_spread_over_all_brokers() -> None:
    image = images.image_with(1, 2, 3)
    image, reply = execute(image, create())
    topic = image.topics[NEW_ID]
    assert {one.leader_id for one in topic.partitions} == {1, 2, 3}
    assert reply.create_topic.topic.topic_id == NEW_ID
    assert reply.version == reply.create_topic.version == image.version
    for number in range(30):
        image, _ = execute(
            image, create(f"t{number}", partition_count=1), topic_id=images.topic_id(number)
        )
    led = Counter(one.leader_id for topic in image.topics.values() for one in topic.partitions)
    assert max(led.values()) - min(led.values()) <= 1


@pytest.mark.parametrize(
    ("request_", "reason", "words"),
    [
        (create(""), "INVALID_TOPIC_NAME", "empty"),
        (create("."), "INVALID_TOPIC_NAME", "."),
        (create("a" * 250), "INVALID_TOPIC_NAME", "249"),
        (create("naïve"), "INVALID_TOPIC_NAME", "characters"),
        (create("a\n"), "INVALID_TOPIC_NAME", "characters"),
        (create("taken"), "TOPIC_ALREADY_EXISTS", "taken"),
        (create(OFFSETS_TOPIC), "INTERNAL_TOPIC", "system"),
        (create(partition_count=10_001), "INVALID_PARTITION_COUNT", "10000"),
        (create(replication_factor=2), "INVALID_REPLICATION_FACTOR", "usable brokers, 1"),
        (create(configs={"retention.mss": "1"}), "INVALID_CONFIG", "retention.ms"),
        (create(configs={"retention.ms": "soon"}), "INVALID_CONFIG", "integer"),
        (create(configs={"retention.ms": "-2"}), "INVALID_CONFIG", "-1"),
        (create(configs={"flush.mode": "fsink"}), "INVALID_CONFIG", "did you mean fsync"),
        (create(configs={"min.insync.replicas": "2"}), "INVALID_CONFIG", "replication factor 1"),
        (pb.ExecuteRequest(), "UNSUPPORTED", "kind"),
    ],
)
def test_bad_requests_are_refused_with_what_is_wrong(
    request_: pb.ExecuteRequest, reason: str, words: str
) -> None:
    image, _ = execute(images.image_with(1), create("taken"), topic_id=images.topic_id(1))
    refused = refusal(image, request_)
    assert refused.reason == reason
    assert words in refused.message


def test_validating_creates_nothing() -> None:
    image = images.image_with(1, 2)
    after, reply = execute(image, create(validate_only=True))
    assert after is image
    assert len(reply.create_topic.topic.partitions) == 3
    assert refusal(image, create("?", validate_only=True)).reason == "INVALID_TOPIC_NAME"


def test_without_brokers_a_topic_has_to_wait() -> None:
    assert refusal(images.image_with(), create()).reason == "LEADER_NOT_AVAILABLE"


def test_deleting_is_by_id_and_growing_only_grows() -> None:
    image, _ = execute(images.image_with(1, 2, 3), create())
    grow = pb.ExecuteRequest(
        create_partitions=public.CreatePartitionsRequest(topic_id=NEW_ID, partition_count=6)
    )
    image, reply = execute(image, grow)
    leaders = Counter(one.leader_id for one in image.topics[NEW_ID].partitions)
    assert leaders == {1: 2, 2: 2, 3: 2}
    assert reply.create_partitions.topic.topic_id == NEW_ID
    assert refusal(image, grow).reason == "INVALID_PARTITION_COUNT"
    delete = pb.ExecuteRequest(delete_topic=public.DeleteTopicRequest(topic_id=NEW_ID))
    image, _ = execute(image, delete)
    assert not image.topics
    assert not image.topic_ids
    image, _ = execute(image, create(), topic_id=images.topic_id(501))
    assert refusal(image, delete).reason == "UNKNOWN_TOPIC", "a late retry spares the new topic"


def test_configs_are_changed_all_or_none() -> None:
    image, _ = execute(images.image_with(1), create(configs={"retention.ms": "5000"}))

    def alter(unset: tuple[str, ...] = (), **set_: str) -> pb.ExecuteRequest:
        keys = {key.replace("_", "."): value for key, value in set_.items()}
        return pb.ExecuteRequest(
            alter_configs=public.AlterConfigsRequest(topic="logs", set=keys, unset=unset)
        )

    image, _ = execute(image, alter(("retention.ms",), segment_ms="2000", flush_mode="page_cache"))
    topic = image.topics[NEW_ID]
    assert topic.configs == {"segment.ms": "2000", "flush.mode": "page_cache"}
    assert all(one.flush_mode == "page_cache" for one in topic.partitions)
    assert all(one.partition_epoch == 1 for one in topic.partitions)
    assert refusal(image, alter(segment_ms="5000", retention_ms="x")).reason == "INVALID_CONFIG"
    assert refusal(image, alter(("segment.ms",), segment_ms="5000")).reason == "INVALID_CONFIG"
    assert refusal(image, alter(("segment.mss",))).reason == "INVALID_CONFIG"


def test_numbers_are_never_handed_out_twice() -> None:
    image = images.image_with(1)
    seen = set()
    for _ in range(5):
        request = pb.ExecuteRequest(allocate_producer_id=public.AllocateProducerIdRequest())
        image, reply = execute(image, request)
        seen.add(reply.allocate_producer_id.producer_id)
    image, _ = execute(image, pb.ExecuteRequest(ensure_offsets_topic=pb.EnsureOffsetsTopic()))
    seen |= {lease.producer_id for lease in image.shards}
    assert len(seen) == 5 + 16
    assert 0 not in seen


def test_the_offsets_topic_is_made_once_and_belongs_to_the_system() -> None:
    image = images.with_nodes(images.image_with(1), 2, roles=("coordinator",))
    ensure = pb.ExecuteRequest(ensure_offsets_topic=pb.EnsureOffsetsTopic())
    image, first = execute(image, ensure)
    topic = image.topic(OFFSETS_TOPIC)
    assert topic is not None
    assert topic.internal
    assert topic.configs["cleanup.policy"] == "compact"
    assert [lease.owner_id for lease in image.shards] == [2] * 16
    assert {lease.shard_epoch for lease in image.shards} == {1}
    again, second = execute(image, ensure)
    assert again is image
    assert first.version == second.version == image.version
    delete = pb.ExecuteRequest(delete_topic=public.DeleteTopicRequest(topic_id=topic.topic_id))
    assert refusal(image, delete).reason == "INTERNAL_TOPIC"


def test_auto_creation_is_off_unless_it_is_on() -> None:
    image = images.image_with(1)
    request = pb.ExecuteRequest(auto_create_topic=pb.AutoCreateTopic(name="new"))
    assert refusal(image, request).reason == "UNKNOWN_TOPIC"
    on = ClusterDefaults(auto_create_topics=True)
    image, _ = execute(image, request, defaults=on)
    assert "new" in image.topic_ids
    again, _ = execute(image, request, defaults=on)
    assert again is image


def test_a_request_id_takes_effect_once() -> None:
    image = images.image_with(1)
    opened = pb.ExecuteRequest(open_request_session=public.OpenRequestSessionRequest())
    image, reply = execute(image, opened)
    session_id = reply.open_request_session.session_id
    assert reply.open_request_session.version == image.version

    def numbered(sequence: int, name: str) -> pb.ExecuteRequest:
        return create(name, request_id=public.RequestId(session_id=session_id, sequence=sequence))

    image, first = execute(image, numbered(1, "logs"))
    again, second = execute(image, numbered(1, "logs"), topic_id=images.topic_id(501))
    assert again is image
    assert second == first
    for sequence in range(2, 19):
        image, _ = execute(
            image, numbered(sequence, f"t{sequence}"), topic_id=images.topic_id(sequence)
        )
    assert refusal(image, numbered(1, "logs")).reason == "INVALID_REQUEST"
    assert refusal(image, numbered(0, "logs")).reason == "INVALID_REQUEST"
    unknown = create("x", request_id=public.RequestId(session_id=77, sequence=1))
    assert refusal(image, unknown).reason == "UNKNOWN_SESSION"


def test_a_repeated_entry_is_answered_and_not_executed() -> None:
    image = images.image_with(1)
    image, _ = execute(
        image, pb.ExecuteRequest(open_request_session=public.OpenRequestSessionRequest())
    )
    request = create(request_id=public.RequestId(session_id=1, sequence=1))
    decision = decide(image, request, topic_id=NEW_ID, defaults=DEFAULTS)
    entry = encode_entry(
        list(decision.commands),
        controller_epoch=image.controller_epoch,
        request_id=decision.request_id,
        reply=decision.reply.SerializeToString(),
    )
    first = apply_entry(image, entry)
    twice = apply_entry(first.image, entry)
    assert twice.image is first.image
    assert twice.result.reply == first.result.reply


def test_decisions_of_a_deposed_controller_are_refused() -> None:
    image = images.image_with(1)
    decision = decide(image, create(), topic_id=NEW_ID, defaults=DEFAULTS)
    entry = encode_entry(list(decision.commands), controller_epoch=image.controller_epoch)
    newer = images.after(image, images.elected(image, 101))
    assert apply_entry(newer, entry).result.reason == "NOT_CONTROLLER"
    late = images.apply(newer, images.elected(image, 100))
    assert late.result.reason == "VERSION_CONFLICT", "an election of before is void"
