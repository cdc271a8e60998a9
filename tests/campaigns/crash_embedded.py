"""``make crash-embedded``: kill -9 of the embedded node while producing, ROUNDS times at random.

A round counts only if some produce was unanswered at the kill. After every restart the log is read
from its beginning: every acknowledged record must be there, once, and at the offset acknowledged.
The producer lives on across the kills and retries by itself.
"""

import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from millstream import Consumer, MillstreamError, Producer, TopicPartition
from tests.campaigns.embedded import EmbeddedNode
from tests.campaigns.figures import integer, print_result, progress

TOPIC = "crash"
PARTITIONS = 3
_PAUSE_S = 0.0005


@dataclass
class Sent:
    """What the writer handed over and what was acknowledged, by the record's number."""

    handed: int = 0
    acknowledged: dict[int, tuple[int, int]] = field(default_factory=dict)
    failed: int = 0


class Writer(threading.Thread):
    """Produces numbered records until told to stop; never blocks on a dead node for long."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.sent = Sent()
        self.stopping = threading.Event()
        self._producer = Producer(
            bootstrap_servers=address, linger_ms=1, delivery_timeout_ms=120_000
        )

    def run(self) -> None:
        while not self.stopping.is_set():
            number = self.sent.handed
            self.sent.handed += 1

            def delivered(error: MillstreamError | None, record: object, n: int = number) -> None:
                if error is None:
                    self.sent.acknowledged[n] = (record.partition, record.offset)
                else:
                    self.sent.failed += 1

            value = b"%d" % number
            self._producer.produce(TOPIC, value, value, on_delivery=delivered)
            self._producer.poll(0)
            time.sleep(_PAUSE_S)
        self._producer.flush(120)
        self._producer.close()

    @property
    def unanswered(self) -> int:
        return self.sent.handed - len(self.sent.acknowledged) - self.sent.failed


def read_all(address: str) -> dict[int, list[tuple[int, int]]]:
    """Every record in the log: number → places."""
    places: dict[int, list[tuple[int, int]]] = {}
    parts = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    with Consumer(bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        ends = consumer.end_offsets(parts)
        consumer.assign(parts)
        left = {part for part in parts if ends[part] > 0}
        while left:
            for part, records in consumer.getmany(timeout_ms=10_000).items():
                for record in records:
                    places.setdefault(int(record.value), []).append((part.partition, record.offset))
                if consumer.position(part) >= ends[part]:
                    left.discard(part)
    return places


def judge(acknowledged: dict[int, tuple[int, int]], address: str) -> tuple[int, int]:
    """(lost, duplicated) among the records acknowledged so far."""
    places = read_all(address)
    lost = sum(place not in places.get(number, []) for number, place in acknowledged.items())
    duplicated = sum(len(found) > 1 for found in places.values())
    return lost, duplicated


def main() -> int:
    rounds, seed = integer("ROUNDS", 20), integer("SEED", 1)
    rng = random.Random(seed)
    begin = time.monotonic()
    counted = lost = duplicated = attempts = 0
    restarts_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="millstream-crash-") as folder:
        node = EmbeddedNode(Path(folder), num_partitions=PARTITIONS)
        node.start()
        writer = Writer(node.address)
        writer.start()
        try:
            while counted < rounds and attempts < 3 * rounds:
                attempts += 1
                time.sleep(rng.uniform(0.3, 1.5))
                unanswered = writer.unanswered
                node.kill()
                known = dict(writer.sent.acknowledged)
                restarts_ms.append(node.start() * 1000)
                new_lost, new_duplicated = judge(known, node.address)
                lost, duplicated = lost + new_lost, max(duplicated, new_duplicated)
                counted += unanswered > 0
                progress(
                    f"round {counted}/{rounds}: {len(known)} acknowledged, {unanswered} unanswered "
                    f"at the kill, lost {new_lost}, ready again in {restarts_ms[-1]:.0f} ms"
                )
            writer.stopping.set()
            writer.join(150)
            final_lost, duplicated = judge(writer.sent.acknowledged, node.address)
            lost += final_lost
        finally:
            writer.stopping.set()
            node.stop()
    result = {
        "seed": seed,
        "rounds": counted,
        "acknowledged": len(writer.sent.acknowledged),
        "failed": writer.sent.failed,
        "lost": lost,
        "duplicated": duplicated,
        "restart_ms_max": round(max(restarts_ms)),
        "seconds": round(time.monotonic() - begin, 1),
    }
    print_result(result)
    exercised = counted == rounds and result["acknowledged"] > 0
    return 0 if exercised and not lost and not duplicated else 1


if __name__ == "__main__":
    sys.exit(main())
