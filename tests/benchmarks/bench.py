"""``make bench``: rates, CPU and latency of the public API against a cluster of real processes.

Variables: RECORDS (of 100 B; a fifth of it for 1 KiB), REPEAT (medians are printed), SECONDS (of
the latency runs), RATES (of them, records per second), MODES (flush modes), REPLICAS (of every
topic), BARE (0: without the bare path).

Each run is followed by one of the bare path (see ``bare_path``), so that noise hits both; the
ratios are Millstream's median by that of the bare path. Where the machine is too slow for the rate
of a latency row, Millstream's producer puts several records into a request (``request_bytes``) and
the bare path's does not: then the CPU per record says little.
"""

import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from millstream import Admin, NewTopic
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.benchmarks.bare_node import NODES
from tests.benchmarks.bare_path import BarePath
from tests.benchmarks.client import LATENCY_WARM_S
from tests.benchmarks.client_process import run_client
from tests.benchmarks.traffic import Traffic, traffic_of
from tests.campaigns.figures import cpu_seconds, integer, print_result, progress

PARTITIONS = 3
PRODUCE = ("produce-receipts", "produce-callbacks", "produce-many")
CONSUME = ("consume-getmany", "consume-iterate")


def broker_cpu(cluster: LocalCluster) -> float:
    """CPU seconds of all brokers so far."""
    return sum(
        cpu_seconds(cluster.pid(node.name) or 0) for node in cluster.plan.with_role("broker")
    )


class Bench:
    """The cluster and the rows so far."""

    def __init__(self, cluster: LocalCluster, replicas: int) -> None:
        self._cluster = cluster
        self._replicas = replicas
        self._admin = Admin(bootstrap_servers=cluster.bootstrap_servers)
        # Of the produce run before, which is what a consume run reads.
        self._produced = Traffic()
        self._topic = ""
        self.rows: list[dict[str, Any]] = []

    def topic(self, name: str, mode: str) -> str:
        """Make a topic led by three brokers; wait until it can be used."""
        configs = {"flush.mode": mode}
        self._admin.create_topics([NewTopic(name, PARTITIONS, self._replicas, configs)])
        self._admin.wait_for_topics([name])
        return name

    def measure(
        self, workload: str, mode: str, repeat: int, bare: BarePath | None, **parameters: Any
    ) -> None:
        """Run a workload ``repeat`` times, each time also on the bare path, and keep the medians.
        To consume is to read what was produced last."""
        runs, floors = [], []
        for attempt in range(repeat):
            if workload not in CONSUME:
                self._topic = self.topic(f"bench-{len(self.rows)}-{attempt}", mode)
            run, traffic = self._run(workload, **parameters)
            runs.append(run)
            if workload not in CONSUME:
                self._produced = traffic
            if bare is not None:
                floors.append(_run_bare(bare, workload, self._produced, parameters))
        row = {"system": "millstream", "client": workload, "workload": _name(parameters)}
        ours, floor = _medians(runs), _medians(floors)
        self.rows.append({**row, "flush_mode": mode, **ours, **_compare(ours, floor)})
        progress("  ".join(f"{key}={value}" for key, value in self.rows[-1].items()))

    def _run(self, workload: str, **parameters: Any) -> tuple[dict[str, Any], Traffic]:
        given = {**parameters, "topic": self._topic, "bootstrap": self._cluster.bootstrap_servers}
        counted, before = traffic_of(self._cluster), broker_cpu(self._cluster)
        run = run_client("client", workload, given)
        cpu = broker_cpu(self._cluster) - before
        traffic = traffic_of(self._cluster).since(counted)
        run["broker_cpu_us_per_record"] = round(cpu / _records(parameters) * 1e6, 2)
        if traffic.requests:
            run["messages_per_request"] = round(traffic.messages / traffic.requests, 1)
            run["request_bytes"] = round(traffic.bytes_in / traffic.requests)
        return run, traffic


def _name(parameters: dict[str, Any]) -> str:
    rate = f" at {parameters['rate']}/s" if "rate" in parameters else ""
    return f"{parameters['size']} B{rate}"


def _records(parameters: dict[str, Any]) -> int:
    """Records that a workload sends or reads, with those that warm up."""
    if "records" in parameters:
        return int(parameters["records"])
    return int(parameters["rate"] * (parameters["seconds"] + LATENCY_WARM_S))


def _run_bare(
    bare: BarePath, workload: str, traffic: Traffic, parameters: dict[str, Any]
) -> dict[str, Any]:
    if workload == "latency":
        return bare.latency(parameters["rate"], parameters["seconds"], LATENCY_WARM_S, traffic)
    if workload in CONSUME:
        return bare.consume(parameters["records"], traffic)
    return bare.produce(parameters["records"], traffic)


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    if not runs:
        return {}
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def _compare(ours: dict[str, Any], bare: dict[str, Any]) -> dict[str, Any]:
    """The figures of the bare path, and ours divided by them."""
    row = {f"bare_{key}": value for key, value in bare.items()}
    for key, value in bare.items():
        row[f"ratio_{key}"] = round(ours[key] / value, 2) if value else None
    return row


def main() -> int:
    records = integer("RECORDS", 300_000)
    repeat = integer("REPEAT", 1)
    seconds = integer("SECONDS", 10)
    replicas = integer("REPLICAS", 3)
    modes = (os.environ.get("MODES") or "fsync,page_cache").split(",")
    rates = [int(rate) for rate in (os.environ.get("RATES") or "1000,250").split(",")]
    with_bare = integer("BARE", 1) and replicas == NODES
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        progress("starting 3 metadata nodes, 3 brokers, 1 coordinator")
        with LocalCluster.create(Path(folder) / "cluster", coordinators=1) as cluster:
            cluster.start()
            bench = Bench(cluster, replicas)
            for mode in modes:
                path = Path(folder) / f"bare-{mode}"
                with BarePath(path, mode) if with_bare else nullcontext() as bare:
                    workloads = PRODUCE + CONSUME if mode == modes[-1] else PRODUCE
                    for size, count in ((100, records), (1024, records // 5)):
                        for workload in workloads:
                            bench.measure(workload, mode, repeat, bare, size=size, records=count)
                    for rate in rates:
                        bench.measure(
                            "latency", mode, repeat, bare, size=100, rate=rate, seconds=seconds
                        )
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
