"""The demo from start to end; see the package."""

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream import Admin, Consumer, NewTopic, TopicPartition
from millstream_server.local_cluster import LocalCluster
from tests.cluster.demo.comparison import Comparison, compare
from tests.cluster.demo.display import Display
from tests.cluster.demo.group_members import GroupMembers
from tests.cluster.demo.killing import Killing
from tests.cluster.demo.log_lines import LogLine, repeat, split_log
from tests.cluster.demo.settings import Settings
from tests.cluster.demo.shipping import Shipping
from tests.cluster.demo.tampering import tamper

TOPIC, GROUP = "logs", "group1"
PARTITIONS = 3
REPLICAS = 3
MEMBERS = ("member-1", "member-2")
DPKG_LOG = Path("/var/log/dpkg.log")
_START_TIMEOUT_S = 90.0
_SHARE_TIMEOUT_S = 60.0
_LOOK_PERIOD_S = 0.1
# Without any record acknowledged or consumed for so long, something hangs.
_STALL_S = 120.0


class DemoError(RuntimeError):
    """The demo cannot go on; the message is for people."""


@dataclass(frozen=True)
class Outcome:
    """What the demo found."""

    comparison: Comparison
    produced: int
    acknowledged: int
    seconds: float
    ack_gap_s_max: float
    leaders: Mapping[int, str]
    readers: Mapping[int, list[str]]
    problems: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """True if every zero is a zero and everything was acknowledged."""
        return self.comparison.is_clean and self.acknowledged == self.produced and not self.problems

    def document(self) -> dict[str, int | float]:
        """The last line of the demo."""
        total = self.comparison.total
        consumed = total("consumed")
        return {
            "produced": self.produced,
            "acknowledged": self.acknowledged,
            "consumed": consumed,
            "lost": total("lost"),
            "duplicated": total("duplicated"),
            "redelivered": total("redelivered"),
            "out_of_order": total("out_of_order"),
            "committed_lag": total("committed_lag"),
            "records_per_second": round(consumed / self.seconds) if self.seconds else 0,
            "seconds": round(self.seconds, 3),
            "ack_gap_ms_max": round(1000 * self.ack_gap_s_max),
        }


