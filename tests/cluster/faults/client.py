"""A client of the cluster under faults, in a process of its own: it writes, reads, or is a member.

python -m tests.cluster.faults.client ROLE NOTES_FOLDER NAME SERVERS [KEY=VALUE …]

Roles: ``writer`` (topic, partitions, rate, acks, patience), ``reader`` (all partitions of the
topics, until it is told to end and has read all there is), ``final`` (the same, to the end offsets
of its begin, then it ends) and ``member`` of a group. SIGTERM ends one in order; SIGUSR1 makes a
member leave and join again.
"""

import contextlib
import signal
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from millstream import (
    BufferFullError,
    Consumer,
    MillstreamError,
    Producer,
    RebalanceListener,
    TopicPartition,
)
from tests.cluster.faults.notes import IDEMPOTENT, PLAIN, Notes

_TICK_S = 0.025
_OUTSTANDING_MAX = 2_000
_COMMIT_S = 0.5
_ENDS_S = 1.0
_LOOKUP_MS = 1_000
_POLL_MS = 100
_FINAL_S = 300.0
# How long a reader that is told to end still reads what there is then.
_DRAIN_S = 30.0
_DRAIN_LOOKUP_MS = 5_000


class Flags:
    """What signals asked for."""

    def __init__(self) -> None:
        self.stopping = False
        self.rejoining = False
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGUSR1, self._rejoin)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _rejoin(self, *_: object) -> None:
        self.rejoining = True


class Client:
    """What all roles share."""

    def __init__(self, folder: Path, name: str, servers: str, options: dict[str, str]) -> None:
        self.flags = Flags()
        self.folder = folder
        self.name = name
        self.servers = servers
        self.options = options
        self.partitions = [
            TopicPartition(topic, number)
            for topic, count in (one.split("/") for one in options["topics"].split(","))
            for number in range(int(count))
        ]
        self.incarnation = 0

    def open_notes(self, mark: str) -> Notes:
        """Notes of a new life of this client: under another name, for it begins anew."""
        self.incarnation += 1
        return Notes(self.folder / f"{self.name}.{self.incarnation}.{mark}.notes")


