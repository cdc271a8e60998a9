"""The lines in which a client process notes what it does and sees, and the history they make.

Every line begins with a letter and the monotonic time in nanoseconds, which is one clock for all
processes of a machine: so the notes of all clients merge into one real-time order. A line is
written before a send begins and after its answer came, so the order is never better than the truth.

::

    s TIME TOPIC PARTITION FIRST COUNT   sends records FIRST … FIRST+COUNT-1 of its own numbering
    a TIME NUMBER OFFSET DURABILITY      acknowledged (offset -1: not told)
    f TIME NUMBER CODE                   failed, definitely
    i TIME NUMBER CODE                   unknown
    p TIME TOPIC PARTITION OFFSET=VALUE… was given records
    o TIME TOPIC PARTITION               owns the partition now
    l TIME TOPIC PARTITION               owns it no more
    n TIME TOPIC/PARTITION=OFFSET…       begins to read anew, these from there
    g TIME GROUP                         is a member of it
    d TIME                               ends in order, having had the time to read everything
    c TIME BEGUN TOPIC PARTITION OFFSET  committed a position (BEGUN: when it asked)
    e TIME BEGUN TOPIC PARTITION OFFSET  was told an end offset
    x TIME CODE                          was told an error by a call that is no send
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.checker.history import History, Send
from tests.checker.history import Key as CheckedKey

Key = tuple[str, int]

#: Only what is idempotent promises "once".
IDEMPOTENT = "i"
PLAIN = "p"


class Notes:
    """The file of one client; what is flushed survives its kill -9."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lines: list[str] = []

    def note(self, letter: str, *words: object) -> None:
        """Add a line, stamped now."""
        self.note_at(letter, time.monotonic_ns(), *words)

    def note_at(self, letter: str, at_ns: int, *words: object) -> None:
        """Add a line stamped with a time that was taken before."""
        self._lines.append(" ".join((letter, str(at_ns), *map(str, words))) + "\n")

    def flush(self) -> None:
        """Hand all lines to the kernel."""
        if self._lines:
            data, self._lines = "".join(self._lines).encode(), []
            os.write(self._file, data)


@dataclass
class Reading:
    """The history of all clients, and what it does not hold."""

    history: History = field(default_factory=History)
    # Errors that calls other than sends were told.
    errors: Counter[str] = field(default_factory=Counter)


def client_of(path: Path) -> str:
    """Name and number of start of the client whose notes these are: ``writer-1.3.i``."""
    return path.name.removesuffix(".notes")


def read_notes(paths: Iterable[Path], cuts: Mapping[str, float] | None = None) -> Reading:
    """Merge the notes of all clients. ``cuts``: topic → monotonic seconds from which on it is not
    looked at."""
    events = sorted(_events(paths), key=lambda event: event[0])
    reading = Reading()
    merging = _Merging(reading, cuts or {})
    for at_ns, letter, client, words in events:
        merging.take(at_ns, letter, client, words)
    merging.close()
    return reading


def _events(paths: Iterable[Path]) -> Iterator[tuple[int, str, str, Any]]:
    for path in sorted(paths):
        client = client_of(path)
        with open(path, encoding="ascii") as lines:
            for line in lines:
                if not line.endswith("\n"):  # cut off by the end of its process
                    continue
                letter, at_ns, *words = line.split()
                if letter in ("c", "e"):
                    begun = _Begun()
                    yield int(words[0]), "begin", client, begun
                    yield int(at_ns), letter, client, (begun, words[1:])
                else:
                    yield int(at_ns), letter, client, words


@dataclass(slots=True)
class _Begun:
    line: int = 0


