"""A full disk refuses appends with a typed error, loses nothing, and recovers when room is made."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream import (
    Admin,
    Consumer,
    DiskFullError,
    NewTopic,
    Producer,
    TimedOutError,
    TopicPartition,
)
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.campaigns.embedded import EmbeddedNode
from tests.cluster.replicated import (
    TOPIC,
    Writer,
    check_nothing_lost,
    partitions,
    sample,
    wait_in_sync,
    wait_until,
)

pytestmark = pytest.mark.timeout(600)

DISK_MB = 96
VALUE = b"x" * 50_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = tmp_path / "disk"
    with mounted(folder):
        yield folder


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A small file system in a folder. Skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(address: str) -> tuple[int, int]:
    """Produce until the disk is full; how many records were acknowledged, and of how many nobody
    knows."""
    acknowledged = unknown = 0
    with Producer(
        bootstrap_servers=address, delivery_timeout_ms=2000, request_timeout_ms=1000
    ) as producer:
        for _ in range(DISK_MB * 40):
            try:
                producer.send_and_wait("full", VALUE)
                acknowledged += 1
            except TimedOutError:
                unknown += 1  # it waited for a follower whose disk is full, or for a busy machine
            except DiskFullError:
                return acknowledged, unknown
    pytest.fail("the disk never got full")


def count(address: str) -> int:
    part = TopicPartition("full", 0)
    with Consumer(bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        end = consumer.end_offsets([part])[part]
        consumer.assign([part])
        got = 0
        while got < end:
            got += sum(map(len, consumer.getmany(timeout_ms=10_000).values()))
    return got


def leader_of(address: str) -> int | None:
    with Admin(bootstrap_servers=address) as admin:
        [topic] = admin.describe_topics(["full"])
        return topic.partitions[0].leader_id


def test_a_full_disk(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(16 << 20))
    node = EmbeddedNode(small_disk / "node")
    node.start()
    try:
        with Admin(bootstrap_servers=node.address) as admin:
            admin.create_topics([NewTopic("full", 1)])
        acknowledged, unknown = fill(node.address)
        assert acknowledged > 100
        kept = count(node.address)
        assert acknowledged <= kept <= acknowledged + unknown
        filler.unlink()
        with Producer(bootstrap_servers=node.address, delivery_timeout_ms=40_000) as producer:
            producer.send_and_wait("full", VALUE)
        node.kill()
        node.start()
        assert count(node.address) == kept + 1
    finally:
        node.stop()


def test_leads_leave_a_full_broker_which_comes_back_by_itself(tmp_path: Path) -> None:
    config = {"replica.lag.time.max.ms": "2000"}
    with LocalCluster.create(
        tmp_path / "cluster", metadata=1, brokers=3, coordinators=1, config=config
    ) as cluster:
        data = cluster.node("broker-1").folder / "data"
        full = cluster.node("broker-1").node_id
        with mounted(data):
            cluster.start()
            cluster.wait_ready()
            with Admin(bootstrap_servers=cluster.bootstrap_servers) as admin:
                admin.create_topics([NewTopic(TOPIC, 6, 3)])
            wait_in_sync(cluster)
            assert full in {one.leader_id for one in partitions(cluster)}
            with Writer(cluster) as writer:
                writer.wait_for_more(100)
                fill_up(data / "filler")
                wait_until(
                    lambda: all(
                        one.leader_id not in (None, full) and full not in one.in_sync_replica_ids
                        for one in partitions(cluster)
                    ),
                    "others lead, without it",
                )
                writer.wait_for_more(200)
                (data / "filler").unlink()
                wait_in_sync(cluster)
                writer.wait_for_more(100)
            check_nothing_lost(cluster, writer)
            cluster.stop()


def test_where_no_disk_has_room_leads_stay_and_records_can_be_read(tmp_path: Path) -> None:
    with (
        LocalCluster.create(tmp_path / "cluster", metadata=1, brokers=2, coordinators=1) as cluster,
        contextlib.ExitStack() as disks,
    ):
        folders = [cluster.node(f"broker-{n}").folder / "data" for n in (1, 2)]
        for folder in folders:
            disks.enter_context(mounted(folder))
        cluster.start()
        cluster.wait_ready()
        address = cluster.bootstrap_servers
        with Admin(bootstrap_servers=address) as admin:
            admin.create_topics([NewTopic("full", 1, 2)])
        with Producer(bootstrap_servers=address) as producer:
            for _ in range(20):
                producer.send_and_wait("full", VALUE)
        leader_id = leader_of(address)
        # The follower's first: while it has room it would be made the leader, and could not lead
        # when its disk is full a moment later.
        leads_on = {cluster.node(f"broker-{n}").node_id: n - 1 for n in (1, 2)}
        own = folders[leads_on[leader_id or 0]]
        for folder in sorted(folders, key=own.__eq__):
            fill_up(folder / "filler")
            if folder != own:
                wait_until(
                    lambda: sample(cluster, "metadata-1", "millstream_refusing_disks") == 1,
                    "the controller knows that the follower's disk is full",
                )
        acknowledged = 20 + fill(address)[0]
        end = time.monotonic() + 10  # longer than leads take to leave a full disk
        while time.monotonic() < end:
            assert count(address) >= acknowledged
            assert leader_of(address) == leader_id
        for folder in folders:
            (folder / "filler").unlink()
        with Producer(bootstrap_servers=address, delivery_timeout_ms=40_000) as producer:
            producer.send_and_wait("full", VALUE)
        assert count(address) > acknowledged
        cluster.stop()


def fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass


def test_a_node_without_room_to_start_says_why(small_disk: Path, tmp_path: Path) -> None:
    node = EmbeddedNode(tmp_path / "node", data_dir=str(small_disk / "data"))
    fill_up(small_disk / "filler")
    with pytest.raises(RuntimeError, match="No space left on device"):
        node.start(timeout_s=60)
