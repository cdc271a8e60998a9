"""The supervisor, with small Python programs in place of nodes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream_server.local_cluster.connection import CONNECTION_FILE, read_connection
from millstream_server.local_cluster.plan import ClusterPlan, NodePlan, plan_cluster
from millstream_server.local_cluster.process import child_environment
from millstream_server.local_cluster.supervisor import (
    ClusterStartError,
    LocalCluster,
    UnknownNodeError,
)

# Says that it is ready by a file, and writes how it ended.
PROGRAM = """
import pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (folder / "stopped").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("hello from", folder.name, flush=True)
(folder / "ready").touch()
signal.pause()
"""


def command(node: NodePlan) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(node.folder)]


def ready(node: NodePlan) -> bool:
    return (node.folder / "ready").exists()


def prepare(plan: ClusterPlan) -> None:
    assert all(node.config_path.exists() for node in plan.nodes)


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and not is_zombie(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    plan = plan_cluster(
        tmp_path, range(1, 7), cluster_id="c", metadata=1, brokers=1, coordinators=1
    )
    made = LocalCluster(plan, command=command, ready=ready, prepare=prepare)
    yield made
    made.kill_all()


def test_start_returns_when_every_node_is_ready(cluster: LocalCluster):
    seen: list[int] = []
    cluster.start(progress=lambda count, total: seen.append(count))
    assert all(ready(node) for node in cluster.plan.nodes)
    assert seen[-1] == 3
    assert cluster.ended() == []


def test_stop_is_graceful_and_leaves_no_process(cluster: LocalCluster):
    cluster.start()
    pids = [cluster.pid(node.name) for node in cluster.plan.nodes]
    cluster.stop()
    assert all((node.folder / "stopped").exists() for node in cluster.plan.nodes)
    assert not any(is_alive(pid) for pid in pids)


def test_kill_is_a_crash_and_restart_starts_anew(cluster: LocalCluster):
    cluster.start()
    before = cluster.pid("broker-1")
    cluster.kill("broker-1")
    assert cluster.ended() == ["broker-1"]
    assert not (cluster.node("broker-1").folder / "stopped").exists()
    cluster.restart("broker-1")
    assert cluster.is_running("broker-1")
    assert cluster.pid("broker-1") != before


def test_restart_of_a_running_node_is_refused(cluster: LocalCluster):
    cluster.start()
    with pytest.raises(RuntimeError, match="running already"):
        cluster.restart("broker-1")


def test_an_unknown_node_is_named_with_the_known_ones(cluster: LocalCluster):
    with pytest.raises(UnknownNodeError, match="no node is called broker-9; there are metadata-1"):
        cluster.kill("broker-9")


def test_nodes_do_not_inherit_configuration_from_the_environment():
    kept = child_environment({"PATH": "/bin", "MILLSTREAM_NODE__ID": "9"})
    assert kept == {"PATH": "/bin"}


def test_output_goes_to_a_file_of_each_node(cluster: LocalCluster):
    cluster.start()
    assert cluster.node("broker-1").log_path.read_text() == "hello from broker-1\n"


def test_the_connection_file_names_every_process(cluster: LocalCluster):
    cluster.start()
    told = read_connection(cluster.plan.folder)
    assert told is not None
    assert told["bootstrapServers"] == "127.0.0.1:3"
    assert [(node["name"], node["pid"]) for node in told["nodes"]] == [
        (node.name, cluster.pid(node.name)) for node in cluster.plan.nodes
    ]
    assert json.loads((cluster.plan.folder / CONNECTION_FILE).read_text()) == told


def test_a_node_that_ends_at_once_is_reported_with_its_log(tmp_path: Path):
    def failing(node: NodePlan) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no space left on the disk')"]

    plan = plan_cluster(
        tmp_path, range(1, 7), cluster_id="c", metadata=1, brokers=1, coordinators=1
    )
    with pytest.raises(ClusterStartError, match=r"(?s)ended before.*no space left on the disk"):
        LocalCluster(plan, command=failing, ready=ready, prepare=prepare).start()


def test_a_node_that_is_never_ready_is_reported_and_everything_is_ended(cluster: LocalCluster):
    never = LocalCluster(cluster.plan, command=command, ready=lambda node: False, prepare=prepare)
    with pytest.raises(ClusterStartError, match=r"metadata-1 was not ready after 0\.1 s"):
        never.start(timeout_s=0.1)
    assert len(never.ended()) == 3


def test_nodes_die_with_a_parent_that_is_killed(tmp_path: Path):
    parent = textwrap.dedent(
        """
        import pathlib, signal, sys
        from millstream_server.local_cluster.plan import plan_cluster
        from millstream_server.local_cluster.supervisor import LocalCluster
        plan = plan_cluster(pathlib.Path(sys.argv[1]), range(1, 7), cluster_id="c",
                            metadata=1, brokers=1, coordinators=1)
        sleep = [sys.executable, "-c", "import signal; signal.pause()"]
        cluster = LocalCluster(plan, command=lambda node: sleep, ready=lambda node: True,
                               prepare=lambda plan: None)
        cluster.start()
        print(*(cluster.pid(node.name) for node in plan.nodes), flush=True)
        signal.pause()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert all(wait_until_gone(pid) for pid in pids)


def test_nodes_that_outlive_the_parent_can_be_left_running(tmp_path: Path):
    plan = plan_cluster(
        tmp_path, range(1, 7), cluster_id="c", metadata=1, brokers=1, coordinators=1
    )
    cluster = LocalCluster(plan, command=command, ready=ready, prepare=prepare, outlive_parent=True)
    cluster.start()
    pids = [cluster.pid(node.name) for node in plan.nodes]
    cluster.leave_running()
    try:
        assert all(is_alive(pid) for pid in pids)
    finally:
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_nodes_that_die_with_the_parent_cannot_be_left(cluster: LocalCluster):
    with pytest.raises(RuntimeError, match="outlive_parent"):
        cluster.leave_running()
