"""``Consumer`` over loopback gRPC: what threads change."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from millstream._consumer.record import TopicPartition
from millstream._consumer.sync_consumer import Consumer
from millstream._errors import ClientClosedError, LogTruncatedError, MillstreamError
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.fetch_broker import FakeBroker

P0, P1 = (TopicPartition("logs", number) for number in range(2))


class Server:
    """The fakes on a loop in a thread of their own."""

    def __init__(self) -> None:
        self.coordinator = FakeCoordinator()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.broker = FakeBroker({"logs": 2}, self.coordinator)
        self.coordinator.partitions = lambda: [
            (log.topic, log.topic_id, log.partition) for log in self.broker.logs.values()
        ]
        async with self.broker:
            self._ready.set()
            await self._stop.wait()

    def run(self, action: Callable[[], object]) -> None:
        """Do something on the server's loop."""
        done = threading.Event()

        def job() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(job)
        done.wait()

    def fill(self, batches: int = 4, size: int = 5) -> int:
        """Append batches of numbered values everywhere; returns the number of records."""

        def job() -> None:
            for log in self.broker.logs.values():
                for _ in range(batches):
                    log.append([b"%d" % (log.end + index) for index in range(size)])
            self.broker.wake()

        self.run(job)
        return batches * size * 2

    def consumer(self, *topics: str, **config: Any) -> Consumer:
        """A consumer of this server."""
        settings = {
            "bootstrap_servers": self.broker.address,
            "auto_offset_reset": "earliest",
            "retry_backoff_ms": 10,
            "request_timeout_ms": 5_000,
            "default_api_timeout_ms": 5_000,
            **config,
        }
        return Consumer(*topics, **settings)

    def close(self) -> None:
        """Stop the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    before = set(threading.enumerate())
    server = Server()
    yield server
    server.close()
    assert server.coordinator.violations == []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [t for t in threading.enumerate() if t.name.startswith("millstream")]
        if not set(left) - before:
            break
        time.sleep(0.01)
    assert not set(left) - before


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read(reader: Consumer, count: int) -> list[Any]:
    out: list[Any] = []
    deadline = time.monotonic() + 10
    while len(out) < count:
        assert time.monotonic() < deadline
        for records in reader.getmany(timeout_ms=200).values():
            out += records
    return out


def test_every_way_of_reading_gives_every_record_once(server: Server) -> None:
    total = server.fill()
    with server.consumer("logs") as reader:
        records = [reader.getone(), next(reader)]
        record = reader.poll(5)
        assert record is not None
        records.append(record)
        records += reader.consume(7, 5)
        for record in reader:
            records.append(record)
            if len(records) == 20:
                break
        columns = reader.consume_batch(5)
        assert columns is not None
        records += read(reader, total - 20 - len(columns))
        assert reader.poll(0.01) is None
        seen = {(one.partition, one.offset) for one in records}
        seen |= {(columns.partition, offset) for offset in columns.offsets}
        assert len(seen) == total == len(records) + len(columns)
        assert reader.beginning_offsets([P0]) == {P0: 0}
        assert reader.end_offsets([P1]) == {P1: 20}
        assert reader.offsets_for_times({P0: 10**12}) == {P0: None}


def test_groups_share_and_hand_on_without_loss_or_repeat(server: Server) -> None:
    total = server.fill(40)
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()
    done = threading.Event()

    def member(stop_after: int) -> None:
        count = 0
        with server.consumer("logs", group_id="g", max_poll_records=7) as reader:
            while not done.is_set() and count != stop_after:
                for records in reader.getmany(timeout_ms=20).values():
                    with lock:
                        seen.extend((record.partition, record.offset) for record in records)
                        count += 1
                        if len(seen) >= total:
                            done.set()
                time.sleep(0.002)

    threads = [threading.Thread(target=member, args=(stop,)) for stop in (10, -1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(seen) == [(partition, offset) for partition in (0, 1) for offset in range(200)]


def test_heartbeats_go_on_while_the_application_is_busy(server: Server) -> None:
    server.fill()
    with server.consumer("logs", group_id="g") as reader:
        reader.getone()
        member = server.coordinator.members["member-1"]
        before = member.heartbeats
        eventually(lambda: member.heartbeats >= before + 3)


def test_nothing_of_a_lost_partition_is_delivered(server: Server) -> None:
    server.fill(1, 50)
    coordinator = server.coordinator
    coordinator.session_timeout_ms = 1_000
    lost: list[TopicPartition] = []

    class Listener:
        def on_lost(self, partitions: list[TopicPartition]) -> None:
            lost.extend(partitions)

    with server.consumer(group_id="g", session_timeout_ms=1_000) as reader:
        reader.subscribe(["logs"], listener=Listener())
        offsets = []
        for record in reader:
            offsets.append((record.partition, record.offset))
            if len(offsets) == 3:
                coordinator.mute = True
                coordinator.refuse_joins = ["COORDINATOR_LOADING"] * 1000
                eventually(lambda: not reader.assignment())
                coordinator.refuse_joins = []
                coordinator.mute = False
            if len(offsets) == 4:
                break
        # Nothing was committed, so the new ownership begins at the first record.
        assert offsets[3][1] == 0
        assert lost == [P0, P1]


def test_a_listener_may_commit_while_partitions_are_revoked(server: Server) -> None:
    server.fill()
    revoked: list[list[TopicPartition]] = []
    with server.consumer(group_id="g", enable_auto_commit=False) as reader:

        class Listener:
            def on_revoke(self, partitions: list[TopicPartition]) -> None:
                revoked.append(partitions)
                reader.commit()

        reader.subscribe("logs", listener=Listener())
        read(reader, 40)
    assert revoked == [[P0, P1]]
    ends = {key: offset.offset for key, offset in server.coordinator.committed.items()}
    assert ends == {("logs", 0): 20, ("logs", 1): 20}


def test_interrupts_end_a_wait_at_once(server: Server) -> None:
    with server.consumer("logs") as reader:
        thread = threading.current_thread().ident
        assert thread is not None
        threading.Timer(0.2, lambda: signal.pthread_kill(thread, signal.SIGINT)).start()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            reader.getone()
        assert time.monotonic() - begun < 10
        server.fill(1, 1)
        assert reader.getone().offset == 0


def test_other_threads_may_seek_pause_and_commit(server: Server) -> None:
    server.fill()
    with server.consumer(group_id="g") as reader:
        reader.assign([P0])
        offsets = []
        for record in reader:
            offsets.append(record.offset)
            if len(offsets) == 2:
                thread = threading.Thread(target=lambda: (reader.commit(), reader.seek(P0, 18)))
                thread.start()
                thread.join()
            if record.offset == 19:
                break
        assert offsets == [0, 1, 18, 19]
        assert reader.committed(P0) == 2


def test_errors_reach_the_application(server: Server) -> None:
    server.fill()
    with server.consumer() as reader:
        reader.assign([P0])
        read(reader, 20)
        server.broker.log("logs").failures.append("LOG_TRUNCATED")
        server.run(server.broker.wake)
        with pytest.raises(LogTruncatedError):
            reader.getone()
        reader.seek_to_end(P0)
        assert reader.position(P0) == 20
        with pytest.raises(MillstreamError):
            reader.end_offsets([TopicPartition("nope", 0)])
    with pytest.raises(ClientClosedError):
        reader.getone()


def test_closing_from_another_thread_ends_a_wait(server: Server) -> None:
    reader = server.consumer("logs")
    reader.start()
    threading.Timer(0.1, reader.close).start()
    with pytest.raises(ClientClosedError):
        reader.getone()
    reader.close()
