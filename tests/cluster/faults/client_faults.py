"""Faults of membership and of clients (F19, F20)."""

import signal
import time
from random import Random

from millstream import (
    Admin,
    Consumer,
    MillstreamError,
    NewTopic,
    OffsetSpec,
    Producer,
    TopicPartition,
)
from tests.cluster.faults.fault import Fault, NotPossibleNow
from tests.cluster.faults.notes import PLAIN, Notes
from tests.cluster.faults.world import FSYNC, GROUP, REPLICAS, World

_STORM_S = 1.0
_RECREATED_RECORDS = 40
_PATIENCE_MS = 20_000


class Membership(Fault):
    """F19: replicas removed and added, preferred leaders elected, a topic deleted and made again
    under its name, while other faults go on. A thread of its own asks the cluster."""

    def begin(self) -> tuple[str, float]:
        """Whatever the cluster answers; the end makes all replicas complete again."""
        kind = self.random.choice((self._shrink, self._elect, self._recreate))
        self._work = self.world.operator.submit(kind)
        return f"membership: {kind.__name__.strip('_')}", self.random.uniform(2, 15)

    def heal(self) -> bool:
        """Wait until it was answered, then give back what was taken."""
        if not self._work.done():
            return False
        error = self._work.exception()
        if error is not None:
            if not isinstance(error, MillstreamError):
                raise error
            self.world.counts[f"membership-refused-{error.code}"] += 1
        return True

    def _admin(self) -> Admin:
        return Admin(
            bootstrap_servers=self.world.cluster.bootstrap_servers, default_api_timeout_ms=15_000
        )

    def _shrink(self) -> None:
        topic, number = self.world.any_key(self.random)
        place = TopicPartition(topic, number)
        with self._admin() as admin:
            admin.alter_partition_reassignments({place: REPLICAS - 1})
            self.world.counts["replica-removed"] += 1
            time.sleep(self.random.uniform(0, 5))
            admin.alter_partition_reassignments({place: REPLICAS})
            self.world.counts["replica-added"] += 1

    def _elect(self) -> None:
        places = [TopicPartition(*self.world.any_key(self.random))]
        with self._admin() as admin:
            admin.elect_leaders("preferred", places)
        self.world.counts["preferred-elected"] += 1

    def _recreate(self) -> None:
        Recreation(self.world, self.random).run()


class Recreation:
    """A topic is deleted and made again: the new one holds what was sent to it, and only that."""

    _name = "again"

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def run(self) -> None:
        """Raises MillstreamError where the cluster does not answer. One after the other: else one
        would delete what the other is yet to read, and take the new topic for its own."""
        with self._world.recreating:
            self._run()

    def _run(self) -> None:
        self._world.counts["recreations"] += 1
        # Another client per topic id: what was sent to the former one must not turn up here.
        number = self._world.counts["recreations"]
        servers = self._world.cluster.bootstrap_servers
        with Admin(bootstrap_servers=servers, default_api_timeout_ms=_PATIENCE_MS) as admin:
            try:
                admin.delete_topics([self._name])
            except MillstreamError as error:
                if error.code != "UNKNOWN_TOPIC":
                    raise
            admin.create_topics([NewTopic(self._name, 1, REPLICAS)])
            self._write_and_read(number)

    def _write_and_read(self, number: int) -> None:
        place = TopicPartition(self._name, 0)
        key = f"{self._name}#{number}"
        servers = self._world.cluster.bootstrap_servers
        writer = f"again-{number}.1.{PLAIN}"
        notes = Notes(self._world.fleet.folder / "notes" / f"{writer}.notes")
        with Producer(
            bootstrap_servers=servers, delivery_timeout_ms=_PATIENCE_MS, request_timeout_ms=10_000
        ) as producer:
            for index in range(_RECREATED_RECORDS):
                notes.note("s", key, 0, index, 1)
                notes.flush()
                try:
                    written = producer.send_and_wait(
                        self._name, f"{writer}:{index}".encode(), partition=0
                    )
                except MillstreamError as error:
                    notes.note("i" if error.indeterminate else "f", index, error.code)
                    break
                offset = -1 if written.offset is None else written.offset
                notes.note("a", index, offset, written.durability.name)
        notes.flush()
        reader = Notes(self._world.fleet.folder / "notes" / f"again-reader-{number}.1.r.notes")
        with Consumer(
            bootstrap_servers=servers,
            auto_offset_reset="none",
            default_api_timeout_ms=_PATIENCE_MS,
        ) as consumer:
            end = consumer.end_offsets([place])[place]
            consumer.assign([place])
            consumer.seek(place, 0)
            deadline_s = time.monotonic() + _PATIENCE_MS / 1000
            position = 0
            while position < end and time.monotonic() < deadline_s:
                for records in consumer.getmany(timeout_ms=200).values():
                    words = [f"{one.offset}={(one.value or b'').decode()}" for one in records]
                    reader.note("p", key, 0, *words)
                    position = records[-1].offset + 1
            reader.flush()
            if position >= end:
                self._world.recreations_read.add(key)


