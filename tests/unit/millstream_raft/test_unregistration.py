"""A registration is forgotten only when nothing depends on it."""

import pytest

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.commands import apply_entry
from millstream_raft.decide import decide
from millstream_raft.decision import ClusterDefaults
from millstream_raft.delta import delta_between
from millstream_raft.image import OFFSETS_TOPIC, Image
from millstream_raft.image_codec import decode_image, encode_image
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images


def decided(image: Image, node_id: int) -> tuple[command_pb.MetadataCommand, ...]:
    request = pb.ExecuteRequest(unregister_node=public.UnregisterNodeRequest(node_id=node_id))
    return decide(image, request, topic_id=b"t" * 16, defaults=ClusterDefaults()).commands


def refusal(image: Image, node_id: int) -> str:
    with pytest.raises(Refused) as caught:
        decided(image, node_id)
    return caught.value.reason


@pytest.fixture
def image() -> Image:
    """Brokers 1 and 2, of which 2 is fenced."""
    made = images.image_with(1, 2)
    return images.after(made, images.fence(made, 2))


def test_a_fenced_node_that_holds_nothing_is_forgotten(image: Image) -> None:
    applied = images.apply(image, *decided(image, 2))
    after = applied.image
    assert after.nodes.keys() == {1}
    assert [node.node_id for node in applied.delta.removed_nodes] == [2]
    assert applied.delta.removed_nodes == delta_between(image, after).removed_nodes
    assert decode_image(encode_image(after)).nodes.keys() == {1}
    assert refusal(after, 2) == "UNKNOWN_NODE"


def test_a_node_that_registers_again_gets_an_epoch_never_used_before(image: Image) -> None:
    after = images.after(image, *decided(image, 2))
    again = images.with_nodes(after, 2)
    assert again.nodes[2].epoch > image.nodes[2].epoch


def test_a_node_in_its_session_stays(image: Image) -> None:
    assert refusal(image, 1) == "NODE_IN_USE"


def test_a_node_with_replicas_stays(image: Image) -> None:
    live = images.after(image, images.unfence(image, 2), images.add_topic(1, (2,)))
    assert refusal(images.after(live, images.fence(live, 2)), 2) == "NODE_IN_USE"


def test_a_coordinator_without_an_heir_keeps_nothing_and_may_go(image: Image) -> None:
    made = images.with_nodes(image, 3, roles=("coordinator",))
    made = images.after(made, images.add_topic(9, (1,), name=OFFSETS_TOPIC, internal=True))
    assert made.shards_owned_by(3)
    assert refusal(made, 3) == "NODE_IN_USE"
    fenced = images.after(made, images.fence(made, 3))
    assert images.after(fenced, *decided(fenced, 3)).nodes.keys() == {1, 2}


def test_what_came_into_use_meanwhile_stays(image: Image) -> None:
    commands = decided(image, 2)
    returned = images.after(image, images.unfence(image, 2))
    anew = images.after(image, images.register(2, incarnation=7))
    for later in (returned, anew):
        applied = images.apply(later, *commands)
        assert applied.result.reason == "VERSION_CONFLICT"
        assert applied.image is later


def test_a_full_cluster_has_room_for_a_node_again(image: Image) -> None:
    full = image
    for node_id in range(3, 1001):
        full = apply_entry(
            full,
            command_pb.MetadataEntry(
                controller_epoch=full.controller_epoch, commands=[images.register(node_id)]
            ).SerializeToString(),
        ).image
    assert images.apply(full, images.register(1001)).result.reason == "THROTTLED"
    smaller = images.after(full, *decided(full, 2))
    assert not images.apply(smaller, images.register(1001)).result.reason
