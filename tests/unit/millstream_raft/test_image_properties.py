"""Whatever is proposed: nothing raises, every image obeys the invariants, and bytes tell it all."""

from typing import Any

import hypothesis.strategies as st
from google.protobuf.message import Message
from hypothesis import given, settings

from millstream_raft.commands import apply_entry, encode_entry
from millstream_raft.delta import delta_between
from millstream_raft.image import EMPTY_IMAGE, Image, PartitionState
from millstream_raft.image_codec import decode_image, encode_image
from millstream_server.v1 import metadata_command_pb2 as pb
from tests.fakes import metadata_images as images
from tests.fakes.image_checks import check_image, check_step

NODES = st.integers(1, 4)
TOPICS = st.integers(1, 3).map(images.topic_id)
EPOCHS = st.integers(0, 12)
REPLICAS = st.lists(NODES, min_size=0, max_size=3)
FLUSH = st.sampled_from(["fsync", "page_cache", "fsync", "never"])
ID16 = st.integers(0, 2).map(lambda number: number.to_bytes(16, "big"))


def built(kind: type[Message], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **fields)


ASSIGNMENTS = st.lists(built(pb.ReplicaAssignment, replica_ids=REPLICAS), max_size=3)
NODE_EVENT = {"node_id": NODES, "node_epoch": EPOCHS}
REGISTRATION = built(pb.ReplicaRegistration, **NODE_EVENT)
CHANGE = {
    "topic_id": TOPICS,
    "partition": st.integers(0, 4),
    "expected_partition_epoch": st.integers(0, 6),
}
PARTITION_EVENT = {**CHANGE, "replica": REGISTRATION}
COMMANDS = {
    "controller_elected": built(
        pb.ControllerElected,
        node_id=st.integers(0, 2),
        expected_epoch=st.integers(0, 3),
        cluster_id=st.sampled_from(["c", "c", "d", ""]),
    ),
    "register_node": built(
        pb.RegisterNode,
        node_id=st.integers(0, 4),
        incarnation_id=ID16,
        roles=st.sampled_from([["broker"], ["broker", "coordinator"], ["coordinator"], ["x"], []]),
        directory_id=ID16,
        previous_epoch=EPOCHS,
        clean_shutdown=st.booleans(),
        port=st.integers(0, 2**32 - 1),
    ),
    "fence_node": built(pb.FenceNode, **NODE_EVENT),
    "unfence_node": built(pb.UnfenceNode, **NODE_EVENT),
    "drain_node": built(pb.DrainNode, **NODE_EVENT),
    "take_log_directory_offline": built(pb.TakeLogDirectoryOffline, **NODE_EVENT),
    "add_topic": built(
        pb.AddTopic,
        name=st.sampled_from(["a", "b", "__consumer_offsets", "", "no spaces"]),
        topic_id=TOPICS,
        internal=st.booleans(),
        configs=st.dictionaries(st.sampled_from(["retention.ms", "é"]), st.text(max_size=3)),
        assignments=ASSIGNMENTS,
        min_isr=st.integers(0, 3),
        flush_mode=FLUSH,
    ),
    "remove_topic": built(pb.RemoveTopic, topic_id=TOPICS),
    "add_partitions": built(
        pb.AddPartitions,
        topic_id=TOPICS,
        expected_partition_count=st.integers(0, 4),
        assignments=ASSIGNMENTS,
        min_isr=st.integers(0, 3),
        flush_mode=FLUSH,
    ),
    "change_topic_configs": built(
        pb.ChangeTopicConfigs,
        topic_id=TOPICS,
        set=st.dictionaries(st.sampled_from(["retention.ms", "x"]), st.text(max_size=3)),
        unset=st.lists(st.sampled_from(["retention.ms", "x"]), max_size=2),
        min_isr=st.integers(0, 3),
        flush_mode=FLUSH,
    ),
    "change_partition": built(
        pb.ChangePartition,
        topic_id=TOPICS,
        partition=st.integers(0, 4),
        expected_partition_epoch=st.integers(0, 6),
        in_sync_replica_ids=REPLICAS,
        added=st.lists(REGISTRATION, max_size=2),
    ),
    "remove_damaged_replica": built(pb.RemoveDamagedReplica, **PARTITION_EVENT),
    "note_recovered_log": built(
        pb.NoteRecoveredLog,
        **PARTITION_EVENT,
        last_epoch=st.integers(0, 5),
        synced_end_offset=st.integers(0, 5),
    ),
    "elect_leader": built(pb.ElectLeader, **CHANGE, leader_id=NODES, unclean=st.booleans()),
    "reassign_partition": built(
        pb.ReassignPartition, **CHANGE, target_replica_ids=REPLICAS, min_isr=st.integers(0, 3)
    ),
    "cancel_reassignment": built(pb.CancelReassignment, **CHANGE),
    "unregister_node": built(pb.UnregisterNode, **NODE_EVENT),
    "change_decommissioning": built(
        pb.ChangeDecommissioning, node_id=NODES, decommissioning=st.booleans()
    ),
    "change_reassignment_throttle": built(
        pb.ChangeReassignmentThrottle, bytes_per_s=st.integers(0, 3)
    ),
    "take_producer_id": built(pb.TakeProducerId),
    "open_session": built(pb.OpenSession),
    "expire_sessions": built(
        pb.ExpireSessions,
        sessions=st.lists(
            built(pb.IdleSession, session_id=st.integers(0, 3), used_version=EPOCHS), max_size=2
        ),
    ),
}
COMMAND = st.one_of(
    *(
        body.map(lambda value, kind=kind: pb.MetadataCommand(**{kind: value}))
        for kind, body in COMMANDS.items()
    )
)
ENTRY = st.builds(
    pb.MetadataEntry,
    controller_epoch=st.integers(0, 3),
    commands=st.lists(COMMAND, max_size=3),
    request_id=st.one_of(
        st.none(),
        st.builds(
            lambda session, sequence: {"session_id": session, "sequence": sequence},
            st.integers(0, 3),
            st.integers(0, 20),
        ),
    ),
    reply=st.one_of(st.just(b""), st.binary(max_size=4)),
)