class Writer(Client):
    """Sends at a constant rate, whatever is answered."""

    def run(self) -> None:
        """Until told to end; a producer that cannot go on is replaced."""
        while not self.flags.stopping:
            self._run_producer()

    def _run_producer(self) -> None:
        acks = self.options["acks"]
        mark = IDEMPOTENT if acks == "all" else PLAIN
        notes = self.open_notes(mark)
        # The name of the notes is the name of the values.
        prefix = f"{self.name}.{self.incarnation}.{mark}:"
        patience_ms = int(self.options["patience"])
        life = _Life(notes)
        random = Random(prefix)
        producer = Producer(
            bootstrap_servers=self.servers,
            acks=acks,
            delivery_timeout_ms=patience_ms,
            request_timeout_ms=min(30_000, patience_ms // 2),
            max_block_ms=1_000,
            linger_ms=2,
        )
        per_tick = max(1, round(int(self.options["rate"]) * _TICK_S))
        number = 0
        due_s = time.monotonic()
        with contextlib.suppress(MillstreamError):
            while not (self.flags.stopping or life.fatal):
                producer.poll(0)
                if life.outstanding < _OUTSTANDING_MAX:
                    place = random.choice(self.partitions)
                    notes.note("s", place.topic, place.partition, number, per_tick)
                    notes.flush()
                    for _ in range(per_tick):
                        life.hand_over(producer, place, f"{prefix}{number}", number)
                        number += 1
                notes.flush()
                due_s = max(due_s + _TICK_S, time.monotonic() - 1)
                time.sleep(max(0.0, due_s - time.monotonic()))
            producer.flush(patience_ms / 1000 + 10)
        with contextlib.suppress(MillstreamError):
            producer.close(timeout=5)
        notes.flush()


class _Life:
    """What one producer was told."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.outstanding = 0
        self.fatal = False

    def hand_over(self, producer: Producer, place: TopicPartition, value: str, number: int) -> None:
        """Send one record."""

        def settled(error: MillstreamError | None, written: Any) -> None:
            self.outstanding -= 1
            if error is None:
                offset = -1 if written.offset is None else written.offset
                self._notes.note("a", number, offset, written.durability.name)
            else:
                self.fatal |= error.fatal
                self._notes.note("i" if error.indeterminate else "f", number, error.code)

        try:
            producer.produce(place.topic, value, partition=place.partition, on_delivery=settled)
        except (MillstreamError, BufferFullError) as error:
            # It was never taken, so it can never be written.
            self.fatal |= getattr(error, "fatal", False)
            self._notes.note("f", number, getattr(error, "code", type(error).__name__))
        else:
            self.outstanding += 1


class Reader(Client):
    """Reads all partitions by itself, and asks for end offsets."""

    _caught_up = False
    _stopping_s: float | None = None

    def run(self) -> None:
        """Until told to end, and then to what the end is, or for as long as that may take."""
        positions = dict.fromkeys(self.partitions, 0)
        while not self._is_over:
            notes = self.open_notes("r")
            _note_positions(notes, positions)
            try:
                self._read(notes, positions)
            except MillstreamError as error:
                notes.note("x", error.code)
                time.sleep(0.5)
            if self._is_over:
                notes.note("d")
            notes.flush()

    @property
    def _is_over(self) -> bool:
        # All is healed and nobody writes any more: whoever has not read everything then lags.
        if not self.flags.stopping:
            return False
        if self._stopping_s is None:
            self._stopping_s = time.monotonic()
        return self._caught_up or time.monotonic() > self._stopping_s + _DRAIN_S

    def _read(self, notes: Notes, positions: dict[TopicPartition, int]) -> None:
        consumer = Consumer(bootstrap_servers=self.servers, auto_offset_reset="none")
        with consumer:
            consumer.assign(self.partitions)
            for place, offset in positions.items():
                consumer.seek(place, offset)
            asked_s = 0.0
            while not self.flags.stopping:
                _take_records(consumer, notes, positions)
                if time.monotonic() - asked_s > _ENDS_S:
                    asked_s = time.monotonic()
                    self._note_ends(consumer, notes)
                notes.flush()
            ends = consumer.end_offsets(self.partitions, timeout_ms=_DRAIN_LOOKUP_MS)
            while not self._is_over:
                _take_records(consumer, notes, positions)
                notes.flush()
                self._caught_up = all(positions[place] >= end for place, end in ends.items())

    def _note_ends(self, consumer: Consumer, notes: Notes) -> None:
        begun_ns = time.monotonic_ns()
        try:
            ends = consumer.end_offsets(self.partitions, timeout_ms=_LOOKUP_MS)
        except MillstreamError as error:
            notes.note("x", f"end_offsets:{error.code}")
            return
        for place, offset in ends.items():
            notes.note("e", begun_ns, place.topic, place.partition, offset)


class FinalReader(Client):
    """Reads everything once, from the beginning to the end offsets."""

    def run(self) -> None:
        """Exit code 1, by an exception, if the end is not reached."""
        notes = self.open_notes("r")
        positions = dict.fromkeys(self.partitions, 0)
        _note_positions(notes, positions)
        deadline_s = time.monotonic() + _FINAL_S
        with Consumer(bootstrap_servers=self.servers, auto_offset_reset="none") as consumer:
            begun_ns = time.monotonic_ns()
            ends = consumer.end_offsets(self.partitions)
            for place, offset in ends.items():
                notes.note("e", begun_ns, place.topic, place.partition, offset)
            consumer.assign(self.partitions)
            consumer.seek_to_beginning()
            while any(positions[place] < ends[place] for place in self.partitions):
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"read up to {positions} of {ends}")
                _take_records(consumer, notes, positions)
                notes.flush()
            notes.note("d")
            notes.flush()


class Member(Client):
    """A member of a group: commits what it was given, twice a second."""

    def run(self) -> None:
        """Until told to end."""
        while not self.flags.stopping:
            self.flags.rejoining = False
            notes = self.open_notes("r")
            notes.note("g", self.options["group"])
            try:
                self._belong(notes)
            except MillstreamError as error:
                notes.note("x", f"group:{error.code}")
                time.sleep(0.5)
            notes.flush()

    def _belong(self, notes: Notes) -> None:
        consumer = Consumer(
            bootstrap_servers=self.servers,
            group_id=self.options["group"],
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6_000,
        )
        given: dict[TopicPartition, int] = {}
        listener = _Listener(notes, consumer, given)
        with consumer:
            consumer.subscribe(sorted({one.topic for one in self.partitions}), listener=listener)
            committed_s = time.monotonic()
            while not (self.flags.stopping or self.flags.rejoining):
                for place, records in consumer.getmany(timeout_ms=_POLL_MS).items():
                    _note_records(notes, place, records)
                    given[place] = records[-1].offset + 1
                notes.flush()
                if time.monotonic() - committed_s > _COMMIT_S:
                    committed_s = time.monotonic()
                    _commit(consumer, notes, given)
            _commit(consumer, notes, given)


class _Listener(RebalanceListener):
    """Notes when ownership begins and ends."""

    def __init__(self, notes: Notes, consumer: Consumer, given: dict[TopicPartition, int]) -> None:
        self._notes = notes
        self._consumer = consumer
        self._given = given

    def on_assign(self, partitions: list[TopicPartition]) -> None:
        """Ours."""
        for place in partitions:
            self._notes.note("o", place.topic, place.partition)

    def on_revoke(self, partitions: list[TopicPartition]) -> None:
        """Not ours in a moment: what was given is committed first."""
        leaving = {place: self._given[place] for place in partitions if place in self._given}
        _commit(self._consumer, self._notes, leaving)
        self.on_lost(partitions)

    def on_lost(self, partitions: list[TopicPartition]) -> None:
        """Not ours any more."""
        for place in partitions:
            self._given.pop(place, None)
            self._notes.note("l", place.topic, place.partition)


def _note_positions(notes: Notes, positions: dict[TopicPartition, int]) -> None:
    notes.note("n", *(f"{one.topic}/{one.partition}={at}" for one, at in positions.items()))


def _take_records(consumer: Consumer, notes: Notes, positions: dict[TopicPartition, int]) -> None:
    for place, records in consumer.getmany(timeout_ms=_POLL_MS).items():
        _note_records(notes, place, records)
        positions[place] = records[-1].offset + 1


def _note_records(notes: Notes, place: TopicPartition, records: Any) -> None:
    words = [f"{record.offset}={record.value.decode()}" for record in records]
    notes.note("p", place.topic, place.partition, *words)


def _commit(consumer: Consumer, notes: Notes, given: dict[TopicPartition, int]) -> None:
    if not given:
        return
    notes.flush()
    positions = dict(given)
    begun_ns = time.monotonic_ns()
    try:
        consumer.commit(positions, timeout_ms=5_000)
    except MillstreamError as error:
        notes.note("x", f"commit:{error.code}")
        return
    for place, offset in positions.items():
        notes.note("c", begun_ns, place.topic, place.partition, offset)


_ROLES: dict[str, type[Writer | Reader | FinalReader | Member]] = {
    "writer": Writer,
    "reader": Reader,
    "final": FinalReader,
    "member": Member,
}


def main(role: str, folder: str, name: str, servers: str, *options: str) -> None:
    """Play a role."""
    table = dict(option.split("=", 1) for option in options)
    _ROLES[role](Path(folder), name, servers, table).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
