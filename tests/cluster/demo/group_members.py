"""The two members of the group as processes, and what they were given."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from millstream_server.local_cluster import NodeProcess
from tests.cluster.demo.delivery_file import DeliveryFile, merge
from tests.cluster.demo.ledger import Deliveries

_REPOSITORY = Path(__file__).resolve().parents[3]
_POLL_S = 0.05
_STOP_TIMEOUT_S = 45.0
# In the directory of the repository, for the program is part of the tests.
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from tests.cluster.demo.member import main; main(sys.argv[1:])"
)


class MemberFailedError(RuntimeError):
    """A member ended by itself, or got no partition in time; shows the end of its log."""


class GroupMembers:
    """Starts, watches and stops the members."""

    def __init__(
        self, folder: Path, names: Sequence[str], bootstrap: str, topic: str, group: str
    ) -> None:
        self.names = tuple(names)
        self._files = {name: DeliveryFile(folder / f"{name}.rows") for name in names}
        self._status = {name: folder / f"{name}.status" for name in names}
        self._processes = {
            name: NodeProcess(
                [
                    sys.executable, "-c", _RUN, str(_REPOSITORY), bootstrap, topic, group,
                    str(folder / f"{name}.rows"), str(self._status[name]),
                ],
                folder / f"{name}.log",
                outlive_parent=False,
            )
            for name in names
        }  # fmt: skip
        self._seen = bytearray()
        self.distinct = 0

    def start(self) -> None:
        """Start the members. From the thread that lives as long as the program: they die with
        it."""
        for process in self._processes.values():
            process.start()

    def wait_until_shared(self, timeout_s: float) -> None:
        """Wait until every member owns a partition. Raises MemberFailedError."""
        deadline = time.monotonic() + timeout_s
        while not all(self._owned(name) > 0 for name in self.names):
            self.check()
            if time.monotonic() >= deadline:
                owned = ", ".join(f"{name} owns {self._owned(name)}" for name in self.names)
                raise MemberFailedError(
                    f"the partitions are not shared after {timeout_s:g} s: {owned}"
                )
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise MemberFailedError if a member ended."""
        for name, process in self._processes.items():
            if not process.is_running:
                tail = "\n  ".join(process.log_tail(8))
                raise MemberFailedError(f"{name} ended with {process.exit_code}:\n  {tail}")

    def count_new(self) -> int:
        """Look at what the members were given; the number of different records so far."""
        for file in self._files.values():
            for record_id in file.read_new():
                if record_id >= len(self._seen):
                    self._seen.extend(bytes(record_id + 1 - len(self._seen)))
                if record_id >= 0 and not self._seen[record_id]:
                    self._seen[record_id] = 1
                    self.distinct += 1
        return self.distinct

    def stop(self) -> list[str]:
        """Let the members commit and leave; what went wrong, if anything."""
        problems = []
        for process in self._processes.values():
            process.terminate()
        for name, process in self._processes.items():
            if not process.wait(_STOP_TIMEOUT_S):
                problems.append(f"{name} did not stop")
                process.kill()
            elif process.exit_code:
                tail = "\n  ".join(process.log_tail(8))
                problems.append(f"{name} ended with {process.exit_code}:\n  {tail}")
        self.count_new()
        return problems

    def kill(self) -> None:
        """End the members at once."""
        for process in self._processes.values():
            process.kill()

    def deliveries(self) -> Deliveries:
        """Everything the members were given, in order."""
        return merge(self._files.values())

    def readers(self) -> dict[int, list[str]]:
        """By partition, the members that read it."""
        out: dict[int, list[str]] = {}
        for name, file in self._files.items():
            for partition in file.partitions():
                out.setdefault(partition, []).append(name)
        return out

    def _owned(self, name: str) -> int:
        try:
            return int(self._status[name].read_text())
        except (FileNotFoundError, ValueError):
            return 0
