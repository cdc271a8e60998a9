"""Both producers over real sockets against a scripted cluster."""

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from millstream import (
    AsyncProducer,
    BufferFullError,
    ClientClosedError,
    Durability,
    InvalidConfigError,
    MillstreamError,
    Producer,
    PurgedError,
    RecordMetadata,
    RecordTooLargeError,
    TimedOutError,
    UnavailableError,
    UnknownTopicError,
)
from tests.fakes.broker import FakeCluster, Fault


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(2) as running:
        running.create_topic("t", 2)
        yield running


def _options(cluster: FakeCluster, **more: Any) -> dict[str, Any]:
    return {"bootstrap_servers": cluster.bootstrap, "retry_backoff_ms": 10, **more}


def _written(cluster: FakeCluster, topic: str = "t") -> list[bytes | None]:
    count = len(cluster.topics[topic].partitions)
    return [value for number in range(count) for value in cluster.values(topic, number)]


# ---- asyncio


async def test_async_send_tells_where_a_record_went(cluster: FakeCluster) -> None:
    async with AsyncProducer(**_options(cluster)) as producer:
        receipt = await producer.send("t", b"v", key=b"k", headers={"h": b"1"}, partition=1)
        assert not receipt.done()
        with pytest.raises(asyncio.InvalidStateError):
            receipt.result()
        place = await receipt
        assert (place.topic, place.partition, place.offset) == ("t", 1, 0)
        assert place.durability is Durability.REPLICATED_DISK
        assert receipt.done()
        assert receipt.result() == place
        assert await receipt == place
    (record,) = cluster.log("t", 1).records
    assert (record.key, record.value, record.headers) == (b"k", b"v", (("h", b"1"),))
    assert record.timestamp_ms == place.timestamp_ms == place.timestamp


async def test_async_order_holds_through_broken_streams(cluster: FakeCluster) -> None:
    lost_answer, lost_request = Fault(drop=True, append=True), Fault(drop=True)
    cluster.script("t", 0, lost_answer, Fault(reason="NOT_ENOUGH_REPLICAS"), lost_request)
    async with AsyncProducer(**_options(cluster, batch_size=200)) as producer:
        receipts = [await producer.send("t", b"%d" % n, partition=0) for n in range(200)]
        offsets = [(await receipt).offset for receipt in receipts]
    assert offsets == list(range(200))
    assert cluster.values("t", 0) == [b"%d" % n for n in range(200)]
    assert cluster.log("t", 0).duplicates >= 1


async def test_async_follows_a_leader_that_moves(cluster: FakeCluster) -> None:
    async with AsyncProducer(**_options(cluster)) as producer:
        await producer.send_and_wait("t", b"1", partition=0)
        cluster.move_leader("t", 0, 2)
        place = await producer.send_and_wait("t", b"2", partition=0)
        assert place.offset == 1
        cluster.move_leader("t", 0, None)
        receipt = await producer.send("t", b"3", partition=0)
        await asyncio.sleep(0.05)
        assert not receipt.done()
        cluster.move_leader("t", 0, 1)
        assert (await receipt).offset == 2


async def test_async_a_broker_that_restarts_is_found_again(cluster: FakeCluster) -> None:
    async with AsyncProducer(**_options(cluster)) as producer:
        await producer.send_and_wait("t", b"1", partition=0)
        await asyncio.to_thread(cluster.brokers[0].stop)
        receipt = await producer.send("t", b"2", partition=0)
        await asyncio.to_thread(cluster.brokers[0].start)
        assert (await asyncio.wait_for(receipt, 10)).offset == 1


async def test_async_a_hung_broker_is_given_up_after_the_request_timeout(
    cluster: FakeCluster,
) -> None:
    cluster.script("t", 0, Fault(append=True, hold=threading.Event()))
    async with AsyncProducer(**_options(cluster, request_timeout_ms=300)) as producer:
        place = await producer.send_and_wait("t", b"1", partition=0)
    assert place.offset == 0
    assert cluster.values("t", 0) == [b"1"]


async def test_async_delivery_timeout_is_told_and_marked_indeterminate(
    cluster: FakeCluster,
) -> None:
    cluster.always = Fault(append=True, hold=threading.Event())
    options = _options(cluster, request_timeout_ms=500, delivery_timeout_ms=3_000)
    async with AsyncProducer(**options) as producer:
        with pytest.raises(TimedOutError) as caught:
            await producer.send_and_wait("t", b"1", partition=0)
        assert caught.value.indeterminate
        cluster.always = None
        assert (await producer.send_and_wait("t", b"2", partition=0)).offset == 1
    assert cluster.values("t", 0) == [b"1", b"2"]


