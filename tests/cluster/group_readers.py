"""Members of a group that write down what they get, for tests against real nodes.

python -m tests.cluster.group_readers BOOTSTRAP GROUP TOPIC ROWS_FILE SESSION_TIMEOUT_MS
"""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream import AsyncConsumer, Consumer, MillstreamError, Producer, TopicPartition

_POLL_MS = 100
OPTIONS: dict[str, Any] = {
    "auto_offset_reset": "earliest",
    # Longer than a machine may be busy with something else.
    "session_timeout_ms": 10_000,
    "auto_commit_interval_ms": 200,
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A record that a member got."""

    member: str
    place: TopicPartition
    offset: int
    value: bytes


class Ledger:
    """All deliveries, in the order in which they happened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.deliveries: list[Delivery] = []

    def note(self, member: str, records: Any) -> None:
        """A member got these."""
        with self._lock:
            for place, some in records.items():
                self.deliveries += [Delivery(member, place, r.offset, r.value) for r in some]

    @property
    def values(self) -> set[bytes]:
        """What anybody got."""
        with self._lock:
            return {one.value for one in self.deliveries}

    def of(self, member: str) -> list[Delivery]:
        """What one member got."""
        with self._lock:
            return [one for one in self.deliveries if one.member == member]

    def wait_for(self, values: set[bytes], timeout_s: float = 20.0) -> None:
        """Wait until all of these were delivered."""
        deadline = time.monotonic() + timeout_s
        while not values <= self.values:
            missing = values - self.values
            assert time.monotonic() < deadline, f"{len(missing)} of {len(values)} did not come"
            time.sleep(0.02)

    def check_clean(self) -> None:
        """Every record of a partition came once, in order, over all its owners."""
        following: dict[TopicPartition, int] = defaultdict(int)
        for number, one in enumerate(self.deliveries):
            assert one.offset == following[one.place], (number, one, following[one.place])
            following[one.place] += 1

    def check_order(self) -> None:
        """No member skipped a record: offsets grow by one, or begin again at an earlier one."""
        seen: dict[TopicPartition, int] = {}
        last: dict[tuple[str, TopicPartition], int] = {}
        for one in self.deliveries:
            before = last.get((one.member, one.place), -1)
            end = seen.get(one.place, 0)
            assert one.offset == before + 1 or one.offset <= end, one
            last[one.member, one.place] = one.offset
            seen[one.place] = max(end, one.offset + 1)


class Reader(threading.Thread):
    """A member in a thread."""

    def __init__(
        self, address: str, group: str, topic: str, ledger: Ledger, name: str, **options: Any
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.address, self.group, self.topic, self.ledger = address, group, topic, ledger
        self.options = {**OPTIONS, **options}
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self.owned: set[TopicPartition] = set()
        self.start()

    def leave(self, timeout_s: float = 20.0) -> None:
        """Commit and leave; raises what went wrong in the thread."""
        self.stopping.set()
        self.join(timeout_s)
        assert not self.is_alive(), f"{self.name} did not end"
        if self.error is not None:
            raise self.error

    def wait_owned(self, count: int, timeout_s: float = 40.0) -> None:
        """Wait until it owns so many partitions; for longer than a session, which a member may
        leave behind that a busy machine kept from its join."""
        deadline = time.monotonic() + timeout_s
        while len(self.owned) != count:
            assert time.monotonic() < deadline, f"{self.name} owns {self.owned}, not {count}"
            assert self.error is None, self.error
            time.sleep(0.01)

    def run(self) -> None:
        """Read until told to leave."""
        try:
            self.read()
        except BaseException as error:  # noqa: BLE001 - raised again by `leave`
            self.error = error

    def read(self) -> None:
        """Subclasses read differently."""
        consumer = Consumer(bootstrap_servers=self.address, group_id=self.group, **self.options)
        with consumer:
            self._subscribe(consumer)
            while not self.stopping.is_set():
                self.ledger.note(self.name, consumer.getmany(timeout_ms=_POLL_MS))
                self.owned = consumer.assignment()
        self.owned = set()

    def _subscribe(self, consumer: Any) -> None:
        if self.topic.startswith("^"):
            consumer.subscribe(pattern=self.topic[1:])
        else:
            consumer.subscribe([self.topic])


class AsyncReader(Reader):
    """A member on an event loop, which all of them share: two loops with gRPC disturb each other
    (grpc #25364)."""

    _loop: asyncio.AbstractEventLoop | None = None
    _loop_lock = threading.Lock()

    @classmethod
    def _shared_loop(cls) -> asyncio.AbstractEventLoop:
        with cls._loop_lock:
            if cls._loop is None:
                cls._loop = asyncio.new_event_loop()
                threading.Thread(target=cls._loop.run_forever, daemon=True).start()
            return cls._loop

    def read(self) -> None:
        """Read until told to leave."""
        asyncio.run_coroutine_threadsafe(self._read(), self._shared_loop()).result()

    async def _read(self) -> None:
        consumer = AsyncConsumer(
            bootstrap_servers=self.address, group_id=self.group, **self.options
        )
        async with consumer:
            self._subscribe(consumer)
            while not self.stopping.is_set():
                self.ledger.note(self.name, await consumer.getmany(timeout_ms=_POLL_MS))
                self.owned = consumer.assignment()
        self.owned = set()


class ProcessReader:
    """A member in a process of its own, to be killed or interrupted."""

    def __init__(
        self, address: str, group: str, topic: str, path: Path, *, session_timeout_ms: int
    ) -> None:
        self._path = path
        command = [sys.executable, "-m", "tests.cluster.group_readers", address, group, topic]
        self.process = subprocess.Popen([*command, str(path), str(session_timeout_ms)])

    @property
    def rows(self) -> list[Delivery]:
        """What it got so far; the last line may be missing."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        rows = [line.split() for line in lines]
        return [
            Delivery("process", TopicPartition(row[0], int(row[1])), int(row[2]), row[3].encode())
            for row in rows
            if len(row) == 4
        ]

    def wait_rows(self, count: int, timeout_s: float = 15.0) -> None:
        """Wait until it got so many."""
        deadline = time.monotonic() + timeout_s
        while len(self.rows) < count:
            assert time.monotonic() < deadline, f"the process got {len(self.rows)} records"
            assert self.process.poll() is None, "the process ended"
            time.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)


class Writer(threading.Thread):
    """Writes numbered records until it is stopped."""

    def __init__(self, address: str, topic: str, **options: Any) -> None:
        super().__init__(daemon=True)
        self._topic = topic
        self._producer = Producer(bootstrap_servers=address, linger_ms=1, **options)
        self._stopping = threading.Event()
        self.acknowledged: set[bytes] = set()
        self.failed: dict[bytes, MillstreamError] = {}
        self.answers = 0
        self.sent = 0
        self.start()

    def run(self) -> None:
        """Write."""
        while not self._stopping.is_set():
            value = b"%d" % self.sent
            self.sent += 1

            def delivered(error: MillstreamError | None, _: object, value: bytes = value) -> None:
                self.answers += 1
                if error is None:
                    self.acknowledged.add(value)
                else:
                    self.failed[value] = error

            self._producer.produce(self._topic, value, value, on_delivery=delivered)
            self._producer.poll(0)
            time.sleep(0.001)
        self._producer.flush(60)
        self._producer.close()

    def stop(self) -> set[bytes]:
        """Wait for all answers; returns what was acknowledged."""
        self._stopping.set()
        self.join(70)
        assert not self.is_alive()
        return self.acknowledged


def main(address: str, group: str, topic: str, path: str, session_timeout_ms: str) -> None:
    """Read as a process, writing `topic partition offset value` lines, until Ctrl-C."""
    options = {**OPTIONS, "session_timeout_ms": int(session_timeout_ms)}
    with (
        open(path, "w", buffering=1) as rows,
        Consumer(topic, bootstrap_servers=address, group_id=group, **options) as consumer,
    ):
        try:
            for record in consumer:
                assert record.value is not None
                print(
                    record.topic, record.partition, record.offset, record.value.decode(), file=rows
                )
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
