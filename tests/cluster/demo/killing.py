"""Kills nodes of the running cluster, one role after another, and starts them again.

The records are divided into equal shares, one more than there are kills. At the end of each share a
node is killed while records go on flowing; the next share does not end before that node is back.
"""

import threading
import time
from collections.abc import Callable, Sequence

import grpc

from millstream import Admin
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1 import metadata_service_pb2_grpc as metadata_grpc
from millstream_server.local_cluster import LocalCluster
from tests.cluster.quorum_leader import agreed_leader

RESTART_AFTER_S = 3.0
_READY_TIMEOUT_S = 60.0
_RPC_TIMEOUT_S = 10.0


def kill_points(total: int, kills: int) -> list[int]:
    """After how many records each kill happens. Pure."""
    return [total * (number + 1) // (kills + 1) for number in range(kills)]


class Killing:
    """Kills in a thread of its own; ``gate`` holds the producer where it would outrun it."""

    def __init__(
        self,
        cluster: LocalCluster,
        topic: str,
        group: str,
        roles: Sequence[str],
        total: int,
        say: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._topic = topic
        self._group = group
        self._roles = roles
        self._say = say
        self._points = kill_points(total, len(roles))
        self._next = 0
        self._thread: threading.Thread | None = None
        self.failures: list[str] = []
        self.killed: list[str] = []

    def gate(self, sent: int) -> None:
        """Called before every record with the number sent so far."""
        if self._next < len(self._points) and sent >= self._points[self._next]:
            self.finish()
            role = self._roles[self._next]
            self._next += 1
            self._thread = threading.Thread(target=self._kill_and_restart, args=(role,))
            self._thread.start()

    def finish(self) -> None:
        """Wait until the node that was killed last is back."""
        if self._thread is not None:
            self._thread.join()

    def _kill_and_restart(self, role: str) -> None:
        try:
            name = self._victim(role)
            self._cluster.kill(name)
            self.killed.append(name)
            self._say(f"killed {name} with kill -9; it starts again in {RESTART_AFTER_S:g} s")
            time.sleep(RESTART_AFTER_S)
            self._cluster.restart(name)
            self._cluster.wait_ready(_READY_TIMEOUT_S)
            self._say(f"{name} is back")
        except Exception as error:  # noqa: BLE001 - in a thread: the main one reports it
            self.failures.append(f"killing a {role} failed: {type(error).__name__}: {error}")

    def _victim(self, role: str) -> str:
        if role == "metadata":
            return agreed_leader(self._cluster).name
        if role == "broker":
            bootstrap = self._cluster.bootstrap_servers
            with Admin.from_config({"bootstrap.servers": bootstrap}) as admin:
                (topic,) = admin.wait_for_topics([self._topic])
            leader = topic.partitions[0].leader_id
            assert leader is not None  # it was waited for
            return self._cluster.node_by_id(leader).name
        return self._cluster.node_by_id(self._coordinator_id()).name

    def _coordinator_id(self) -> int:
        address = self._cluster.plan.with_role("broker")[0].address
        with grpc.insecure_channel(address) as channel:
            stub = metadata_grpc.MetadataServiceStub(channel)
            request = metadata.FindCoordinatorRequest(group_id=self._group)
            return int(stub.FindCoordinator(request, timeout=_RPC_TIMEOUT_S).node.node_id)