class Clients(Fault):
    """F20: a client is killed, a producer sleeps and wakes as a zombie, members come and go."""

    def begin(self) -> tuple[str, float]:
        """One of the three."""
        kind = self.random.choice(("crash", "zombie", "storm"))
        self._kind, self._next_s = kind, 0.0
        fleet = self.world.fleet
        if kind == "storm":
            self.world.counts["storms"] += 1
            self._until_s = time.monotonic() + 10
            return "members leave and join every second", 0.0
        role = self.random.choice(("writer", "member")) if kind == "crash" else "writer"
        names = [name for name in fleet.names(role) if name not in self.world.held]
        if not names:
            raise NotPossibleNow("no client is free")
        self._name = self.random.choice(names)
        self.hold(self._name)
        if kind == "crash":
            fleet.kill(self._name)
            return f"kill -9 of {self._name}", self.random.uniform(0, 8)
        fleet.signal(self._name, signal.SIGSTOP)
        return f"{self._name} sleeps", self.random.choice((1.0, 5.0, 20.0, 40.0))

    def heal(self) -> bool:
        """Start it again, wake it, or let the storm go on to its end."""
        fleet = self.world.fleet
        if self._kind == "storm":
            now_s = time.monotonic()
            if now_s < self._until_s and not self.world.ending:
                if now_s > self._next_s:
                    self._next_s = now_s + _STORM_S
                    fleet.rejoin(self.random.choice(fleet.names("member")))
                return False
            return True
        if self._kind == "crash":
            fleet.restart(self._name)
        else:
            fleet.signal(self._name, signal.SIGCONT)
        self.world.release(self._name)
        return True


def complete_replicas(world: World) -> None:
    """Give every partition all its replicas again. Raises MillstreamError."""
    with Admin(bootstrap_servers=world.cluster.bootstrap_servers) as admin:
        topics = admin.describe_topics(list(world.topics))
        short = {
            TopicPartition(topic.name, one.partition): REPLICAS
            for topic in topics
            for one in topic.partitions
            if len(one.replica_ids) != REPLICAS or one.removing_replica_ids
        }
        if short:
            admin.alter_partition_reassignments(short)


def group_lag(world: World) -> dict[str, int]:
    """Partition → records between the committed position of the group and the end, where there are
    any. Raises MillstreamError."""
    places = [TopicPartition(FSYNC, number) for number in range(world.topics[FSYNC])]
    with Admin(bootstrap_servers=world.cluster.bootstrap_servers) as admin:
        ends = admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()))
        committed = admin.list_group_offsets(GROUP)
    done = {place: position.offset for place, position in committed.items()}
    lag = {place: (end.offset or 0) - done.get(place, 0) for place, end in ends.items()}
    return {f"{one.topic}/{one.partition}": count for one, count in lag.items() if count > 0}
