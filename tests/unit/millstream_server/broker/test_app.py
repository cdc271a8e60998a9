"""The life of a broker: restart, deletion, configuration, failing disks, shutdown, metrics."""

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.config import BrokerConfig
from millstream_server.broker.partition import Role
from millstream_server.runtime.errors import ServiceError, error_of, reason_number
from millstream_server.runtime.ports import File
from millstream_server.runtime.system import SystemFile, SystemFiles
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.waiting import until

StartBroker = Callable[..., Awaitable[BrokerNode]]


class FailingFile:
    """A file whose writes or syncs fail on demand."""

    def __init__(self, inner: File, files: "FailingFiles") -> None:
        self._inner = inner
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, position: int, buffers: Sequence[bytes | memoryview]) -> None:
        if self._files.write_error:
            raise OSError(self._files.write_error, "injected")
        self._inner.write(position, buffers)

    def sync(self) -> None:
        self._files.disk_works.wait(10)
        if self._files.sync_error:
            raise OSError(self._files.sync_error, "injected")
        self._inner.sync()


class FailingFiles(SystemFiles):
    """Files that fail on demand."""

    write_error = 0
    sync_error = 0

    def __init__(self) -> None:
        # While it is not set, syncs hang.
        self.disk_works = threading.Event()
        self.disk_works.set()

    def open(self, path: str, *, create: bool = False, read_only: bool = False) -> File:
        inner = super().open(path, create=create, read_only=read_only)
        assert isinstance(inner, SystemFile)
        return FailingFile(inner, self)  # type: ignore[return-value]


async def append(node: BrokerNode, topic_id: bytes, value: bytes = b"v") -> pb.ProduceResult:
    call = node.stub.Produce()
    await call.write(produce_request(topic_id, batch_of(value)))
    response = await asyncio.wait_for(call.read(), 10)
    call.cancel()
    assert isinstance(response, pb.ProduceResponse)
    return response.results[0]


async def values(node: BrokerNode, topic: str = "logs") -> list[bytes]:
    request = pb.SubscribeRequest(
        topic=topic, start=pb.Position(earliest=True), stop=pb.Position(latest=True)
    )
    return [
        record.value
        async for response in node.stub.Subscribe(request, timeout=10)
        for record in response.records
    ]


async def test_a_restart_keeps_records_epochs_and_the_clean_mark(
    start_broker: StartBroker, metadata: FakeMetadata, tmp_path: Path
) -> None:
    node = await start_broker()
    topic_id = await node.lead("logs")
    await append(node, topic_id, b"before")
    await node.stop()
    assert node.view.drained
    metadata.change_partition("logs", 0, leader_id=None, leader_epoch=2)
    metadata.views.clear()
    again = BrokerNode(metadata, tmp_path / "node-1")
    await again.app.open()
    registration = again.app.registration
    assert (registration.previous_epoch, registration.clean_shutdown) == (1, True)
    assert len(registration.directory_id) == 16
    await again.app.stop()
    await again.server.stop(0)
    third = await start_broker()
    metadata.change_partition("logs", 0, leader_id=1, leader_epoch=3)
    await third.until_leading("logs")
    assert await values(third) == [b"before"]
    result = await append(third, topic_id)
    assert (result.base_offset, result.leader_epoch) == (1, 3)


