"""How often the branches of each rule ran, seen from outside: production code counts nothing for
the simulator. What is seen are steps of the image, the brokers' own counters and their recovery.
"""

from collections import Counter

from millstream_raft.delta import Delta
from millstream_raft.image import PartitionState
from millstream_server.broker.app import BrokerApp
from tests.simulation.world.nodes import BrokerMachine
from tests.simulation.world.world import World

#: What a campaign must have seen at least once, by rule.
WANTED = (
    "1a: controller elected",
    "1a: late forward of a deposed controller",
    "1a: two believed to lead",
    "2: leader changed",
    "3: broker fenced",
    "3: broker registered again",
    "3: broker asked to stop",
    "4: in-sync set grew",
    "4: in-sync set shrank",
    "5: partition without a leader",
    "6: eligible leader kept",
    "6: eligible leaders forgotten",
    "6: damage told",
    "7: last known eligible leader kept",
    "7: logs compared",
    "7: recovering leader elected",
    "7: recovery over",
    "7: recovery of a clean stop",
    "11: NOT_LEADER",
    "11: NOT_ENOUGH_REPLICAS",
    "11: NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "13: FENCED_LEADER_EPOCH",
    "13: UNKNOWN_LEADER_EPOCH",
    "14: log cut to agree with its leader",
    "18: OFFSET_NOT_AVAILABLE",
    "21: OUT_OF_ORDER_SEQUENCE",
    "22: producer compared with its log",
    "32: directory offline",
    "32: STORAGE_ERROR",
    "33: DISK_FULL",
    "34: recovery cut a torn tail",
    "34: recovery found rot",
    "34: recovery of an unclean stop",
    "37: empty directory",
)


class Branches:
    """Counts for one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts: Counter[str] = Counter()
        self._apps: list[BrokerApp] = []
        self._newest = 0
        world.broker_observers.append(self._observe)

    def note(self, branch: str, times: int) -> None:
        """A branch was seen."""
        self._counts[branch] += times

    def _observe(self, machine: BrokerMachine) -> None:
        self._apps.append(machine.app)
        recovery = machine.app.directory.recovery
        if not machine.app.directory.previous_node_epoch:
            self.note("37: empty directory", 1)
        elif machine.app.directory.clean_shutdown:
            self.note("7: recovery of a clean stop", 1)
        else:
            self.note("34: recovery of an unclean stop", 1)
        if recovery.cut_bytes:
            self.note("34: recovery cut a torn tail", 1)
        if recovery.damaged_logs:
            self.note("34: recovery found rot", recovery.damaged_logs)
        machine.view.subscribe(self._image_stepped)

    def _image_stepped(self, delta: Delta) -> None:
        if delta.image.version <= self._newest:
            return
        self._newest = delta.image.version
        before, after = delta.previous, delta.image
        if delta.controller_changed:
            self.note("1a: controller elected", 1)
        for node_id, node in after.nodes.items():
            old = before.nodes.get(node_id)
            if old is None or old is node:
                continue
            if node.fenced and not old.fenced:
                self.note("3: broker fenced", 1)
            if node.epoch != old.epoch:
                self.note("3: broker registered again", 1)
            if node.shutting_down and not old.shutting_down:
                self.note("3: broker asked to stop", 1)
        for topic_id in delta.changed_topic_ids:
            old_topic = before.topics.get(topic_id)
            if old_topic is None:
                continue
            new_topic = after.topics[topic_id]
            for was, now in zip(old_topic.partitions, new_topic.partitions, strict=False):
                if was is not now:
                    self._partition_stepped(was, now)

    def _partition_stepped(self, before: PartitionState, after: PartitionState) -> None:
        steps = {
            "2: leader changed": before.leader_id != after.leader_id,
            "4: in-sync set grew": bool(set(after.isr) - set(before.isr)),
            "4: in-sync set shrank": bool(set(before.isr) - set(after.isr)),
            "5: partition without a leader": after.leader_id is None,
            "6: eligible leader kept": bool(set(after.elr) - set(before.elr)),
            "6: eligible leaders forgotten": bool(before.elr and not after.elr),
            "6: damage told": bool(set(after.damaged) - set(before.damaged)),
            "7: logs compared": len(before.last_known_elr) > 1 and after.leader_id is not None,
            "7: last known eligible leader kept": bool(
                set(after.last_known_elr) - set(before.last_known_elr)
            ),
            "7: recovering leader elected": after.recovering and not before.recovering,
            "7: recovery over": before.recovering and not after.recovering,
            "4: replicas reassigned": before.replicas != after.replicas,
        }
        self._counts.update(name for name, seen in steps.items() if seen)

    def counts(self) -> dict[str, int]:
        """All branches seen."""
        counts = Counter(self._counts)
        counts["22: producer compared with its log"] = counts.pop("producers_compared", 0)
        for app in self._apps:
            for (api, reason), times in app.counters.errors.items():
                rule = _RULES.get(reason, "39")
                counts[f"{rule}: {reason}" if rule != "39" else f"39: {api} {reason}"] += times
            if app.directory.offline_reason is not None:
                counts["32: directory offline"] += 1
        quorum = self._world.quorum.counts
        counts["1a: late forward of a deposed controller"] += quorum.get("late_forwards", 0)
        counts["1a: two believed to lead"] += quorum.get("two_leaders", 0)
        return {name: times for name, times in counts.items() if times}


_RULES = {
    "NOT_LEADER": "11",
    "NOT_ENOUGH_REPLICAS": "11",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND": "11",
    "FENCED_LEADER_EPOCH": "13",
    "UNKNOWN_LEADER_EPOCH": "13",
    "OFFSET_NOT_AVAILABLE": "18",
    "DUPLICATE_SEQUENCE": "21",
    "OUT_OF_ORDER_SEQUENCE": "21",
    "UNKNOWN_PRODUCER": "21",
    "INVALID_PRODUCER_EPOCH": "21",
    "DISK_FULL": "33",
    "STORAGE_ERROR": "32",
    "LOG_DAMAGED": "34",
}
