"""A real cluster with three metadata nodes, and what can be done to them."""

import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc

from millstream.v1 import metadata_service_pb2 as pb
from millstream.v1 import metadata_service_pb2_grpc as pb_grpc
from millstream_server.local_cluster import LocalCluster, NodePlan, ReservedPorts
from millstream_server.local_cluster.plan import plan_cluster, port_count
from millstream_server.local_cluster.readiness import is_ready
from millstream_server.local_cluster.supervisor import serve_command

SNAPSHOT_ENTRIES = 100
READY_TIMEOUT_S = 60.0
POLL_S = 0.03


class Quorum:
    """Three voters, a broker and a coordinator. Its methods block."""

    def __init__(
        self, folder: Path, command: Callable[[NodePlan], list[str]] = serve_command
    ) -> None:
        """``command`` starts a node."""
        config = {"raft.snapshot.entries": SNAPSHOT_ENTRIES, "log.level": "info"}
        ports = ReservedPorts()
        plan = plan_cluster(
            folder,
            ports.take_all([0] * port_count(3, 1, 1)),
            cluster_id=str(uuid.uuid4()),
            brokers=1,
            coordinators=1,
            config=config,
        )
        self.cluster = LocalCluster(plan, command=command, ports=ports)
        self.voters = self.cluster.plan.with_role("metadata")
        broker = self.cluster.plan.with_role("broker")[0]
        self.broker_address = broker.address
        self._channel = grpc.insecure_channel(broker.address)
        self._metadata = pb_grpc.MetadataServiceStub(self._channel)

    @property
    def addresses(self) -> list[str]:
        """Where the public metadata API is served: every node does."""
        return [node.address for node in self.cluster.plan.nodes]

    def start(self) -> None:
        """Start everything. Raises ClusterStartError."""
        self.cluster.start()

    def stop(self) -> None:
        """End everything at once."""
        self._channel.close()
        self.cluster.kill_all()

    def leader(self, timeout_s: float = READY_TIMEOUT_S) -> str:
        """Name of the voter that leads. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            quorum = self._describe()
            names = [one.name for one in self.voters if one.node_id == quorum.leader_id]
            if names and self.cluster.is_running(names[0]):
                return names[0]
            time.sleep(POLL_S)
        raise TimeoutError(f"no leader after {timeout_s:g} s")

    def wait_caught_up(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every voter has nearly all of the leader's log. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            nodes = self._describe().nodes
            if len(nodes) == len(self.voters) and all(
                one.connected and one.HasField("lag") and one.lag < 20 for one in nodes
            ):
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"a voter lags after {timeout_s:g} s")

    def kill(self, *names: str) -> None:
        """kill -9 of voters, one right after the other."""
        for name in names:
            self.cluster.kill(name)

    def restart(self, *names: str) -> None:
        """Start voters that were killed; see ``wait_ready``."""
        for name in names:
            self.cluster.restart(name)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every voter is ready. Raises TimeoutError or RuntimeError."""
        deadline = time.monotonic() + timeout_s
        for node in self.voters:
            while not is_ready("127.0.0.1", node.admin_port):
                if not self.cluster.is_running(node.name):
                    raise RuntimeError(f"{node.name} ended: {self._log_end(node)}")
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{node.name} is not ready after {timeout_s:g} s")
                time.sleep(POLL_S)

    def pause(self, name: str) -> None:
        """SIGSTOP of a voter."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT of a voter."""
        self._signal(name, signal.SIGCONT)

    def wait_snapshots(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every voter wrote a snapshot, or nothing of compaction was exercised.
        Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        files = [node.folder / "data/metadata/snapshot" for node in self.voters]
        while not all(file.exists() for file in files):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"a voter wrote no snapshot within {timeout_s:g} s")
            time.sleep(POLL_S)

    def _log_end(self, node: NodePlan) -> str:
        return "\n".join(node.log_path.read_text(errors="replace").splitlines()[-5:])

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self.cluster.pid(name)
        assert pid is not None
        os.kill(pid, number)

    def _describe(self) -> pb.DescribeQuorumResponse:
        try:
            return self._metadata.DescribeQuorum(
                pb.DescribeQuorumRequest(), timeout=2, wait_for_ready=True
            )
        except grpc.RpcError:
            return pb.DescribeQuorumResponse()
