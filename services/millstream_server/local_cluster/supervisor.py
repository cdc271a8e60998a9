"""Starts, watches, kills and stops the processes of a local cluster."""

import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from millstream_server.local_cluster.connection import write_connection
from millstream_server.local_cluster.plan import (
    PORTS_PER_NODE,
    ClusterPlan,
    NodePlan,
    plan_cluster,
    port_count,
)
from millstream_server.local_cluster.ports import ReservedPorts
from millstream_server.local_cluster.process import NodeProcess
from millstream_server.local_cluster.readiness import is_ready

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.05
_LOG_LINES_SHOWN = 5

# Metadata nodes go last: brokers and coordinators hand over through them.
_STOP_ORDER = ("coordinator", "broker", "metadata")


class ClusterStartError(RuntimeError):
    """A node ended or was not ready in time; the message shows the end of its log."""


class UnknownNodeError(KeyError):
    """The cluster has no node of this name."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name)
        self.message = f"no node is called {name}; there are {', '.join(known)}"

    def __str__(self) -> str:
        return self.message


def serve_command(node: NodePlan) -> list[str]:
    """The command of a real node."""
    return [
        sys.executable,
        "-m",
        "millstream_server.cli",
        "serve",
        "--config",
        str(node.config_path),
    ]


def admin_port_is_ready(node: NodePlan) -> bool:
    """Readiness of a real node."""
    return is_ready("127.0.0.1", node.admin_port)


def format_folders(plan: ClusterPlan) -> None:
    """Make the data folders of real nodes; see ``formatting``."""
    # Imported here, for it needs the whole server, which the parts around it do not.
    from millstream_server.local_cluster.formatting import format_nodes

    format_nodes(plan)


class LocalCluster:
    """The processes of one plan. All methods may be called from any thread, one at a time.

    Without ``outlive_parent`` the kernel kills every node when this process ends, however it ends.
    """

    def __init__(
        self,
        plan: ClusterPlan,
        *,
        command: Callable[[NodePlan], list[str]] = serve_command,
        ready: Callable[[NodePlan], bool] = admin_port_is_ready,
        prepare: Callable[[ClusterPlan], None] = format_folders,
        outlive_parent: bool = False,
        ports: ReservedPorts | None = None,
    ) -> None:
        """``ports`` is closed by ``stop``; see ``create``, which makes it."""
        self.plan = plan
        self._ports = ports
        self._command = command
        self._ready = ready
        self._prepare = prepare
        self._outlive_parent = outlive_parent
        self._lock = threading.RLock()
        self._processes: dict[str, NodeProcess] = {}
        # Its one thread is the "parent" that the kernel watches; see `process`.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="node-starter")

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        metadata: int = 3,
        brokers: int = 3,
        coordinators: int = 2,
        broker_ports: Sequence[int] = (),
        ports: Sequence[int] = (),
        cluster_id: str = "",
        config: Mapping[str, Any] | None = None,
        node_configs: Mapping[int, Mapping[str, Any]] | None = None,
        outlive_parent: bool = False,
    ) -> "LocalCluster":
        """Plan a cluster on free loopback ports, which stay reserved until ``stop``; starts
        nothing.

        ``broker_ports`` are the gRPC ports wanted for the first brokers; ``ports``, if given, are
        all ports, as ``plan_cluster`` takes them. ``config`` is added to every node's
        configuration, keyed by dotted names; ``node_configs`` to that of single nodes, by their
        ids. Raises PortsTakenError and ValueError.
        """
        wanted = list(ports) or [0] * port_count(metadata, brokers, coordinators)
        for index, port in enumerate(broker_ports[:brokers]):
            wanted[PORTS_PER_NODE * (metadata + index)] = port
        reserved = ReservedPorts()
        try:
            plan = plan_cluster(
                folder.absolute(),
                reserved.take_all(wanted),
                cluster_id=cluster_id or str(uuid.uuid4()),
                metadata=metadata,
                brokers=brokers,
                coordinators=coordinators,
                config=config,
                node_configs=node_configs,
            )
        except BaseException:
            reserved.close()
            raise
        return cls(plan, outlive_parent=outlive_parent, ports=reserved)

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the brokers, as clients take them."""
        return self.plan.bootstrap_servers

    def node(self, name: str) -> NodePlan:
        """A node by name. Raises UnknownNodeError."""
        for node in self.plan.nodes:
            if node.name == name:
                return node
        raise UnknownNodeError(name, [node.name for node in self.plan.nodes])

    def node_by_id(self, node_id: int) -> NodePlan:
        """A node by id. Raises UnknownNodeError."""
        for node in self.plan.nodes:
            if node.node_id == node_id:
                return node
        raise UnknownNodeError(str(node_id), [str(node.node_id) for node in self.plan.nodes])

    def start(
        self,
        timeout_s: float = START_TIMEOUT_S,
        progress: Callable[[int, int], None] = lambda ready, total: None,
    ) -> None:
        """Start all nodes and wait until each is ready. Raises ClusterStartError, or whatever
        ``prepare`` raises; then nothing runs any more. ``progress`` gets the number of ready
        nodes and of all nodes."""
        try:
            for node in self.plan.nodes:
                self._write(node)
            # On the starter thread, for the caller may have an event loop on its own.
            self._starter.submit(self._prepare, self.plan).result()
            for node in self.plan.nodes:
                self._launch(node)
            self._write_connection()
            self.wait_ready(timeout_s, progress)
        except BaseException:
            self.kill_all()
            raise

    def wait_ready(
        self,
        timeout_s: float = START_TIMEOUT_S,
        progress: Callable[[int, int], None] = lambda ready, total: None,
    ) -> None:
        """Wait until every node is ready. Raises ClusterStartError if one ended or time is up."""
        deadline = time.monotonic() + timeout_s
        waiting = list(self.plan.nodes)
        while waiting:
            for node in waiting:
                if not self.is_running(node.name):
                    raise ClusterStartError(self._obituary(node, "ended before it was ready"))
            waiting = [node for node in waiting if not self._ready(node)]
            progress(len(self.plan.nodes) - len(waiting), len(self.plan.nodes))
            if waiting and time.monotonic() >= deadline:
                raise ClusterStartError(
                    self._obituary(waiting[0], f"was not ready after {timeout_s:g} s")
                )
            if waiting:
                time.sleep(_POLL_S)

    def is_running(self, name: str) -> bool:
        """True while the node's process runs. Raises UnknownNodeError."""
        self.node(name)
        with self._lock:
            process = self._processes.get(name)
            return process is not None and process.is_running

    def pid(self, name: str) -> int | None:
        """Process id of a node; None before its start. Raises UnknownNodeError."""
        self.node(name)
        with self._lock:
            process = self._processes.get(name)
            return None if process is None else process.pid

    def ended(self) -> list[str]:
        """Names of the nodes whose process ended."""
        return [node.name for node in self.plan.nodes if not self.is_running(node.name)]

    def kill(self, name: str) -> None:
        """End a node at once, as a crash would (SIGKILL). Raises UnknownNodeError."""
        self.node(name)
        with self._lock:
            if name in self._processes:
                self._processes[name].kill()

    def restart(self, name: str) -> None:
        """Start a node that ended or was killed. Does not wait until it is ready. Raises
        UnknownNodeError, and RuntimeError if it runs."""
        self._launch(self.node(name))
        self._write_connection()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop every node gracefully, metadata nodes last; kill what does not stop in time."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            for role in _STOP_ORDER:
                ours = [
                    self._processes[node.name]
                    for node in self.plan.with_role(role)
                    if node.name in self._processes
                ]
                for process in ours:
                    process.terminate()
                for process in ours:
                    if not process.wait(max(0.0, deadline - time.monotonic())):
                        process.kill()
        self._release()

    def kill_all(self) -> None:
        """End every node at once."""
        with self._lock:
            for process in self._processes.values():
                process.kill()
        self._release()

    def leave_running(self) -> None:
        """Forget the processes; needs ``outlive_parent``. Raises RuntimeError without it."""
        if not self._outlive_parent:
            raise RuntimeError("these nodes die with this process: start with outlive_parent")
        with self._lock:
            self._processes.clear()
        self._release()

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _release(self) -> None:
        self._starter.shutdown(wait=False)
        if self._ports is not None:
            self._ports.close()

    def _write(self, node: NodePlan) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        node.config_path.write_text(node.toml())

    def _launch(self, node: NodePlan) -> None:
        with self._lock:
            process = self._processes.get(node.name)
            if process is None:
                process = NodeProcess(
                    self._command(node), node.log_path, outlive_parent=self._outlive_parent
                )
                self._processes[node.name] = process
            self._starter.submit(process.start).result()

    def _write_connection(self) -> None:
        pids = {node.name: self.pid(node.name) for node in self.plan.nodes}
        write_connection(self.plan, pids)

    def _obituary(self, node: NodePlan, what: str) -> str:
        with self._lock:
            process = self._processes.get(node.name)
        tail = [] if process is None else process.log_tail(_LOG_LINES_SHOWN)
        shown = "".join(f"\n  {line}" for line in tail)
        return f"{node.name} {what}; the end of {node.log_path}:{shown}"
