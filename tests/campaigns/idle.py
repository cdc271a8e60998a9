"""``make idle``: what the embedded node and the demo's cluster cost when nothing happens.

SECONDS is how long each is watched, after five seconds of settling.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from millstream_server.local_cluster.supervisor import LocalCluster
from tests.campaigns.embedded import EmbeddedNode
from tests.campaigns.figures import (
    cpu_seconds,
    integer,
    print_result,
    progress,
    rss_megabytes,
)

_SETTLE_S = 5


def watch(pids: Mapping[str, int], seconds: int) -> dict[str, dict[str, float]]:
    """CPU (percent of one core) and memory of processes over a while."""
    time.sleep(_SETTLE_S)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    begin = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begin
    return {
        name: {
            "cpu_percent": round(100 * (cpu_seconds(pid) - before[name]) / elapsed, 2),
            "rss_mb": round(rss_megabytes(pid), 1),
        }
        for name, pid in pids.items()
    }


def main() -> int:
    seconds = integer("SECONDS", 20)
    with tempfile.TemporaryDirectory(prefix="millstream-idle-") as folder:
        node = EmbeddedNode(Path(folder) / "embedded")
        node.start()
        progress(f"watching the embedded node for {seconds} s")
        embedded = watch({"embedded": node.pid}, seconds)["embedded"]
        node.stop()
        with LocalCluster.create(Path(folder) / "cluster") as cluster:
            cluster.start()
            pids = {each.name: cluster.pid(each.name) or 0 for each in cluster.plan.nodes}
            progress(f"watching a cluster of {len(pids)} processes for {seconds} s")
            processes = watch(pids, seconds)
    total = round(sum(each["cpu_percent"] for each in processes.values()), 2)
    print_result(
        {"embedded": embedded, "cluster_cpu_percent": total, "cluster": processes}
        | {"seconds": seconds}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