def start() -> Image:
    """Three live brokers, one of them a coordinator too, and topics with one to three replicas."""
    image = images.with_nodes(images.image_with(1, 2), 3, roles=("broker", "coordinator"))
    return images.after(
        image,
        images.add_topic(1, (1,), (2, 3), (3, 1, 2), min_isr=2),
        images.add_topic(2, (2,), flush_mode="page_cache", name="a"),
    )


def addressed(image: Image, entry: pb.MetadataEntry) -> bytes:
    """The entry, with most epochs made right: otherwise nearly everything is refused."""
    if entry.controller_epoch:
        entry.controller_epoch = image.controller_epoch
    for command in entry.commands:
        kind = command.WhichOneof("kind")
        body = getattr(command, kind)
        if hasattr(body, "node_epoch") and body.node_epoch % 4 and body.node_id in image.nodes:
            body.node_epoch = image.nodes[body.node_id].epoch
        if hasattr(body, "expected_partition_epoch") and body.expected_partition_epoch % 4:
            partition = image.partition(body.topic_id, body.partition)
            body.expected_partition_epoch = partition.partition_epoch if partition else 0
        if kind == "register_node" and body.previous_epoch % 3 and body.node_id in image.nodes:
            body.previous_epoch = image.nodes[body.node_id].epoch
    return entry.SerializeToString()


def checked_step(image: Image, data: bytes) -> Image:
    applied = apply_entry(image, data)
    if applied.image is image:
        return image
    assert not applied.result.reason
    check_step(image, applied.image, applied.delta)
    check_image(applied.image)
    compared = delta_between(image, applied.image)
    assert compared.changed_topic_ids <= applied.delta.changed_topic_ids
    assert compared.changed_partitions <= applied.delta.changed_partitions
    assert compared.changed_node_ids <= applied.delta.changed_node_ids
    assert compared.changed_shards == applied.delta.changed_shards
    assert {one.topic_id for one in compared.removed_topics} == {
        one.topic_id for one in applied.delta.removed_topics
    }
    return applied.image


