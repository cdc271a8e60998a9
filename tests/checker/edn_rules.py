"""What an exported history must be like, so that ``jepsen.tests.kafka`` can judge it."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_LINE = re.compile(
    r"\{:process (\d+) :time (\d+) :type :(invoke|ok|fail|info)"
    r" :f :(send|poll|assign|subscribe|crash) :value (.+)\}"
)
_SENT = re.compile(r"\[\[:send (\d+) (\d+)\]\]")
_WRITTEN = re.compile(r"\[\[:send (\d+) \[(\d+|nil) (\d+)\]\]\]")
_POLLED = re.compile(r"\[\[:poll \{((?:\d+ \[(?:\[\d+ \d+\] ?)*\](?:, )?)*)\}\]\]")
_OF_KEY = re.compile(r"(\d+) \[((?:\[\d+ \d+\] ?)*)\]")
_RECORD = re.compile(r"\[(\d+) (\d+)\]")
_KEYS = re.compile(r"\[(\d+( \d+)*)?\]")
_PLAIN = {"poll": "[[:poll]]", "crash": "nil"}


def complaints(lines: Iterable[str]) -> list[str]:
    """What is wrong with the lines, by their numbers from 1."""
    return list(_Rules().check(lines))


@dataclass
class _Rules:
    # Process → (function, value) of what it does now.
    busy: dict[int, tuple[str, str]] = field(default_factory=dict)
    # Those that may do nothing more.
    doubtful: set[int] = field(default_factory=set)
    sent: set[tuple[int, int]] = field(default_factory=set)
    # Key → offsets of all records that were seen, and of those that each process was given.
    standing: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    given: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    time: int = 0
    last_poller: int | None = None

    def check(self, lines: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(lines, 1):
            match = _LINE.fullmatch(line.rstrip("\n"))
            if match is None:
                yield f"{number}: no operation: {line}"
                continue
            process, time, kind, function, value = match.groups()
            if int(time) < self.time:
                yield f"{number}: time goes back"
            self.time = max(self.time, int(time))
            if kind == "invoke":
                found = self._begin(int(process), function, value)
            else:
                found = self._end(int(process), kind, function, value)
            yield from (f"{number}: {text}" for text in found)
        yield from (f"process {process} never ended {what}" for process, what in self.busy.items())
        yield from self._last_reads_everything()

    def _begin(self, process: int, function: str, value: str) -> Iterator[str]:
        if process in self.busy:
            yield f"process {process} does two things at once"
        if process in self.doubtful:
            yield f"process {process} goes on after it ended in doubt"
        self.busy[process] = (function, value)
        if function == "send":
            sent = _SENT.fullmatch(value)
            if sent is None:
                yield f"no send: {value}"
            elif (record := (int(sent[1]), int(sent[2]))) in self.sent:
                yield f"{record} is sent twice"
            else:
                self.sent.add(record)
        elif value != _PLAIN.get(function, value):
            yield f"no {function}: {value}"
        elif function in ("assign", "subscribe"):
            if _KEYS.fullmatch(value) is None:
                yield f"no keys: {value}"
            if process in self.given:
                yield f"process {process} reads from elsewhere"

    def _end(self, process: int, kind: str, function: str, value: str) -> Iterator[str]:
        begun = self.busy.pop(process, None)
        if begun is None or begun[0] != function:
            yield f"process {process} ends what it did not begin"
            return
        if kind == "info":
            self.doubtful.add(process)
        if function == "poll" and kind == "ok":
            yield from self._polled(process, value)
        elif function == "send" and kind == "ok":
            sent, written = _SENT.fullmatch(begun[1]), _WRITTEN.fullmatch(value)
            if sent is None or written is None or sent.groups() != (written[1], written[3]):
                yield f"{begun[1]} ended as {value}"
            elif written[2] != "nil":
                self.standing[int(written[1])].add(int(written[2]))
        elif value != begun[1]:
            yield f"{begun[1]} ended as {value}"

    def _polled(self, process: int, value: str) -> Iterator[str]:
        self.last_poller = process
        polled = _POLLED.fullmatch(value)
        if polled is None:
            yield f"no poll: {value}"
            return
        mine = self.given.setdefault(process, defaultdict(list))
        for key, records in _OF_KEY.findall(polled[1]):
            offsets = [int(offset) for offset, _ in _RECORD.findall(records)]
            if mine[int(key)] and offsets and offsets[0] <= mine[int(key)][-1]:
                yield f"process {process} goes back in {key} to {offsets[0]}"
            mine[int(key)] += offsets
            self.standing[int(key)].update(offsets)

    def _last_reads_everything(self) -> Iterator[str]:
        mine = self.given.get(self.last_poller, {}) if self.last_poller is not None else {}
        for key, offsets in self.standing.items():
            missing = offsets - set(mine.get(key, ()))
            if missing:
                yield f"the last reader was not given {len(missing)} records of key {key}"
