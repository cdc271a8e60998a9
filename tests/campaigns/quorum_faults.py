"""A real cluster with three metadata nodes, and what can be done to them."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from millstream.v1 import metadata_service_pb2 as pb
from millstream.v1 import metadata_service_pb2_grpc as pb_grpc
from millstream_server.local_cluster import LocalCluster, NodePlan
from millstream_server.local_cluster.readiness import is_ready

SNAPSHOT_ENTRIES = 100
READY_TIMEOUT_S = 60.0
_POLL_S = 0.03
_REFUSAL = "the node cannot run"

Change = Callable[[Path, random.Random], None]


def flip_bit(path: Path, chance: random.Random) -> None:
    """Flip a bit anywhere in a file."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    """Cut a file anywhere."""
    os.truncate(path, chance.randrange(path.stat().st_size))


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to one file of a voter between its kill and its start."""

    file: str
    change: Change

    def __str__(self) -> str:
        return f"{self.change.__name__} of {self.file}"


_RAFT_FILES = ("journal", "vote", "snapshot", "identity")
DAMAGES = (
    *(
        Damage(f"metadata/{file}", change)
        for file in _RAFT_FILES
        for change in (flip_bit, truncate)
    ),
    Damage("node.json", flip_bit),
    Damage("node.json", truncate),
)


class Quorum:
    """Three voters, a broker and a coordinator. Its methods block."""

    def __init__(self, folder: Path) -> None:
        config = {"raft.snapshot.entries": SNAPSHOT_ENTRIES, "log.level": "info"}
        self.cluster = LocalCluster.create(folder, brokers=1, coordinators=1, config=config)
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
            time.sleep(_POLL_S)
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
            time.sleep(_POLL_S)
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
                time.sleep(_POLL_S)

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
            time.sleep(_POLL_S)

    def damage(self, name: str, damage: Damage, chance: random.Random) -> str | None:
        """Kill a voter, damage a file of its and start it again. If it refuses, give back its
        folder as it was at the kill, start it with that, and return what it said. None if it
        started with the damage. Raises RuntimeError if it ended without a clear sentence, and
        TimeoutError if it does neither."""
        node = self.cluster.node(name)
        data, kept = node.folder / "data", node.folder / "kept"
        self.kill(name)
        shutil.copytree(data, kept)
        damage.change(data / damage.file, chance)
        said_before = node.log_path.stat().st_size
        self.restart(name)
        sentence = None
        if not self._starts(node):
            sentence = self._sentence(node, said_before)
            shutil.rmtree(data)
            shutil.copytree(kept, data)
            self.restart(name)
            self.wait_ready()
        shutil.rmtree(kept)
        return sentence

    def _starts(self, node: NodePlan) -> bool:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self.cluster.is_running(node.name):
            if is_ready("127.0.0.1", node.admin_port):
                return True
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{node.name} with damage neither starts nor ends")
            time.sleep(_POLL_S)
        return False

    def _sentence(self, node: NodePlan, said_before: int) -> str:
        said = node.log_path.read_bytes()[said_before:].decode(errors="replace")
        before, _, _ = said.partition(_REFUSAL)
        sentence = next((line for line in said.splitlines() if _REFUSAL in line), "")
        if str(node.folder / "data") not in sentence or "Traceback" in before:
            raise RuntimeError(f"{node.name} ended without a clear sentence:\n{said[-3000:]}")
        return sentence

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
