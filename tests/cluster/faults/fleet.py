"""The client processes: started, paused, killed and started again; their notes in one folder."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from millstream_server.local_cluster.process import NodeProcess

_END_S = 45.0
_NOTED_S = 90.0


@dataclass
class _Runner:
    role: str
    options: Mapping[str, str]
    starts: int = 0
    process: NodeProcess | None = None


@dataclass
class Fleet:
    """All clients, by name. Processes are made by the thread that makes this."""

    folder: Path
    servers: str
    _clients: dict[str, _Runner] = field(default_factory=dict)

    @property
    def notes(self) -> list[Path]:
        """What they noted so far."""
        return sorted((self.folder / "notes").glob("*.notes"))

    def names(self, *roles: str) -> list[str]:
        """The clients of some roles."""
        return [name for name, one in self._clients.items() if one.role in roles]

    def pids(self) -> Iterator[tuple[int, str]]:
        """Those that run."""
        for name, one in list(self._clients.items()):
            if one.process is not None and one.process.is_running and one.process.pid is not None:
                yield one.process.pid, name

    def start(self, name: str, role: str, **options: str) -> None:
        """Start a new client."""
        (self.folder / "notes").mkdir(parents=True, exist_ok=True)
        self._clients[name] = _Runner(role, options)
        self.restart(name)

    def wait_noted(self, role: str) -> None:
        """Wait until every client of a role has noted something: on a busy machine its process
        takes its time. Raises TimeoutError."""
        deadline_s = time.monotonic() + _NOTED_S
        for name in self.names(role):
            while not any(
                path.name.startswith(f"{name}.") and path.stat().st_size for path in self.notes
            ):
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"{name} noted nothing: {self.obituary(name)}")
                time.sleep(0.05)

    def restart(self, name: str) -> None:
        """Start a client that ended, as another one: it knows nothing of what it did."""
        one = self._clients[name]
        one.starts += 1
        command = [sys.executable, "-m", "tests.cluster.faults.client", one.role]
        command += [str(self.folder / "notes"), f"{name}.{one.starts}", self.servers]
        command += [f"{key}={value}" for key, value in one.options.items()]
        one.process = NodeProcess(command, self.folder / f"{name}.log", outlive_parent=False)
        one.process.start()

    def replace(self, name: str, **options: str) -> None:
        """Kill a client and start it with other options; those not named stay."""
        self.kill(name)
        self._clients[name].options = {**self._clients[name].options, **options}
        self.restart(name)

    def obituary(self, name: str) -> str:
        """How a client ended that should not have."""
        process = self._clients[name].process
        last = [] if process is None else process.log_tail(1)
        return f"{name} ended with {self.exit_code(name)}: {' '.join(last)}"

    def is_running(self, name: str) -> bool:
        """True while its process lives."""
        process = self._clients[name].process
        return process is not None and process.is_running

    def exit_code(self, name: str) -> int | None:
        """Of its last process; None while it runs."""
        process = self._clients[name].process
        return None if process is None else process.exit_code

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a client, if it runs."""
        process = self._clients[name].process
        if process is not None and process.is_running and process.pid is not None:
            os.kill(process.pid, number)

    def rejoin(self, name: str) -> None:
        """Let a member leave its group and join it again; one that has just been started cannot
        be told so yet: it would die."""
        process = self._clients[name].process
        pid = None if process is None else process.pid
        if pid is not None and _catches(pid, signal.SIGUSR1):
            self.signal(name, signal.SIGUSR1)

    def kill(self, name: str) -> None:
        """End a client at once."""
        process = self._clients[name].process
        if process is not None:
            process.kill()

    def end(self, role: str, timeout_s: float = _END_S) -> list[str]:
        """Let all clients of a role end in order; the names of those that had to be killed."""
        names = self.names(role)
        for name in names:
            self.signal(name, signal.SIGTERM)
        deadline_s = time.monotonic() + timeout_s
        stuck = []
        for name in names:
            process = self._clients[name].process
            if process is not None and not process.wait(max(0.1, deadline_s - time.monotonic())):
                process.kill()
                stuck.append(name)
        return stuck

    def kill_all(self) -> None:
        """End everybody at once."""
        for name in self._clients:
            self.kill(name)


def _catches(pid: int, number: signal.Signals) -> bool:
    """True if a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)