def check_bytes(image: Image) -> None:
    data = encode_image(image)
    again = decode_image(data)
    assert again == image
    assert encode_image(again) == data


@settings(max_examples=150, deadline=None)
@given(st.lists(ENTRY, max_size=25))
def test_any_sequence_of_entries_keeps_the_invariants(entries: list[pb.MetadataEntry]) -> None:
    image = start()
    for entry in entries:
        image = checked_step(image, addressed(image, entry))
    check_bytes(image)


def test_every_kind_of_command_is_among_them() -> None:
    assert COMMANDS.keys() == {field.name for field in pb.MetadataCommand.DESCRIPTOR.fields}


def registration(image: Image, node_id: int) -> pb.ReplicaRegistration:
    return pb.ReplicaRegistration(node_id=node_id, node_epoch=image.nodes[node_id].epoch)


def proposal(partition: PartitionState, choice: int) -> tuple[int, ...]:
    """In-sync replicas that a leader might propose."""
    if partition.recovering or partition.leader_id is None:
        return partition.isr
    others = [one for one in partition.replicas if one != partition.leader_id]
    return (partition.leader_id, *others[: choice % 3])


def of_a_partition(
    image: Image, kind: str, key: bytes, replicas: tuple[int, ...], a: int, c: int
) -> pb.MetadataCommand:
    """A command about one partition; about none if the topic is gone."""
    topic = image.topics.get(key)
    if topic is None:
        return images.command(remove_topic=pb.RemoveTopic(topic_id=key))
    partition = topic.partitions[c % len(topic.partitions)]
    expected: dict[str, Any] = {
        "topic_id": key,
        "partition": partition.number,
        "expected_partition_epoch": partition.partition_epoch,
    }
    in_sync = proposal(partition, a)
    chosen = partition.replicas[a % len(partition.replicas)]
    builders = {
        "change": lambda: pb.MetadataCommand(
            change_partition=pb.ChangePartition(
                **expected,
                in_sync_replica_ids=in_sync,
                added=[registration(image, node_id) for node_id in in_sync],
            )
        ),
        "damage": lambda: pb.MetadataCommand(
            remove_damaged_replica=pb.RemoveDamagedReplica(
                **expected,
                replica=registration(image, chosen),
            )
        ),
        "order": lambda: pb.MetadataCommand(
            elect_leader=pb.ElectLeader(
                **expected,
                leader_id=chosen,
                unclean=partition.leader_id is None,
            )
        ),
        "move": lambda: pb.MetadataCommand(
            reassign_partition=pb.ReassignPartition(
                **expected,
                target_replica_ids=replicas,
                min_isr=1 + a % len(replicas),
            )
        ),
        "stay": lambda: pb.MetadataCommand(
            cancel_reassignment=pb.CancelReassignment(
                **expected,
            )
        ),
        "recovered": lambda: pb.MetadataCommand(
            note_recovered_log=pb.NoteRecoveredLog(
                **expected,
                replica=registration(image, chosen),
                last_epoch=a % 3,
                synced_end_offset=a % 4,
            )
        ),
    }
    return builders[kind]()


