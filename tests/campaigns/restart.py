"""``make restart``: start-up after kill -9 is bounded by the recovery point, not by the log.

Fills a log with MEGABYTES, kills the node, and compares the start with that of a node that was
killed with a small log. Prints both times.
"""

import sys
import tempfile
from pathlib import Path

from millstream import Producer
from tests.campaigns.embedded import EmbeddedNode
from tests.campaigns.figures import integer, print_result, progress

_VALUE = b"x" * 10_000
_SMALL_MB = 20


def fill(address: str, megabytes: int) -> None:
    """Produce that much, all of it acknowledged."""
    with Producer(bootstrap_servers=address, linger_ms=5, batch_size=1_000_000) as producer:
        for number in range(megabytes):
            producer.send_many("big", [_VALUE] * 100, keys=[b"%d" % number] * 100)
            if number % 200 == 199:
                progress(f"{number + 1} of {megabytes} MB")
        producer.flush()


def restart_after_kill(folder: Path, megabytes: int) -> float:
    """Seconds from starting a killed node until it is ready."""
    node = EmbeddedNode(folder, num_partitions=3)
    node.start()
    fill(node.address, megabytes)
    node.kill()
    seconds = node.start()
    node.stop()
    return seconds


def main() -> int:
    megabytes = integer("MEGABYTES", 2000)
    with tempfile.TemporaryDirectory(prefix="millstream-restart-") as folder:
        small = restart_after_kill(Path(folder) / "small", _SMALL_MB)
        progress(f"{_SMALL_MB} MB: ready after {small:.2f} s")
        large = restart_after_kill(Path(folder) / "large", megabytes)
        progress(f"{megabytes} MB: ready after {large:.2f} s")
    print_result(
        {
            "small_mb": _SMALL_MB,
            "small_restart_ms": round(small * 1000),
            "large_mb": megabytes,
            "large_restart_ms": round(large * 1000),
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