class Demo:
    """One run. Everything it starts it ends, unless it is to be kept."""

    def __init__(self, settings: Settings, display: Display) -> None:
        self._settings = settings
        self._display = display
        self.folder = Path(tempfile.mkdtemp(prefix="millstream-demo-"))
        self.cluster = LocalCluster.create(self.folder / "cluster", outlive_parent=settings.keep)
        self._members = GroupMembers(
            self.folder, MEMBERS, self.cluster.bootstrap_servers, TOPIC, GROUP
        )
        self._stopped = threading.Event()

    def run(self) -> Outcome:
        """Do it. Raises DemoError, ClusterStartError, MemberFailedError and MillstreamError."""
        say = self._display.say
        counts = len(self.cluster.plan.nodes)
        say(f"starting {counts} processes in {self.folder}")
        self.cluster.start(_START_TIMEOUT_S)
        leaders = self._create_topic()
        say(
            f"topic {TOPIC} has {PARTITIONS} partitions with {REPLICAS} replicas each, led by "
            f"{', '.join(leaders.values())}"
        )
        lines = self._read_lines()
        self._members.start()
        self._members.wait_until_shared(_SHARE_TIMEOUT_S)
        say(f"{len(MEMBERS)} members of {GROUP} share the partitions")
        bootstrap = self.cluster.bootstrap_servers
        settings = self._settings
        killing = Killing(
            self.cluster, TOPIC, GROUP, settings.kill, settings.records, self._display.say
        )
        shipping = Shipping(bootstrap, TOPIC, killing.gate, self._stopped)
        began = time.monotonic()
        self._ship(shipping, lines)
        killing.finish()
        seconds = time.monotonic() - began
        problems = [*killing.failures, *shipping.failures[:3], *self._members.stop()]
        self._display.close()
        deliveries = self._members.deliveries()
        if settings.tamper:
            say(f"spoiling seven of the records read: {settings.tamper}")
            deliveries = tamper(settings.tamper, deliveries)
        committed, ends = self._offsets()
        comparison = compare(
            shipping.sent,
            deliveries,
            committed,
            ends,
            excuse_redelivery=settings.excuse_redelivery,
        )
        return Outcome(
            comparison=comparison,
            produced=len(shipping.sent),
            acknowledged=shipping.sent.acknowledged,
            seconds=seconds,
            ack_gap_s_max=shipping.ack_gap_s_max,
            leaders=leaders,
            readers=self._members.readers(),
            problems=tuple(problems),
        )

    def close(self) -> None:
        """Stop and remove everything, or leave the cluster running if it is to be kept."""
        self._stopped.set()
        self._display.close()
        self._members.kill()
        if self._settings.keep and not self.cluster.ended():
            self.cluster.leave_running()
            return
        self.cluster.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def abort(self) -> None:
        """End everything at once; what ``close`` does gracefully."""
        self._stopped.set()
        self.cluster.kill_all()
        self._members.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _create_topic(self) -> dict[int, str]:
        with Admin.from_config({"bootstrap.servers": self.cluster.bootstrap_servers}) as admin:
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, REPLICAS)])
            (topic,) = admin.wait_for_topics([TOPIC])
        leaders = {
            partition.partition: self.cluster.node_by_id(partition.leader_id).name
            for partition in topic.partitions
            if partition.leader_id is not None
        }
        if len(set(leaders.values())) != PARTITIONS:
            raise DemoError(f"the partitions are not led by different brokers: {leaders}")
        return leaders

    def _read_lines(self) -> list[LogLine]:
        paths = [Path(path) for path in self._settings.logs]
        if not paths:
            paths = [node.log_path for node in self.cluster.plan.nodes]
            paths += [DPKG_LOG] if DPKG_LOG.exists() else []
        lines: list[LogLine] = []
        for path in paths:
            source = path.parent.name if path.name == "node.log" else path.name
            try:
                found = split_log(source, path.read_bytes())
            except OSError as error:
                raise DemoError(f"cannot read {path}: {error.strerror}") from None
            lines.extend(found)
        if not lines:
            raise DemoError(f"no log lines in {', '.join(map(str, paths))}")
        self._display.say(f"shipping {len(lines)} lines of {len(paths)} logs, repeated")
        return lines

    def _ship(self, shipping: Shipping, lines: list[LogLine]) -> None:
        """Ship in a thread; watch until everything acknowledged was consumed."""
        error: list[BaseException] = []

        def work() -> None:
            try:
                shipping.run(repeat(lines, self._settings.records))
            except BaseException as raised:  # noqa: BLE001 - raised again below
                error.append(raised)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        progress, moved_at = (0, 0), time.monotonic()
        while True:
            finished = not thread.is_alive()
            if error:
                raise error[0]
            self._members.check()
            now = (shipping.acknowledged, self._members.count_new())
            self._display.show(*now)
            if finished and now[1] >= now[0]:
                return
            if now != progress:
                progress, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > _STALL_S:
                self._display.say(f"nothing moved for {_STALL_S:g} s: giving up")
                self._stopped.set()
                return
            time.sleep(_LOOK_PERIOD_S)

    def _offsets(self) -> tuple[dict[int, int], dict[int, int]]:
        """Committed offsets of the group, and ends of the logs, by partition."""
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        config = {"bootstrap.servers": self.cluster.bootstrap_servers}
        with Admin.from_config(config) as admin:
            committed = admin.list_group_offsets(GROUP)
        with Consumer.from_config(config) as consumer:
            ends = consumer.end_offsets(partitions)
        return (
            {place.partition: found.offset for place, found in committed.items()},
            {place.partition: end for place, end in ends.items()},
        )
