"""``make damage``: files of one broker's log directory are damaged, ROUNDS times.

Every kind of file, every kind of damage, under the broker while it runs, after a kill and after a
clean stop. Meanwhile records are written, and a reader reads all of them again and again. After
each round every replica must be in sync again and the damaged logs sound, without an operator's
help; only a damaged identity makes the broker refuse to start, and it is put back then, or the
whole directory is moved away. In the end everything acknowledged is read, and the replicas are
compared byte for byte.
"""

import collections
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millstream import Admin, Consumer, MillstreamError, NewTopic
from millstream_server.local_cluster.supervisor import LocalCluster
from tests.campaigns.figures import integer, print_result, progress
from tests.cluster.damages import (
    CHANGES,
    LOG_FILES,
    TOP_FILES,
    Damage,
    damaged_folders,
    is_sound,
    log_folder,
)
from tests.cluster.faults.replicas import compare
from tests.cluster.replicated import (
    TOPIC,
    Writer,
    check_nothing_lost,
    partitions,
    wait_in_sync,
    wait_until,
)

PARTITIONS = 6
BROKERS = ("broker-1", "broker-2", "broker-3")
CONFIG = {
    "log.segment.bytes": 65_536,
    "log.scrub.interval.ms": 1000,
    "log.scrub.bytes.per.second": 64 << 20,
}
_PADDING = b"." * 1000
_RECORDS_BEFORE = 1_500
# What a process notices that runs; the other files it reads when it starts.
_LIVE_FILES = ("segment", "offset-index", "time-index")