class _Merging:
    """Puts events, in the order of their times, into a history."""

    def __init__(self, reading: Reading, cuts: Mapping[str, float]) -> None:
        self._reading = reading
        self._cuts = cuts
        self._history = reading.history
        self._open: dict[tuple[str, str], Send] = {}
        # (client, key) → [line at which it began to own, line of the last records it was given]
        self._owned: dict[tuple[str, Key], list[int]] = {}

    def take(self, at_ns: int, letter: str, client: str, words: Any) -> None:
        """One event."""
        at_s = at_ns / 1e9
        if letter == "s":
            self._send(at_s, client, words)
        elif letter in ("a", "f", "i"):
            self._settle(at_s, letter, client, words)
        elif letter == "p":
            self._poll(at_s, client, words)
        elif letter == "begin":
            words.line = self._history.next_line()
        elif letter in ("c", "e"):
            self._position(at_s, letter, client, words)
        elif letter == "n":
            self._assigned(at_s, client, words)
        elif letter == "g":
            self._history.join(client, words[0])
        elif letter == "d":
            self._history.drain(client, at_s)
        elif letter in ("o", "l"):
            self._owner(letter, client, (words[0], int(words[1])))
        else:
            self._reading.errors[words[0]] += 1

    def close(self) -> None:
        """Whoever owned something to the end did so until it was given its last records."""
        for (client, key), (begin, last) in self._owned.items():
            if last:
                self._history.owns(client, key, begin, last)

    def _is_cut(self, topic: str, at_s: float) -> bool:
        return at_s >= self._cuts.get(topic, at_s + 1)

    def _send(self, at_s: float, client: str, words: list[str]) -> None:
        topic, partition, first, count = words
        if self._is_cut(topic, at_s):
            return
        idempotent = client.endswith(IDEMPOTENT)
        for number in range(int(first), int(first) + int(count)):
            self._open[client, str(number)] = self._history.invoke_send(
                client, (topic, int(partition)), f"{client}:{number}", at_s, idempotent, first
            )

    def _settle(self, at_s: float, letter: str, client: str, words: list[str]) -> None:
        send = self._open.pop((client, words[0]), None)
        if send is None or self._is_cut(send.key[0], at_s):  # type: ignore[index]
            return
        if letter == "a":
            offset = int(words[1])
            self._history.acknowledge(send, None if offset < 0 else offset, words[2], at_s)
        elif letter == "f":
            self._history.fail(send, words[1], at_s)
        else:
            self._history.unknown(send, words[1], at_s)

    def _poll(self, at_s: float, client: str, words: list[str]) -> None:
        key = (words[0], int(words[1]))
        if self._is_cut(words[0], at_s):
            return
        pairs = [word.split("=", 1) for word in words[2:]]
        reads = [(int(offset), value) for offset, value in pairs]
        self._history.poll(client, {key: reads}, at_s)
        if (client, key) in self._owned:
            self._owned[client, key][1] = self._history.next_line()

    def _assigned(self, at_s: float, client: str, words: list[str]) -> None:
        positions: dict[CheckedKey, int] = {}
        for word in words:
            place, _, offset = word.rpartition("=")
            topic, _, number = place.rpartition("/")
            if not self._is_cut(topic, at_s):
                positions[topic, int(number)] = int(offset)
        self._history.assign(client, tuple(positions), positions=positions)

    def _position(
        self, at_s: float, letter: str, client: str, words: tuple[_Begun, list[str]]
    ) -> None:
        begun, (topic, partition, offset) = words
        if self._is_cut(topic, at_s):
            return
        key = (topic, int(partition))
        if letter == "e":
            self._history.saw_end(client, key, int(offset), begun.line)
            return
        self._history.saw_commit(client, key, int(offset), begun.line)

    def _owner(self, letter: str, client: str, key: Key) -> None:
        if letter == "o":
            self._owned[client, key] = [self._history.next_line(), 0]
            mine = [other for owner, other in self._owned if owner == client]
            self._history.assign(client, mine, subscribed=True)
            return
        begin, last = self._owned.pop((client, key), (0, 0))
        if last:
            self._history.owns(client, key, begin, last)
