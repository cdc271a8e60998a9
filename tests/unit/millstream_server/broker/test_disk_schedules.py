"""Schedules in which the disk fails at the worst moment: nobody is told what is not so."""

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.partition import Role
from millstream_server.runtime.errors import reason_number
from millstream_server.runtime.ports import File
from millstream_server.runtime.system import SystemFiles
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.waiting import until

StartBroker = Callable[..., Awaitable[BrokerNode]]


class HeldFile:
    """A file whose writes wait, and fail on demand."""

    def __init__(self, inner: File, files: "HeldFiles") -> None:
        self._inner = inner
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        self._files.going.wait(10)
        if self._files.write_error:
            raise OSError(self._files.write_error, "injected")
        self._inner.write(position, buffers)


class HeldFiles(SystemFiles):
    """Files whose writes wait while ``going`` is clear."""

    def __init__(self) -> None:
        self.going = threading.Event()
        self.going.set()
        self.write_error = 0

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        return HeldFile(super().open(path, create=create, read_only=read_only), self)


async def result(call: Any) -> pb.ProduceResult:
    response = await asyncio.wait_for(call.read(), 10)
    assert isinstance(response, pb.ProduceResponse)
    return response.results[0]


async def test_a_repeat_of_an_append_that_failed_is_not_answered_by_another_append(
    start_broker: StartBroker,
) -> None:
    files = HeldFiles()
    node = await start_broker(files=files, config=with_config(disk_retry_ms=1))
    topic_id = await node.lead("logs")
    replica = node.replica("logs")
    batch = batch_of(b"mine", producer_id=7)
    files.going.clear()
    first, again = node.stub.Produce(), node.stub.Produce()
    await first.write(produce_request(topic_id, batch))
    await until(lambda: replica.state.waiting == 1)
    await again.write(produce_request(topic_id, batch))
    await until(lambda: replica.state.waiting == 2)
    files.write_error = errno.ENOSPC
    files.going.set()
    failed = await result(first)
    assert (failed.error, failed.indeterminate) == (reason_number("DISK_FULL"), False)
    repeated = await result(again)
    assert repeated.error == reason_number("DISK_FULL")
    assert replica.state.waiting == 0
    files.write_error = 0
    await asyncio.sleep(0.01)
    await first.write(produce_request(topic_id, batch_of(b"other")))
    assert (await result(first)).base_offset == 0
    await again.write(produce_request(topic_id, batch))
    assert (await result(again)).base_offset == 1
    first.cancel()
    again.cancel()


async def test_a_partition_made_or_elected_on_a_full_disk_is_led_once_there_is_room(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    files = HeldFiles()
    node = await start_broker(files=files, config=with_config(upkeep_interval_ms=10))
    await node.lead("old")
    old = node.replica("old")
    files.write_error = errno.ENOSPC
    metadata.change_partition("old", 0, leader_epoch=2)
    metadata.create_topic("new", [1])
    await until(lambda: old.state.role is Role.STARTING and old.state.leader_epoch == 2)
    await asyncio.sleep(0.05)
    assert old.state.role is Role.STARTING
    files.write_error = 0
    await node.until_leading("old")
    await node.until_leading("new")


async def test_a_stop_does_not_hang_on_an_epoch_that_is_being_begun(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    files = HeldFiles()
    node = await start_broker(files=files)
    await node.lead("logs")
    replica = node.replica("logs")
    files.going.clear()
    metadata.change_partition("logs", 0, leader_epoch=2)
    await until(lambda: replica.log.epoch_pending)
    stopping = asyncio.create_task(node.stop())
    await until(lambda: bool(node.app._tasks) and all(task.done() for task in node.app._tasks))
    files.going.set()
    await asyncio.wait_for(stopping, 10)


async def test_a_publish_that_waited_for_its_leader_appends_nothing_after_the_stop(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    node = await start_broker()
    await node.lead("logs")
    replica = node.replica("logs")
    metadata.change_partition("logs", 0, leader_id=None, leader_epoch=2)
    await until(lambda: replica.state.role is Role.IDLE)
    request = pb.PublishRequest(topic="logs", records=[pb.PublishRecord(value=b"late")])
    publishing = asyncio.create_task(node.app._calls.publish(request))
    await asyncio.sleep(0)
    node.app._appender.close()  # before the leader is there, or it may append at once
    metadata.change_partition("logs", 0, leader_id=1, leader_epoch=3)
    await node.until_leading("logs")
    outcome = (await asyncio.gather(publishing, return_exceptions=True))[0]
    assert "NODE_SHUTTING_DOWN" in str(outcome)
    assert replica.log.end_offset == 0