async def test_async_send_waits_for_room_and_nowait_refuses(cluster: FakeCluster) -> None:
    held = threading.Event()
    cluster.always = Fault(append=True, hold=held)
    options = _options(cluster, buffer_memory=16_384, batch_size=4_096, max_block_ms=5_000)
    async with AsyncProducer(**options) as producer:
        await producer.partitions_for("t")
        for _ in range(16):
            producer.send_nowait("t", b"x" * 1_016, partition=0)
        with pytest.raises(BufferFullError) as caught:
            producer.send_nowait("t", b"x" * 1_016, partition=0)
        assert isinstance(caught.value, BufferError)
        waiting = asyncio.create_task(producer.send("t", b"y" * 1_016))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        cluster.always = None
        held.set()
        await (await waiting)


async def test_async_room_that_never_comes_is_an_error(cluster: FakeCluster) -> None:
    cluster.always = Fault(append=True, hold=threading.Event())
    options = _options(cluster, buffer_memory=16_384, batch_size=4_096, max_block_ms=500)
    producer = AsyncProducer(**options)
    await producer.start()
    for _ in range(16):
        await producer.send("t", b"x" * 1_016, partition=0)
    with pytest.raises(BufferFullError):
        await producer.send("t", b"x" * 1_016, partition=0)
    await producer.close(timeout=0.01)


async def test_async_callbacks_run_on_the_loop_and_may_fail(cluster: FakeCluster) -> None:
    told: list[Any] = []

    def on_delivery(error: MillstreamError | None, place: RecordMetadata) -> None:
        told.append((error, place.offset))
        if place.offset == 1:
            raise RuntimeError("a callback's own trouble")

    async with AsyncProducer(**_options(cluster)) as producer:
        await producer.partitions_for("t")
        for number in range(4):
            producer.send_nowait("t", b"%d" % number, partition=0, on_delivery=on_delivery)
        producer.send_nowait("t", b"without", partition=0)
        await producer.flush()
    assert told == [(None, 0), (None, 1), (None, 2), (None, 3)]


async def test_async_send_many_answers_in_the_order_of_the_call(cluster: FakeCluster) -> None:
    async with AsyncProducer(**_options(cluster, batch_size=300)) as producer:
        keys = [b"%d" % (n % 5) for n in range(500)]
        receipts = await producer.send_many("t", [b"%d" % n for n in range(500)], keys)
        places = await receipts
        assert len(receipts) == len(places) == 500
        assert receipts.done()
    for number, place in enumerate(places):
        assert cluster.values("t", place.partition)[place.offset or 0] == b"%d" % number


async def test_async_linger_gathers_and_flush_does_not_wait_for_it(cluster: FakeCluster) -> None:
    async with AsyncProducer(
        **_options(cluster, linger_ms=60_000, delivery_timeout_ms=120_000)
    ) as p:
        receipts = [await p.send("t", b"x", partition=0) for _ in range(10)]
        await asyncio.sleep(0.02)
        assert not receipts[0].done()
        await asyncio.wait_for(p.flush(), 5)
        assert all(receipt.done() for receipt in receipts)
    assert len(cluster.log("t", 0).batches) == 1


async def test_async_acks_zero_and_one(cluster: FakeCluster) -> None:
    async with AsyncProducer(**_options(cluster, acks=0)) as producer:
        place = await producer.send_and_wait("t", b"1", partition=0)
        assert place.offset is None
    async with AsyncProducer(**_options(cluster, acks=1)) as producer:
        await producer.send_and_wait("t", b"2", partition=0)
    assert set(cluster.values("t", 0)) >= {b"2"}
    assert all(header.producer_id == 0 for header in cluster.log("t", 0).batches)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
async def test_async_codecs(cluster: FakeCluster, codec: str) -> None:
    async with AsyncProducer(**_options(cluster, compression_type=codec)) as producer:
        receipts = await producer.send_many("t", [b"line %d" % n for n in range(100)], partition=0)
        await receipts
    assert cluster.values("t", 0) == [b"line %d" % n for n in range(100)]


async def test_async_serializers(cluster: FakeCluster) -> None:
    options = _options(cluster, value_serializer=lambda v: repr(v).encode(), key_serializer=str)
    async with AsyncProducer(**options) as producer:
        await producer.send_and_wait("t", {"a": 1}, key=7, partition=0)
        await (await producer.send_many("t", [1, 2], [8, 9], partition=0))
    assert [(r.key, r.value) for r in cluster.log("t", 0).records] == [
        (b"7", b"{'a': 1}"),
        (b"8", b"1"),
        (b"9", b"2"),
    ]


async def test_async_unknown_topics_and_auto_creation(cluster: FakeCluster) -> None:
    async with AsyncProducer(**_options(cluster)) as producer:
        with pytest.raises(UnknownTopicError):
            await producer.send("nope", b"x")
        cluster.auto_create = True
        assert (await producer.send_and_wait("yes", b"x")).offset == 0


async def test_async_a_deleted_topic_fails_and_a_new_one_of_the_name_works(
    cluster: FakeCluster,
) -> None:
    async with AsyncProducer(**_options(cluster)) as producer:
        await producer.send_and_wait("t", b"old")
        cluster.delete_topic("t")
        cluster.create_topic("t", 1)
        receipt = await producer.send("t", b"new", partition=0)
        try:
            await receipt
        except UnknownTopicError:
            await producer.send_and_wait("t", b"new", partition=0)
    assert cluster.values("t", 0) == [b"new"]


