"""The followed image never goes back and never skips; what clients watch follows from it."""

import pytest

from millstream_raft.commands import encode_entry
from millstream_raft.image import EMPTY_IMAGE, Image
from millstream_raft.image_codec import encode_image
from millstream_server.cluster.cluster_watch import ClusterWatch
from millstream_server.cluster.followed_image import FollowedImage, ImageGapError
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images


class History:
    """Images and the entries between them."""

    def __init__(self) -> None:
        self.images: list[Image] = [images.image_with(1, 2)]
        self.entries: list[bytes] = []

    def add(self, *commands: command_pb.MetadataCommand) -> Image:
        before = self.images[-1]
        self.entries.append(encode_entry(list(commands), controller_epoch=before.controller_epoch))
        self.images.append(images.after(before, *commands))
        return self.images[-1]

    def response(self, first: int, last: int) -> pb.WatchImageResponse:
        return pb.WatchImageResponse(
            version=self.images[last].version, entries=self.entries[first:last]
        )


@pytest.fixture
def history() -> History:
    made = History()
    producer_id = images.command(take_producer_id=command_pb.TakeProducerId())
    for number in range(1, 6):
        made.add(images.add_topic(number, (1,)), producer_id)
    return made


def test_entries_known_from_another_node_are_skipped(history: History) -> None:
    followed = FollowedImage(10)
    followed.take_snapshot(encode_image(history.images[2]))
    followed.take_snapshot(encode_image(history.images[0]))
    assert followed.image == history.images[2], "an older snapshot is ignored"
    followed.take_entries(history.response(0, 2))
    assert followed.image == history.images[2]
    followed.take_entries(history.response(0, 5))
    assert followed.image == history.images[5]


def test_a_gap_is_noticed(history: History) -> None:
    followed = FollowedImage(10)
    followed.take_snapshot(encode_image(history.images[1]))
    with pytest.raises(ImageGapError):
        followed.take_entries(history.response(3, 5))
    assert followed.image == history.images[1]


def test_subscribers_get_every_step_and_one_failing_does_not_stop_the_others(
    history: History,
) -> None:
    followed = FollowedImage(10)
    followed.take_snapshot(encode_image(history.images[1]))
    seen: list[int] = []

    def fail(delta: object) -> None:
        raise RuntimeError("a bug")

    followed.subscribe(fail)
    unsubscribe = followed.subscribe(lambda delta: seen.append(delta.image.version))
    followed.take_entries(history.response(1, 3))
    unsubscribe()
    followed.take_entries(history.response(3, 4))
    assert seen == [image.version for image in history.images[1:4]]


async def test_waiting_is_bounded_in_number_and_time(history: History) -> None:
    followed = FollowedImage(0)
    with pytest.raises(ServiceError, match="THROTTLED"):
        await followed.wait_for_version(1, 1_000)
    followed = FollowedImage(1)
    with pytest.raises(ServiceError, match="TIMED_OUT"):
        await followed.wait_for_version(1, 1)
    followed.take_snapshot(encode_image(history.images[1]))
    assert await followed.wait_for_version(1, 1) is followed.image
    followed.stop()
    with pytest.raises(ServiceError, match="NODE_SHUTTING_DOWN"):
        await followed.wait_for_version(10**6, 1_000)


def watched(history: History, watch: ClusterWatch, *commands: command_pb.MetadataCommand) -> bool:
    before = history.images[-1]
    after = images.apply(before, *commands)
    history.images.append(after.image)
    return watch.note(after.delta)


def test_a_watch_tells_only_of_its_topics_and_leaves_out_the_in_sync_replicas() -> None:
    history = History()
    watch = ClusterWatch(["wanted"], all_topics=False, voters=((9, "host:1"),))
    first = watch.first(history.images[-1])
    assert first.missing_topics == ["wanted"]
    assert [node.node_id for node in first.nodes] == [1, 2, 9]
    assert not watched(history, watch, images.add_topic(1, (1,), name="other"))
    assert watched(history, watch, images.add_topic(2, (1, 2), name="wanted"))
    message = watch.take(history.images[-1])
    assert [topic.name for topic in message.topics] == ["wanted"]
    assert not message.topics[0].partitions[0].in_sync_replica_ids
    assert message.topics[0].partitions[0].replica_ids == [1, 2]
    shrink = command_pb.ChangePartition(
        topic_id=images.topic_id(2), partition=0, in_sync_replica_ids=[1]
    )
    assert not watched(history, watch, images.command(change_partition=shrink))
    remove = command_pb.RemoveTopic(topic_id=images.topic_id(2))
    assert watched(history, watch, images.command(remove_topic=remove))
    assert watch.take(history.images[-1]).removed_topic_ids == [images.topic_id(2)]


def test_a_slow_watcher_gets_the_newest_state_once() -> None:
    history = History()
    watch = ClusterWatch([], all_topics=True, voters=())
    assert not watch.first(EMPTY_IMAGE).topics
    for number in range(1, 4):
        watched(history, watch, images.add_topic(number, (1,)))
    watched(history, watch, images.fence(history.images[-1], 1))
    message = watch.take(history.images[-1])
    assert len(message.topics) == 3
    assert not any(topic.partitions[0].HasField("leader_id") for topic in message.topics)
    assert [node.node_id for node in message.nodes if node.fenced] == [1]
    again = watch.take(history.images[-1])
    assert not again.topics
    assert not again.nodes
