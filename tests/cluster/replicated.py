"""A cluster of real processes whose topic "logs" has three replicas, and a writer that notes what
was acknowledged."""

import threading
import time
import urllib.request
import uuid
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from millstream import Admin, Consumer, Producer
from millstream._client.cluster import PartitionInfo
from millstream_server.local_cluster.supervisor import LocalCluster

TOPIC = "logs"
_PATIENCE_S = 90.0


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition of other processes. Raises AssertionError after a long time."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.05)


def partitions(cluster: LocalCluster) -> list[PartitionInfo]:
    """The partitions of the topic, as any broker that runs tells them."""
    with Admin(bootstrap_servers=cluster.bootstrap_servers) as admin:
        [topic] = admin.describe_topics([TOPIC])
        return list(topic.partitions)


def wait_in_sync(cluster: LocalCluster, size: int = 3) -> None:
    """Wait until every partition has so many replicas in sync, and a leader."""

    def in_sync() -> bool:
        return all(
            len(one.in_sync_replica_ids) == size and one.leader_id is not None
            for one in partitions(cluster)
        )

    wait_until(in_sync, f"{size} replicas in sync")


def sample(cluster: LocalCluster, node: str, name: str, **labels: str) -> float | None:
    """A value that a node's admin port shows now."""
    url = f"http://127.0.0.1:{cluster.node(node).admin_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        text = response.read().decode()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name == name and labels.items() <= one.labels.items():
                return one.value
    return None


class Writer:
    """Writes in the background until it is stopped; every value is written once."""

    def __init__(
        self, cluster: LocalCluster, *, padding: bytes = b"", pause_s: float = 0.002
    ) -> None:
        """Every value ends with ``padding``; ``pause_s`` is between batches of 20."""
        self._cluster = cluster
        self._padding = padding
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # Tells the records of this writer from those of others in the topic.
        self.prefix = uuid.uuid4().hex[:8].encode() + b"-"
        self.acknowledged: dict[tuple[int, int], bytes] = {}
        self.failures: list[BaseException] = []

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        servers = self._cluster.bootstrap_servers
        with Producer(bootstrap_servers=servers, delivery_timeout_ms=120_000) as producer:
            while not self._stop.is_set():
                values = [b"%b%d%b" % (self.prefix, number + n, self._padding) for n in range(20)]
                receipts = [
                    (value, producer.send(TOPIC, key=value, value=value)) for value in values
                ]
                for value, receipt in receipts:
                    try:
                        written = receipt.result(150)
                    except Exception as error:  # noqa: BLE001 - told to the test
                        self.failures.append(error)
                    else:
                        self.acknowledged[written.partition, written.offset] = value
                number += len(values)
                time.sleep(self._pause_s)

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more records are acknowledged."""
        goal = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= goal, f"{count} more acknowledgements")


def check_nothing_lost(cluster: LocalCluster, writer: Writer) -> None:
    """Everything acknowledged is where it was said to be, and nothing of it twice."""
    assert not writer.failures, writer.failures[:3]
    found = _read_written(cluster, writer)
    lost = {place for place, value in writer.acknowledged.items() if found.get(place) != value}
    assert not lost
    assert len(set(found.values())) == len(found)


def _read_written(cluster: LocalCluster, writer: Writer) -> dict[tuple[int, int], bytes]:
    """What the topic holds of a writer, read until all that was acknowledged was seen."""
    found: dict[tuple[int, int], bytes] = {}
    missing = set(writer.acknowledged)
    with Consumer(
        TOPIC, bootstrap_servers=cluster.bootstrap_servers, auto_offset_reset="earliest"
    ) as consumer:
        deadline_s = time.monotonic() + _PATIENCE_S
        while missing and time.monotonic() < deadline_s:
            for records in consumer.getmany(timeout_ms=500).values():
                for record in records:
                    if record.value is not None and record.value.startswith(writer.prefix):
                        found[record.partition, record.offset] = record.value
                        missing.discard((record.partition, record.offset))
    return found
