"""The bare path: the least that three gRPC processes in Python must do to move our messages.

Same machine, same run, same numbers and sizes of messages as Millstream just made: the client sends
a batch to a leader, which pushes it to two followers and writes it; they write and report; the
leader answers the client and sends the bytes to whoever reads. Raw bytes on ``grpc.aio`` streams,
one file per partition and process, ``pwritev`` on the loop (page_cache) or with ``fdatasync`` on
one thread per process (fsync). No records, metadata, checks, CRCs, producers' sequences, elections,
retention, metrics. It is a floor, not a competitor: it loses data at the first failure. What
Millstream takes more than this is what its guarantees, and its waste, cost.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.benchmarks.bare_node import NODES
from tests.benchmarks.client_process import run_client
from tests.benchmarks.traffic import Traffic
from tests.campaigns.figures import ROOT, cpu_seconds

_STOP_TIMEOUT_S = 10


class BarePath:
    """Three processes of one flush mode. Ends them when it is left."""

    def __init__(self, folder: Path, flush_mode: str) -> None:
        folder.mkdir()
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.bare_node",
                    str(number),
                    str(folder),
                    flush_mode,
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # As our nodes run: the kernel shares the processors out between sessions.
                start_new_session=True,
            )
            for number in range(NODES)
        ]
        self._ports: list[int] = []

    def __enter__(self) -> "BarePath":
        for process in self._processes:
            assert process.stdout is not None
            self._ports.append(int(process.stdout.readline()))
        for process in self._processes:
            self._say(process, json.dumps(self._ports))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait(_STOP_TIMEOUT_S)

    def _say(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()

    def produce(self, records: int, traffic: Traffic) -> dict[str, Any]:
        """The same traffic as of Millstream's run, spread over the leaders."""
        each = math.ceil(traffic.requests / NODES)
        size = math.ceil(traffic.bytes_in / NODES / each)
        return self._run("produce", records, message_bytes=size, messages_each=each)

    def consume(self, records: int, traffic: Traffic) -> dict[str, Any]:
        """The bytes of that traffic again; they must have been produced last."""
        return self._run("consume", records, bytes_each=traffic.bytes_in // NODES)

    def latency(self, rate: int, seconds: int, warm_s: int, traffic: Traffic) -> dict[str, Any]:
        """A message per record, of the size that a record has in Millstream's log."""
        records = rate * (seconds + warm_s)
        return self._run(
            "latency",
            records,
            rate=rate,
            warm=rate * warm_s,
            total=records,
            message_bytes=math.ceil(traffic.bytes_in / records),
        )

    def _cpu(self) -> float:
        return sum(cpu_seconds(process.pid) for process in self._processes)

    def _run(self, workload: str, records: int, **parameters: Any) -> dict[str, Any]:
        """Run a workload in a process of its own. Raises RuntimeError with its errors."""
        before = self._cpu()
        row = run_client("bare_client", workload, {"ports": self._ports, **parameters})
        row["broker_cpu_us_per_record"] = round((self._cpu() - before) / records * 1e6, 2)
        if "seconds" in row:
            row["records_per_second"] = round(records / row.pop("seconds"))
        return row