async def test_no_role_is_taken_before_the_image_has_the_registration(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    node = await start_broker()
    fenced = replace(metadata.image.nodes[1], fenced=True)
    metadata.change(replace(metadata.image, nodes={1: fenced}))
    topic_id = metadata.create_topic("logs", [1])
    assert (await append(node, topic_id)).error == reason_number("LEADER_NOT_AVAILABLE")
    assert (topic_id, 0) not in node.app.hosted.replicas
    metadata.register(1, node.port)
    await node.until_leading("logs")


async def test_a_deleted_topic_is_set_aside_and_removed_later(
    start_broker: StartBroker, metadata: FakeMetadata, tmp_path: Path
) -> None:
    node = await start_broker(
        config=with_config(delete_delay_ms=1, retention_interval_ms=1, upkeep_interval_ms=10)
    )
    topic_id = await node.lead("logs")
    await append(node, topic_id, b"x" * 5000)
    metadata.delete_topic("logs")
    await until(lambda: not node.app.directory.logs)
    assert (await append(node, topic_id)).error == reason_number("UNKNOWN_TOPIC")

    def bytes_left() -> int:
        files = (tmp_path / "node-1").rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    async with asyncio.timeout(10):
        while bytes_left() > 5000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "logs" not in node.app.counters.topics


async def test_data_is_kept_when_a_snapshot_lacks_the_topic(
    broker: BrokerNode, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id)
    before = metadata.image
    metadata.change(replace(before, topics={}, topic_ids={}), reset=True)
    await until(lambda: not broker.app.hosted.replicas)
    assert (topic_id, 0) in broker.app.directory.logs
    dirs = await broker.stub.DescribeLogDirs(pb.DescribeLogDirsRequest())
    assert "metadata" in dirs.log_dirs[0].partitions[0].offline_reason
    metadata.change(replace(metadata.image, topics=before.topics, topic_ids=before.topic_ids))
    await broker.until_leading("logs")
    assert await values(broker) == [b"v"]


async def test_a_changed_configuration_takes_effect(
    broker: BrokerNode, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    topic = metadata.image.topics[topic_id]
    metadata.put_topic(
        replace(topic, configs={"max.message.bytes": "1024", "segment.bytes": "65536"})
    )
    await until(lambda: broker.replica("logs").settings.max_message_bytes == 1024)
    assert (await append(broker, topic_id, b"v" * 1025)).error == reason_number("RECORD_TOO_LARGE")
    assert broker.replica("logs").log.config.segment_bytes == 65536


async def test_the_flush_mode_can_change_while_records_come(
    broker: BrokerNode, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs", flush_mode="page_cache")
    first = await append(broker, topic_id)
    assert first.durability == pb.DURABILITY_REPLICATED_MEMORY
    metadata.change_partition("logs", 0, flush_mode="fsync")
    await until(lambda: broker.replica("logs").state.fsync)
    second = await append(broker, topic_id)
    assert second.durability == pb.DURABILITY_REPLICATED_DISK
    assert second.base_offset == 1


async def test_leadership_that_comes_back_goes_on_under_a_new_epoch(
    broker: BrokerNode, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id)
    metadata.change_partition("logs", 0, leader_id=None, leader_epoch=2)
    await until(lambda: broker.replica("logs").state.role is Role.IDLE)
    assert (await append(broker, topic_id)).error == reason_number("LEADER_NOT_AVAILABLE")
    metadata.change_partition("logs", 0, leader_id=1, leader_epoch=3)
    await broker.until_leading("logs")
    assert (await append(broker, topic_id)).base_offset == 1
    assert broker.replica("logs").state.epoch_start_offset == 1


async def test_a_full_disk_refuses_appends_and_recovers_with_space(
    start_broker: StartBroker,
) -> None:
    files = FailingFiles()
    node = await start_broker(files=files, config=with_config(disk_retry_ms=1))
    for mode in ("fsync", "page_cache"):
        topic_id = await node.lead(mode, flush_mode=mode)
        assert (await append(node, topic_id, b"good")).base_offset == 0
        files.write_error = errno.ENOSPC
        for _ in range(3):
            full = await append(node, topic_id, b"lost")
            assert (full.error, full.indeterminate) == (reason_number("DISK_FULL"), False)
            assert full.retry_after_ms > 0
        assert await values(node, mode) == [b"good"]
        files.write_error = 0
        await asyncio.sleep(0.01)
        assert (await append(node, topic_id, b"again")).base_offset == 1
        assert await values(node, mode) == [b"good", b"again"]
    assert not node.view.offline_reported


async def test_a_full_disk_that_does_not_take_the_node_epoch_is_told_once_in_a_sentence(
    start_broker: StartBroker,
) -> None:
    files = FailingFiles()
    node = await start_broker(files=files)
    register = node.app.registration.on_registered
    assert register is not None
    files.write_error = errno.ENOSPC
    with capture_logs() as lines:
        for _ in range(2):
            with pytest.raises(ServiceError) as caught:
                await register(9)
            assert caught.value.reason == "DISK_FULL"
    (line,) = [one for one in lines if one["log_level"] == "error"]
    assert "no room in" in line["error"]
    assert line["action"].startswith("make room")
    assert "exc_info" not in line
    files.write_error = 0
    await register(9)
    await node.stop()
    again = await start_broker()
    assert again.app.registration.previous_epoch == 9


async def test_others_may_lead_what_a_full_disk_takes_no_log_for(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    files = FailingFiles()
    node = await start_broker(files=files, config=with_config(upkeep_interval_ms=10))
    assert not node.app.hosted.disk_refuses
    files.write_error = errno.ENOSPC  # as without free inodes: there is room for bytes
    metadata.create_topic("logs", [1], replicas=[(1, 2)])
    await until(lambda: node.app.hosted.disk_refuses)
    assert not node.app.hosted.replicas
    files.write_error = 0
    await node.until_leading("logs")


async def test_a_failed_sync_takes_the_directory_offline_for_good(
    start_broker: StartBroker,
) -> None:
    files = FailingFiles()
    node = await start_broker(files=files)
    topic_id = await node.lead("logs")
    await append(node, topic_id)
    files.sync_error = errno.EIO
    failed = await append(node, topic_id)
    assert (failed.error, failed.indeterminate) == (reason_number("STORAGE_ERROR"), True)
    files.sync_error = 0
    assert (await append(node, topic_id)).error == reason_number("STORAGE_ERROR")
    assert node.view.offline_reported
    dirs = await node.stub.DescribeLogDirs(pb.DescribeLogDirsRequest())
    assert dirs.log_dirs[0].offline_reason
    assert node.scrape("millstream_log_dir_offline", dir=node.app._path) == 1


async def test_a_disk_that_hangs_is_told_to_the_session_until_it_works_again(
    start_broker: StartBroker,
) -> None:
    files = FailingFiles()
    node = await start_broker(files=files)
    stuck_ms = node.app.registration.stuck_ms
    assert stuck_ms is not None
    topic_id = await node.lead("logs")
    await append(node, topic_id)
    assert stuck_ms() == 0
    files.disk_works.clear()
    waiting = asyncio.create_task(append(node, topic_id))
    await until(lambda: stuck_ms() > 100)
    assert not waiting.done()
    files.disk_works.set()
    assert not (await waiting).error
    await until(lambda: stuck_ms() == 0)


async def test_a_stop_answers_what_waits_and_ends_streams_with_a_reason(
    broker: BrokerNode, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    produce, fetch = broker.stub.Produce(), broker.stub.Fetch()
    await produce.write(produce_request(topic_id, batch_of(b"waits"), correlation_id=1))
    await fetch.write(pb.FetchRequest(positions=[pb.FetchPosition(topic_id=topic_id)]))
    await fetch.read()
    await until(lambda: broker.replica("logs").state.waiting == 1)
    stopping = asyncio.create_task(broker.stop())
    await until(lambda: broker.app._appender._closed)
    await produce.write(produce_request(topic_id, batch_of(b"late"), correlation_id=2))
    late = await produce.read()
    assert isinstance(late, pb.ProduceResponse)
    assert late.results[0].error == reason_number("NODE_SHUTTING_DOWN")
    assert not late.results[0].indeterminate
    metadata.change_partition("logs", 0, isr=(1,))
    answered = await produce.read()
    assert isinstance(answered, pb.ProduceResponse)
    assert answered.results[0].base_offset == 0
    for call in (produce, fetch):
        assert (await ended(call)).reason == "NODE_SHUTTING_DOWN"
    await stopping


async def ended(call: Any) -> ServiceError:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error_of(error)
    raise AssertionError("the call ended without an error")


async def test_metrics_tell_what_happened(broker: BrokerNode) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id)
    await values(broker)
    bad = produce_request(topic_id)
    call = broker.stub.Produce()
    await call.write(bad)
    await call.read()
    scrape = broker.scrape
    of_topic, of_partition = {"topic": "logs"}, {"topic": "logs", "partition": "0"}
    assert scrape("millstream_topic_records_in_total", **of_topic) == 1
    assert scrape("millstream_topic_records_out_total", **of_topic) == 1
    assert (scrape("millstream_topic_bytes_in_total", **of_topic) or 0) > 90
    assert scrape("millstream_partition_high_watermark", **of_partition) == 1
    assert scrape("millstream_partition_log_end_offset", **of_partition) == 1
    assert scrape("millstream_partition_leader_epoch", **of_partition) == 1
    assert scrape("millstream_partition_in_sync_replicas", **of_partition) == 1
    for name in ("under_replicated", "under_min_isr", "offline"):
        assert scrape(f"millstream_partition_{name}", **of_partition) == 0
    assert scrape("millstream_partition_at_min_isr", **of_partition) == 1
    assert scrape("millstream_replica_lag_records", replica="1", **of_partition) == 0
    assert scrape("millstream_replica_lag_seconds", replica="1", **of_partition) == 0
    durations = "millstream_request_duration_seconds_count"
    assert (scrape(durations, api="produce") or 0) >= 2
    assert (scrape("millstream_request_stage_seconds_count", stage="replicate") or 0) >= 1
    errors = "millstream_request_errors_total"
    assert scrape(errors, api="produce", code="INVALID_REQUEST") == 1
    assert scrape("millstream_streams", api="produce") == 1
    flushes = "millstream_log_flush_duration_seconds_count"
    assert (scrape(flushes, dir=broker.app._path) or 0) >= 1
    assert scrape("millstream_broker_info", broker_id="1", rack="", role="broker") == 1
    call.cancel()


@pytest.mark.parametrize(
    "changes",
    [
        {"request_bytes_max": 0},
        {"inflight_bytes_max": 1},
        {"inflight_bytes_connection_max": 1},
        {"produce_timeout_ms": 1 << 40},
        {"metrics_level": "atom"},
    ],
)
def test_a_senseless_configuration_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        with_config(**changes).validate()
    BrokerConfig().validate()
