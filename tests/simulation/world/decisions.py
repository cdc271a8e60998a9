"""Judges every committed step of the metadata by rules 1 to 7 of the design, from the image before
and after it. It knows the commands, and nothing of how production code decides on them.
"""

from collections.abc import Callable, Iterator
from typing import Any

from millstream_raft.image import FLUSH_FSYNC, Image, PartitionState
from millstream_raft.metadata_state_machine import MetadataStateMachine
from millstream_server.v1 import metadata_command_pb2 as pb

_Found = tuple[str, str]


class Decisions:
    """Told of each step by whichever voter makes it first."""

    def __init__(self) -> None:
        # (name, text) of what may not be.
        self.found: list[_Found] = []
        # The newest state of the metadata.
        self.newest: Image | None = None
        # Called after each step with the images before and after it.
        self.observers: list[Callable[[Image, Image], None]] = []
        # Replicas that came into an in-sync set: (topic id, partition, node id).
        self.joined: set[tuple[bytes, int, int]] = set()
        # Requests that were executed: (session, sequence).
        self._executed: set[tuple[int, int]] = set()

    def stepped(self, data: bytes, before: Image, after: Image) -> None:
        """A voter applied an entry."""
        if after.version <= (self.newest.version if self.newest is not None else 0):
            return  # refused, answered from memory, or known from another voter
        self.newest = after
        entry = pb.MetadataEntry.FromString(data)
        self.found += self._judge_entry(entry, before)
        step = _Step(entry, before, after)
        for topic_id, topic in after.topics.items():
            old = before.topics.get(topic_id)
            for state in topic.partitions:
                name = f"{topic.name}-{state.number}"
                for node_id in (
                    *state.isr,
                    *(() if state.leader_id is None else [state.leader_id]),
                ):
                    node = after.nodes.get(node_id)
                    if node is None or node.fenced:
                        self.found.append(("fenced-in-sync", f"{name}: node {node_id}, {state}"))
                if old is None or state.number >= len(old.partitions):
                    continue
                was = old.partitions[state.number]
                if was != state:
                    joiners = set(state.isr) - set(was.isr)
                    self.joined |= {(topic_id, state.number, one) for one in joiners}
                    self.found += [
                        (kind, f"{name}: {why}: {was} became {state} by {step.kinds}")
                        for kind, why in step.judge(topic_id, was, state)
                    ]
        for observer in self.observers:
            observer(before, after)

    def _judge_entry(self, entry: Any, before: Image) -> Iterator[_Found]:
        elected = any(one.WhichOneof("kind") == "controller_elected" for one in entry.commands)
        if not elected and entry.controller_epoch != before.controller_epoch:
            text = f"epoch {entry.controller_epoch} while it is {before.controller_epoch}"
            yield "deposed-controller-obeyed", text
        if entry.HasField("request_id"):
            key = entry.request_id.session_id, entry.request_id.sequence
            if key in self._executed:
                yield "executed-twice", f"request {key}"
            self._executed.add(key)


class JudgedMachine:
    """The state machine of a voter, each of whose steps is told. See ``consensus.StateMachine``."""

    def __init__(self, machine: MetadataStateMachine, decisions: Decisions) -> None:
        self._machine = machine
        self._decisions = decisions

    def apply(self, index: int, entry: bytes) -> bytes:
        """See ``StateMachine``."""
        before = self._machine.newest_image
        result = self._machine.apply(index, entry)
        self._decisions.stepped(entry, before, self._machine.newest_image)
        return result

    def dump(self) -> bytes:
        """See ``StateMachine``."""
        return self._machine.dump()

    def restore(self, snapshot: bytes) -> None:
        """See ``StateMachine``."""
        self._machine.restore(snapshot)


