"""One real node with all three roles as a process, to be killed and started again."""

import asyncio
import copy
import sys
import time
import uuid
import weakref
from pathlib import Path
from typing import Any

from millstream_server.local_cluster import ReservedPorts
from millstream_server.local_cluster.process import NodeProcess
from millstream_server.local_cluster.readiness import is_ready
from millstream_server.node.config_sources import load_config
from millstream_server.node.format import format_folder, inspect_peers
from millstream_server.runtime.system import SystemFiles

_POLL_S = 0.01


class EmbeddedNode:
    """Formats a folder, then runs ``millstream serve`` in it. Not running after construction."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self._ports = ReservedPorts()
        port, self.admin_port = self._ports.take_all([0, 0])
        weakref.finalize(self, self._ports.close)
        self.folder = folder
        self.address = f"127.0.0.1:{port}"
        self.log_path = folder / "node.log"
        folder.mkdir(parents=True, exist_ok=True)
        keys: dict[str, Any] = {
            "data.dir": str(folder / "data"),
            "listeners": self.address,
            "admin.listener": f"127.0.0.1:{self.admin_port}",
            "auto.create.topics.enable": True,
            "log.format": "json",
            **{key.replace("_", "."): value for key, value in config.items()},
        }
        loaded = load_config(None, {}, keys).config
        asyncio.run(format_folder(loaded, SystemFiles(), lambda: str(uuid.uuid4()), inspect_peers))
        self._keys = keys
        self._process = self._prepare(keys)

    def _prepare(self, keys: dict[str, Any]) -> NodeProcess:
        flags = [word for key, value in keys.items() for word in ("-X", f"{key}={value}")]
        command = [sys.executable, "-m", "millstream_server.cli", "serve", *flags]
        return NodeProcess(command, self.log_path, outlive_parent=False)

    def sibling(self) -> "EmbeddedNode":
        """Another process on the same folder with ports of its own, not running."""
        other = copy.copy(self)
        port, other.admin_port = self._ports.take_all([0, 0])
        other.address = f"127.0.0.1:{port}"
        other.log_path = self.folder / "sibling.log"
        ports = {
            "listeners": other.address,
            "admin.listener": f"127.0.0.1:{other.admin_port}",
        }
        other._process = other._prepare({**self._keys, **ports})
        return other

    @property
    def pid(self) -> int:
        """Process id while it runs. Raises RuntimeError otherwise."""
        pid = self._process.pid
        if pid is None:
            raise RuntimeError("the node does not run")
        return pid

    def start(self, timeout_s: float = 120.0) -> float:
        """Start and wait until it is ready; return the seconds that this took.

        Raises RuntimeError with the end of the node's log if it ends or is not ready in time.
        """
        begin = time.monotonic()
        self._process.start()
        while not is_ready("127.0.0.1", self.admin_port):
            if not self._process.is_running or time.monotonic() - begin > timeout_s:
                tail = "\n".join(self._process.log_tail(20))
                raise RuntimeError(f"the node did not become ready:\n{tail}")
            time.sleep(_POLL_S)
        return time.monotonic() - begin

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.wait(10)

    def stop(self, timeout_s: float = 60.0) -> bool:
        """Stop gracefully; True if it ended in time."""
        self._process.terminate()
        if self._process.wait(timeout_s):
            return True
        self.kill()
        return False