class Reader(threading.Thread):
    """Reads everything again and again; counts what nobody wrote."""

    def __init__(self, cluster: LocalCluster, writer: Writer) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._writer = writer
        self._stop_asked = threading.Event()
        self.records = 0
        # Values that are wrong for where they stand; and calls that failed.
        self.wrong = 0
        self.errors: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        """Until ``end``."""
        while not self._stop_asked.is_set():
            try:
                self._read_all()
            except MillstreamError as error:
                self.errors[error.code or type(error).__name__] += 1

    def end(self) -> None:
        """Read no more; returns when it has ended."""
        self._stop_asked.set()
        self.join()

    def _read_all(self) -> None:
        servers = self._cluster.bootstrap_servers
        with Consumer(TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
            while not self._stop_asked.is_set():
                batches = consumer.getmany(timeout_ms=1000)
                if not batches:
                    return
                for records in batches.values():
                    for record in records:
                        self.records += 1
                        place = record.partition, record.offset
                        written = self._writer.acknowledged.get(place, record.key)
                        if not record.value == record.key == written:
                            self.wrong += 1


class DamageCampaign:
    """A cluster of three brokers whose topic has three replicas."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self.cluster = LocalCluster.create(
            folder, metadata=1, brokers=3, coordinators=1, config=CONFIG
        )
        self._deck = self._endless([Damage(file, one) for file in LOG_FILES for one in CHANGES])
        self._live = self._endless([Damage(file, one) for file in _LIVE_FILES for one in CHANGES])
        self._top = self._endless([Damage(file, one) for file in TOP_FILES for one in CHANGES])
        self._topic_id = b""
        self._ends: dict[int, int] = {}
        self.cases: collections.Counter[str] = collections.Counter()
        self.by_state: collections.Counter[str] = collections.Counter()
        self.refused = 0

    def _endless(self, cards: list[Damage]) -> Iterator[Damage]:
        while True:
            self._chance.shuffle(cards)
            yield from cards

    def run(self, rounds: int) -> dict[str, Any]:
        """The figures. Raises AssertionError."""
        self.cluster.start()
        self.cluster.wait_ready()
        with Admin(bootstrap_servers=self.cluster.bootstrap_servers) as admin:
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, 3)])
            self._topic_id = admin.describe_topics([TOPIC])[0].topic_id
        wait_in_sync(self.cluster)
        with Writer(self.cluster, padding=_PADDING, pause_s=0.05) as writer:
            writer.wait_for_more(_RECORDS_BEFORE)
            reader = Reader(self.cluster, writer)
            reader.start()
            for number in range(rounds):
                self._round(number)
                writer.wait_for_more(20)
            reader.end()
        wait_in_sync(self.cluster)
        check_nothing_lost(self.cluster, writer)
        set_aside = sum(len(damaged_folders(self.cluster.node(name).folder)) for name in BROKERS)
        self.cluster.stop()
        compared, differences = self._compare(writer)
        return {
            "rounds": rounds,
            "cases": sum(self.cases.values()),
            "repaired": sum(self.cases.values()),
            "set_aside": set_aside,
            "refused_to_start": self.refused,
            "served": reader.wrong,
            "records_read": reader.records,
            "reader_errors": dict(reader.errors),
            "acknowledged": len(writer.acknowledged),
            "lost": 0,
            "spread": differences,
            "compared_bytes": compared,
            "by_state": dict(self.by_state),
            "by_kind": dict(sorted(self.cases.items())),
        }

    def _compare(self, writer: Writer) -> tuple[int, list[str]]:
        folders = {name: self.cluster.node(name).folder for name in BROKERS}
        compared, problems = 0, []
        for number in range(PARTITIONS):
            ends = [offset + 1 for part, offset in writer.acknowledged if part == number]
            size, found = compare(folders, self._topic_id, number, max(ends, default=0))
            compared += size
            problems += found
        return compared, problems

    def _round(self, number: int) -> None:
        name = BROKERS[number % len(BROKERS)]
        state = ("live", "killed", "stopped")[number // len(BROKERS) % 3]
        progress(f"round {number}: {name} {state}")
        if state == "live":
            done = self._damage_logs(name, self._live)
        else:
            self._end(name, signal.SIGKILL if state == "killed" else signal.SIGTERM)
            done = self._damage_logs(name, self._deck) + self._damage_top(name)
            self.cluster.restart(name)
        self.by_state[state] += done
        wait_until(lambda: self._sound(name), f"{name} has sound logs only")
        wait_until(self._all_in_sync, "all in sync, no log damaged")

    def _end(self, name: str, number: signal.Signals) -> None:
        pid = self.cluster.pid(name)
        assert pid is not None
        os.kill(pid, number)
        wait_until(lambda: not self.cluster.is_running(name), f"{name} ended")

    def _damage_logs(self, name: str, deck: Iterator[Damage]) -> int:
        folder = self.cluster.node(name).folder
        done = 0
        for partition in range(PARTITIONS):
            damage = next(deck)
            inner = log_folder(folder, self._topic_id, partition)
            if damage.inflict(inner, self._chance) is not None:
                self.cases[str(damage)] += 1
                done += 1
        return done

    def _damage_top(self, name: str) -> int:
        damage = next(self._top)
        folder = self.cluster.node(name).folder / "data" / "log"
        kept = (folder / "identity").read_bytes()
        path = damage.inflict(folder, self._chance)
        if path is None:
            return 0
        self.cases[str(damage)] += 1
        if damage.file == "identity":
            self.cluster.restart(name)
            wait_until(lambda: not self.cluster.is_running(name), f"{name} refuses to start")
            assert str(path) in self.cluster.node(name).log_path.read_text(errors="replace")
            self.refused += 1
            if self.refused % 2:
                path.write_bytes(kept)
            else:  # as ``deploy/OPERATIONS.md`` says: begin anew, with an empty directory
                folder.rename(folder.with_name(f"log.lost-{self.refused}"))
        return 1

    def _sound(self, name: str) -> bool:
        folder = self.cluster.node(name).folder
        return all(
            is_sound(log_folder(folder, self._topic_id, number)) for number in range(PARTITIONS)
        )

    def _all_in_sync(self) -> bool:
        return all(
            len(one.in_sync_replica_ids) == 3
            and one.leader_id is not None
            and not one.damaged_replica_ids
            for one in partitions(self.cluster)
        )


def damage(rounds: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run the campaign in a folder. Raises AssertionError."""
    campaign = DamageCampaign(folder, seed)
    try:
        return campaign.run(rounds)
    finally:
        campaign.cluster.kill_all()


def main() -> int:
    """See the module's docstring."""
    rounds, seed = integer("ROUNDS", 18), integer("SEED", 1)
    with tempfile.TemporaryDirectory(prefix="millstream-damage-") as folder:
        result = damage(rounds, seed, Path(folder))
    print_result({"seed": seed, **result})
    return int(bool(result["served"] or result["spread"]))


if __name__ == "__main__":
    sys.exit(main())