class _Step:
    """One entry, as the partitions see it."""

    def __init__(self, entry: Any, before: Image, after: Image) -> None:
        self.before = before
        self.after = after
        self.commands = [
            (one.WhichOneof("kind"), getattr(one, one.WhichOneof("kind"))) for one in entry.commands
        ]
        self.kinds = [kind for kind, _ in self.commands]
        self._registered = {body.node_id: body for kind, body in self._of("register_node")}
        self._offline = {body.node_id for _, body in self._of("take_log_directory_offline")}

    def _of(self, *kinds: str) -> list[tuple[str, Any]]:
        return [(kind, body) for kind, body in self.commands if kind in kinds]

    def judge(
        self, topic_id: bytes, was: PartitionState, now: PartitionState
    ) -> Iterator[tuple[str, str]]:
        """What is wrong with a partition's step."""
        own = [
            (kind, body)
            for kind, body in self.commands
            if getattr(body, "topic_id", None) == topic_id
            and getattr(body, "partition", was.number) == was.number
        ]
        yield from self._epochs(own, was, now)
        yield from self._joiners(own, was)
        moved = any("reassign" in kind for kind, _ in own) or was.replicas != now.replicas
        moved |= was.reassignment is not None and set(was.target) <= set(now.isr)
        unclean = any(kind == "elect_leader" and body.unclean for kind, body in own)
        gone = self._gone(own, was)
        yield from self._put_out(own, gone, was, now)
        if not moved and not unclean:
            yield from self._places(gone, was, now)
            if now.leader_id not in (None, was.leader_id):
                yield from self._leader(own, gone, was, now)
        for node_id in gone:
            if node_id in now.isr or node_id in now.elr:
                yield "place-kept", f"node {node_id} may have lost records"

    def _epochs(
        self, own: list[tuple[str, Any]], was: PartitionState, now: PartitionState
    ) -> Iterator[tuple[str, str]]:
        if now.partition_epoch <= was.partition_epoch:
            yield "partition-epoch-not-stepped", "rule 1"
        if now.leader_epoch < was.leader_epoch or (
            now.leader_id != was.leader_id and now.leader_epoch == was.leader_epoch
        ):
            yield "leader-epoch-not-stepped", "rule 2"
        for kind, body in own:
            if "expected_partition_epoch" in body.DESCRIPTOR.fields_by_name and not (
                was.partition_epoch <= body.expected_partition_epoch < now.partition_epoch
            ):
                yield "stale-decision", f"{kind} expected {body.expected_partition_epoch}"

    def _put_out(
        self, own: list[tuple[str, Any]], gone: set[int], was: PartitionState, now: PartitionState
    ) -> Iterator[tuple[str, str]]:
        """A live broker, the former leader perhaps, answers on until it hears. It leaves the
        in-sync set as its leader proposes, or when nobody is elected and all stay eligible."""
        if any(kind == "change_partition" for kind, _ in own):
            return
        left = set(was.isr) - set(now.isr) - gone
        if now.leader_id is None:
            left -= set(now.elr)
        for node_id in left:
            before, after = self.before.nodes.get(node_id), self.after.nodes.get(node_id)
            if before and after and before.epoch == after.epoch and not after.fenced:
                yield "live-member-put-out", f"node {node_id}"

    def _joiners(
        self, own: list[tuple[str, Any]], was: PartitionState
    ) -> Iterator[tuple[str, str]]:
        for kind, body in own:
            if kind != "change_partition":
                continue
            if was.recovering and len(body.in_sync_replica_ids) != 1:
                yield "ineligible-joiner", "the partition recovers"
            epochs = {one.node_id: one.node_epoch for one in body.added}
            for node_id in set(body.in_sync_replica_ids) - set(was.isr):
                node = self.before.nodes.get(node_id)
                if node is None or not node.may_lead or node.epoch != epochs.get(node_id):
                    yield "ineligible-joiner", f"{node} as {epochs.get(node_id)}"

    def _gone(self, own: list[tuple[str, Any]], was: PartitionState) -> set[int]:
        """Replicas that lose their places by rules 6 and 7 in this step."""
        gone = {body.replica.node_id for kind, body in own if kind == "remove_damaged_replica"}
        gone |= self._offline & set(was.replicas)
        for node_id in was.replicas:
            new, old = self._registered.get(node_id), self.before.nodes.get(node_id)
            if new is None or old is None or new.incarnation_id == old.incarnation_id:
                continue
            whole = new.directory_id == old.directory_id and new.previous_epoch >= old.served_epoch
            synced = was.flush_mode == FLUSH_FSYNC and old.served_epoch > was.fsync_after_node_epoch
            if not whole or not (new.clean_shutdown or synced):
                gone.add(node_id)
        return gone

    def _places(
        self, gone: set[int], was: PartitionState, now: PartitionState
    ) -> Iterator[tuple[str, str]]:
        cut = {
            node_id
            for node_id, body in self._registered.items()
            if any(one.partition == was.number for one in body.cut_logs)
        }
        if len(now.isr) >= now.min_isr:
            if now.elr:
                yield "eligible-leaders-kept", "the in-sync set is large enough"
            return
        lost = (set(was.isr) | set(was.elr)) - set(now.isr) - set(now.elr) - gone - cut
        if lost and not now.recovering:
            yield "eligible-leader-lost", f"nodes {sorted(lost)}"

    def _leader(
        self,
        own: list[tuple[str, Any]],
        gone: set[int],
        was: PartitionState,
        now: PartitionState,
    ) -> Iterator[tuple[str, str]]:
        leader = now.leader_id
        assert leader is not None
        live = {one for one, node in self.after.nodes.items() if node.may_lead}
        if leader not in live:
            yield "leader-not-live", f"node {leader}"
        better = [one for one in was.isr if one in live and one not in gone]
        if leader not in was.isr and better:
            yield "leader-from-outside", f"{better} are in sync"
        if leader in was.isr or leader in was.elr:
            return
        if not now.recovering:
            yield "leader-from-outside", "and not recovering"
            return
        members = set(was.last_known_elr)
        if leader not in members:
            members |= gone
        # Whoever tells of damage is compared with no more, and may have been the last to wait for.
        members -= self._offline.union(
            body.replica.node_id for kind, body in own if kind == "remove_damaged_replica"
        )
        ends = {log.node_id: log.end for log in was.recovered_logs}
        for kind, body in own:
            if kind == "note_recovered_log":
                ends[body.replica.node_id] = (body.last_epoch, body.synced_end_offset)
        if leader not in members:
            yield "leader-from-outside", f"it is none of {sorted(members)}"
        elif len(members) > 1 and not members <= set(ends):
            yield "elected-too-early", f"of {sorted(members)} only {sorted(ends)} told their ends"
        elif len(members) > 1 and ends[leader] < max(ends.values()):
            yield "shorter-log-elected", str(ends)