async def test_async_life(cluster: FakeCluster) -> None:
    producer = AsyncProducer(**_options(cluster))
    with pytest.raises(ClientClosedError):
        await producer.send("t", b"x")
    await producer.start()
    receipt = await producer.send("t", b"x")
    await producer.stop()
    assert receipt.done()
    assert (await receipt).offset == 0
    await producer.close()
    with pytest.raises(ClientClosedError):
        await producer.send("t", b"x")
    with pytest.raises(ClientClosedError):
        await producer.flush()


async def test_async_no_broker_is_a_clear_error() -> None:
    producer = AsyncProducer(bootstrap_servers="127.0.0.1:1", default_api_timeout_ms=300)
    with pytest.raises(UnavailableError):
        await producer.start()
    with pytest.raises(ClientClosedError):
        await producer.send("t", b"x")


# ---- blocking


def test_sync_send_produce_and_send_many(cluster: FakeCluster) -> None:
    told: list[Any] = []
    with Producer(**_options(cluster)) as producer:
        assert producer.send("t", b"1", partition=0).result(5).offset == 0
        assert producer.send_and_wait("t", b"2", partition=0).offset == 1
        for _ in range(3):
            producer.produce("t", b"3", partition=0, on_delivery=lambda *got: told.append(got))
        assert len(producer) >= 0
        assert producer.flush() == 0
        assert [(error, place.offset) for error, place in told] == [(None, 2), (None, 3), (None, 4)]
        places = producer.send_many("t", [b"4"] * 100, partition=1).result(5)
        assert [place.offset for place in places] == list(range(100))
        assert producer.partitions_for("t") == [0, 1]
        with pytest.raises(RecordTooLargeError):
            producer.send("t", b"x" * (1024 * 1024 + 1))
        with pytest.raises(UnknownTopicError):
            producer.send("nope", b"x")
    with pytest.raises(ClientClosedError):
        producer.send("t", b"x")


def test_sync_order_holds_through_broken_streams(cluster: FakeCluster) -> None:
    cluster.script("t", 0, Fault(drop=True, append=True), Fault(drop=True))
    with Producer(**_options(cluster, batch_size=200)) as producer:
        receipts = [producer.send("t", b"%d" % n, partition=0) for n in range(200)]
        assert [receipt.result(10).offset for receipt in receipts] == list(range(200))
    assert cluster.values("t", 0) == [b"%d" % n for n in range(200)]


def test_sync_many_threads_share_a_producer(cluster: FakeCluster) -> None:
    with Producer(**_options(cluster, batch_size=2_000)) as producer:

        def work(name: int) -> None:
            for number in range(500):
                producer.send("t", b"%d:%d" % (name, number), partition=0)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    values = cluster.values("t", 0)
    assert len(set(values)) == len(values) == 2_000
    for name in range(4):
        mine = [int(v.split(b":")[1]) for v in values if v and v.startswith(b"%d:" % name)]
        assert mine == list(range(500))


def test_sync_callbacks_that_nobody_serves_fill_the_buffer(cluster: FakeCluster) -> None:
    options = _options(cluster, buffer_memory=16_384, batch_size=1_024)
    told: list[Any] = []
    with Producer(**options) as producer:
        for _ in range(32):
            producer.produce(
                "t", b"x" * 504, partition=0, on_delivery=lambda *got: told.append(got)
            )
        with pytest.raises(BufferFullError):
            producer.produce("t", b"x" * 504, partition=0)
        assert not told
        assert producer.poll(5) > 0
        producer.produce("t", b"x" * 500, on_delivery=lambda *got: told.append(got))


def test_sync_purge_and_results_that_time_out(cluster: FakeCluster) -> None:
    held = threading.Event()
    cluster.always = Fault(append=True, hold=held)
    with Producer(**_options(cluster)) as producer:
        receipt = producer.send("t", b"1", partition=0)
        with pytest.raises(TimedOutError):
            receipt.result(0.05)
        assert producer.flush(0.05) == 1
        producer.purge()
        with pytest.raises(PurgedError):
            receipt.result(1)
        assert isinstance(receipt.exception(1), PurgedError)
        held.set()
        cluster.always = None
        assert producer.send_and_wait("t", b"2", partition=0).offset == 1


def test_sync_a_fork_is_noticed(cluster: FakeCluster) -> None:
    with Producer(**_options(cluster)) as producer:
        producer.send_and_wait("t", b"x")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                producer.send("t", b"y")
            except MillstreamError as error:
                os.write(write, error.code.encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 100) == b"FORKED"
        assert producer.send_and_wait("t", b"z").offset is not None


def test_bad_configuration_is_refused_before_anything_starts() -> None:
    with pytest.raises(InvalidConfigError, match="transactions"):
        Producer({"transactional.id": "x"})
    with pytest.raises(InvalidConfigError, match="did you mean acks"):
        AsyncProducer(acks_="all")