def plausible(image: Image, kind: str, a: int, b: int, c: int) -> pb.MetadataCommand:
    """A command of which the image decides the details, so that it mostly takes effect."""
    node = image.nodes[sorted(image.nodes)[a % len(image.nodes)]]
    event = {"node_id": node.node_id, "node_epoch": node.epoch}
    topics = sorted(image.topics)
    key = topics[b % len(topics)] if topics else b"?"
    topic = image.topics.get(key)
    usable = [one.node_id for one in image.nodes.values() if one.may_lead] or [1]
    replicas = tuple((usable[b % len(usable) :] + usable[: b % len(usable)])[: 1 + c % 3])
    builders = {
        "elect": lambda: images.elected(image, 100 + a % 2),
        "restart": lambda: images.register(
            node.node_id,
            *sorted(node.roles),
            incarnation=image.next_node_epoch + 10,
            directory=node.node_id if c % 5 else 77 + image.next_node_epoch,
            previous_epoch=node.epoch - (b % 3 == 0),
            clean=c % 2 == 0,
        ),
        "fence": lambda: images.fence(image, node.node_id),
        "unfence": lambda: images.unfence(image, node.node_id),
        "drain": lambda: pb.MetadataCommand(drain_node=pb.DrainNode(**event)),
        "offline": lambda: pb.MetadataCommand(
            take_log_directory_offline=pb.TakeLogDirectoryOffline(**event)
        ),
        "add": lambda: images.add_topic(
            1000 + image.version, replicas, replicas[::-1], min_isr=1 + a % 3
        ),
        "offsets": lambda: images.add_topic(
            999, *((one,) for one in usable * 2), name="__consumer_offsets", internal=True
        ),
        "grow": lambda: pb.MetadataCommand(
            add_partitions=pb.AddPartitions(
                topic_id=key,
                expected_partition_count=len(topic.partitions) if topic else 0,
                assignments=[pb.ReplicaAssignment(replica_ids=replicas)],
                min_isr=1 + a % 3,
                flush_mode="page_cache" if c % 2 else "fsync",
            )
        ),
        "configure": lambda: pb.MetadataCommand(
            change_topic_configs=pb.ChangeTopicConfigs(
                topic_id=key, min_isr=1 + a % 3, flush_mode="page_cache" if c % 2 else "fsync"
            )
        ),
        "remove": lambda: pb.MetadataCommand(remove_topic=pb.RemoveTopic(topic_id=key)),
    }
    if kind in builders:
        return builders[kind]()
    return of_a_partition(image, kind, key, replicas, a, c)


OFTEN = ["unfence", "unfence", "change", "configure", "recovered", "move", "order"]
SELDOM = ["damage", "stay", "drain", "offline", "add", "offsets", "grow", "remove", "elect"]
KINDS = st.sampled_from(["restart", "fence", "unfence", "change", *OFTEN, *SELDOM])
STEP = st.tuples(KINDS, st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, min_size=10, max_size=60))
def test_a_busy_cluster_keeps_the_invariants(steps: list[tuple[str, int, int, int]]) -> None:
    image = start()
    for kind, a, b, c in steps:
        command = plausible(image, kind, a, b, c)
        image = checked_step(
            image, encode_entry([command], controller_epoch=image.controller_epoch)
        )
    check_bytes(image)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_apply_raise(data: bytes) -> None:
    applied = apply_entry(EMPTY_IMAGE, data)
    assert applied.image is EMPTY_IMAGE or applied.image.version > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(ENTRY, max_size=12), st.integers(0, 12))
def test_a_copy_from_a_snapshot_goes_on_like_the_original(
    entries: list[pb.MetadataEntry], cut: int
) -> None:
    image = start()
    copy = decode_image(encode_image(image))
    for number, entry in enumerate(entries):
        data = addressed(image, entry)
        original, other = apply_entry(image, data), apply_entry(copy, data)
        assert other.result == original.result
        image, copy = original.image, other.image
        if number == cut:
            copy = decode_image(encode_image(copy))
    assert copy == image


def test_an_entry_takes_effect_whole_or_not_at_all() -> None:
    image = start()
    good = images.add_topic(9, (1,), name="good")
    bad = images.fence(image, 1)
    bad.fence_node.node_epoch += 1
    data = encode_entry([good, bad], controller_epoch=image.controller_epoch)
    applied = apply_entry(image, data)
    assert applied.result.reason == "STALE_NODE_EPOCH"
    assert applied.image is image
