"""One supervised process: started in a process group of its own, and never outliving its parent.

The child is started through a few lines of Python that ask the kernel for SIGKILL when the parent
dies, and then become the real program (``exec`` keeps both the request and the process id). Setting
this between fork and exec instead would run Python in a forked child of a process with gRPC's
threads. The kernel watches the *thread* that forked, so one thread that lives as long as the
supervisor starts every process.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_S = 0.02

# argv: the parent's process id, then the program.
_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):  # the parent died before the request
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that configure a node: they would override each
    node's own file."""
    return {
        name: value for name, value in environment.items() if not name.startswith("MILLSTREAM_")
    }


class NodeProcess:
    """A child process with its log file. Not safe for use by several threads at once."""

    def __init__(self, command: Sequence[str], log_path: Path, *, outlive_parent: bool) -> None:
        """``command`` starts with the absolute path of a program."""
        self._command = list(command)
        self._log_path = log_path
        self._outlive_parent = outlive_parent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running, or of the last, process."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last process, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        """True from ``start`` until the process ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the program; its output is added to the log file. Raises OSError, and
        RuntimeError if it runs already."""
        if self.is_running:
            raise RuntimeError(f"{self._log_path.parent.name} is running already")
        command = self._command
        if not self._outlive_parent:
            command = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command]
        with open(self._log_path, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(os.environ),
                # Ctrl-C in the terminal must reach the supervisor only: it stops nodes in order.
                start_new_session=True,
            )

    def terminate(self) -> None:
        """Ask the process to stop (SIGTERM)."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its process group at once (SIGKILL), and reap it."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; True if the process ended in time."""
        if self._process is None:
            return True
        deadline = time.monotonic() + timeout_s
        while self._process.poll() is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def log_tail(self, lines: int) -> list[str]:
        """The last lines of the log."""
        try:
            text = self._log_path.read_text(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-lines:]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        try:
            # The child leads a group of its own, so this can never reach a stranger.
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
