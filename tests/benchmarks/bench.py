"""``make bench``: rates, CPU and latency of the public API against a cluster of real processes.

Variables: RECORDS (of 100 B; a fifth of it for 1 KiB), REPEAT (medians are printed), SECONDS (of
the latency runs), MODES (flush modes), REPLICAS (of every topic).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from millstream import Admin, NewTopic
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.campaigns.figures import ROOT, cpu_seconds, integer, print_result, progress

PARTITIONS = 3
PRODUCE = ("produce-receipts", "produce-callbacks", "produce-many")
CONSUME = ("consume-getmany", "consume-iterate")


def broker_cpu(cluster: LocalCluster) -> float:
    """CPU seconds of all brokers so far."""
    return sum(
        cpu_seconds(cluster.pid(node.name) or 0) for node in cluster.plan.with_role("broker")
    )


def run_client(workload: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run one workload in a process of its own. Raises RuntimeError with its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.client", workload, json.dumps(parameters)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{workload} failed:\n{done.stderr[-4000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


class Bench:
    """The cluster and the rows so far."""

    def __init__(self, cluster: LocalCluster, replicas: int) -> None:
        self._cluster = cluster
        self._replicas = replicas
        self._admin = Admin(bootstrap_servers=cluster.bootstrap_servers)
        self.rows: list[dict[str, Any]] = []

    def topic(self, name: str, mode: str) -> str:
        """Make a topic led by three brokers; wait until it can be used."""
        configs = {"flush.mode": mode}
        self._admin.create_topics([NewTopic(name, PARTITIONS, self._replicas, configs)])
        self._admin.wait_for_topics([name])
        return name

    def measure(self, workload: str, mode: str, repeat: int, **parameters: Any) -> str:
        """Run a workload ``repeat`` times and keep the medians; return the last topic used."""
        runs = []
        topic = parameters.get("topic", "")
        for attempt in range(repeat):
            if workload not in CONSUME:
                topic = self.topic(f"{workload}-{mode}-{parameters['size']}-{attempt}", mode)
            before = broker_cpu(self._cluster)
            given = {**parameters, "topic": topic, "bootstrap": self._cluster.bootstrap_servers}
            run = run_client(workload, given)
            if "records" in parameters:
                cpu = (broker_cpu(self._cluster) - before) / parameters["records"]
                run["broker_cpu_us_per_record"] = round(cpu * 1e6, 2)
            runs.append(run)
        figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        row = {"system": "millstream", "client": workload, "workload": f"{parameters['size']} B"}
        self.rows.append({**row, "flush_mode": mode, **figures})
        progress("  ".join(f"{key}={value}" for key, value in self.rows[-1].items()))
        return topic


def main() -> int:
    records = integer("RECORDS", 300_000)
    repeat = integer("REPEAT", 1)
    seconds = integer("SECONDS", 10)
    replicas = integer("REPLICAS", 3)
    modes = (os.environ.get("MODES") or "fsync,page_cache").split(",")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        progress("starting 3 metadata nodes, 3 brokers, 1 coordinator")
        with LocalCluster.create(Path(folder), coordinators=1) as cluster:
            cluster.start()
            bench = Bench(cluster, replicas)
            for mode in modes:
                for size, count in ((100, records), (1024, records // 5)):
                    for workload in PRODUCE:
                        topic = bench.measure(workload, mode, repeat, size=size, records=count)
                    if mode == modes[-1]:
                        for workload in CONSUME:
                            bench.measure(
                                workload, mode, repeat, size=size, records=count, topic=topic
                            )
                bench.measure("latency", mode, repeat, size=100, rate=1000, seconds=seconds)
    seconds_all = round(time.monotonic() - begin, 1)
    print_result(
        {
            "records": records,
            "repeat": repeat,
            "replicas": replicas,
            "rows": bench.rows,
            "seconds": seconds_all,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
