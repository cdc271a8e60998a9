"""Writes a history in the form that ``jepsen.tests.kafka`` reads, so that others can judge it.

One EDN map a line, in real-time order; keys and values are numbered, the values of each key on
their own; every send is completed, with ``nil`` for an offset that was not told; a process does
one thing at a time, and has a new number after it ended in doubt or read from another place. That
the last process reads everything is up to the history.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tests.checker.history import History, Key, Outcome, Poll, Send

_NS_PER_S = 1e9


def export(history: History, includes: Callable[[Key], bool] = lambda key: True) -> Iterator[str]:
    """The lines, of the keys that are included: whoever judges them knows no excuses, so only
    those that promise everything should be."""
    return _Export(history, includes).lines()


class _Export:
    def __init__(self, history: History, includes: Callable[[Key], bool]) -> None:
        self._history = history
        self._includes = includes
        self._keys: dict[Any, int] = {}
        self._values: dict[Any, dict[Any, int]] = {}
        self._processes: dict[Any, int] = {}
        self._next_process = 0
        # A send waits for its answer: others of its client use processes of their own, which are
        # used again once they are free, in order.
        self._of_send: dict[int, int] = {}
        self._idle: dict[Any, list[int]] = {}

    def lines(self) -> Iterator[str]:
        """In the order of what happened; with nanoseconds since the first event."""
        begin_s: float | None = None
        time = 0
        for _, kind, at_s, event in sorted(self._events(), key=lambda one: one[:2]):
            if at_s is not None:
                begin_s = at_s if begin_s is None else begin_s
                # What has no time of its own happens with what came before it.
                time = max(time, round((at_s - begin_s) * _NS_PER_S))
            if kind == 0:
                yield self._send_begins(event, time)
            elif kind == 1:
                yield self._send_ends(event, time)
            elif kind == 2:
                yield from self._poll(event, time)
            else:
                yield from self._other(event, time)

    def _events(self) -> Iterator[tuple[int, int, float | None, Any]]:
        """(line, kind, seconds if known, event)."""
        for send in self._history.sends:
            if not self._includes(send.key):
                continue
            yield send.invoked_line, 0, send.invoked_at, send
            if send.outcome is Outcome.OPEN:
                # What never ended is completed at the end, as unknown.
                yield 1 << 62, 1, None, send
            else:
                yield send.completed_line, 1, send.completed_at, send
        for poll in self._history.polls:
            if any(map(self._includes, poll.reads)):
                yield poll.line, 2, poll.at, poll
        for other in self._history.other:
            if not other[3] or any(map(self._includes, other[3])):
                yield other[0], 3, None, other

    def _key(self, key: Any) -> int:
        return self._keys.setdefault(key, len(self._keys))

    def _value(self, key: Any, value: Any) -> int:
        values = self._values.setdefault(key, {})
        return values.setdefault(value, len(values))

    def _new_process(self) -> int:
        self._next_process += 1
        return self._next_process - 1

    def _process(self, name: Any) -> int:
        if name not in self._processes:
            self._processes[name] = self._new_process()
        return self._processes[name]

    def _send_begins(self, send: Send, time: int) -> str:
        idle = self._idle.setdefault(send.process, [])
        process = self._of_send[id(send)] = idle.pop(0) if idle else self._new_process()
        value = f"[[:send {self._key(send.key)} {self._value(send.key, send.value)}]]"
        return _line(process, time, "invoke", "send", value)

    def _send_ends(self, send: Send, time: int) -> str:
        process = self._of_send[id(send)]
        key, value = self._key(send.key), self._value(send.key, send.value)
        if send.outcome in (Outcome.OK, Outcome.FAIL):
            self._idle[send.process].append(process)
        if send.outcome is Outcome.OK:
            offset = "nil" if send.offset is None else send.offset
            return _line(process, time, "ok", "send", f"[[:send {key} [{offset} {value}]]]")
        kind = "fail" if send.outcome is Outcome.FAIL else "info"
        return _line(process, time, kind, "send", f"[[:send {key} {value}]]")

    def _poll(self, poll: Poll, time: int) -> Iterator[str]:
        process = self._process(("reader", poll.process))
        yield _line(process, time, "invoke", "poll", "[[:poll]]")
        read = ", ".join(
            f"{self._key(key)} ["
            + " ".join(f"[{offset} {self._value(key, value)}]" for offset, value in reads)
            + "]"
            for key, reads in poll.reads.items()
            if self._includes(key)
        )
        yield _line(process, time, "ok", "poll", f"[[:poll {{{read}}}]]")

    def _other(self, event: tuple[int, Any, str, tuple[Any, ...]], time: int) -> Iterator[str]:
        _, name, kind, keys = event
        reader = ("reader", name)
        if kind == "crash":
            process = self._process(reader)
            yield _line(process, time, "invoke", "crash", "nil")
            yield _line(process, time, "info", "crash", "nil")
            self._processes.pop(reader)
            return
        # It reads from another place: a new process.
        self._processes.pop(reader, None)
        process = self._process(reader)
        value = "[" + " ".join(str(self._key(key)) for key in keys if self._includes(key)) + "]"
        yield _line(process, time, "invoke", kind, value)
        yield _line(process, time, "ok", kind, value)


def _line(process: int, time: int, kind: str, function: str, value: str) -> str:
    return f"{{:process {process} :time {time} :type :{kind} :f :{function} :value {value}}}"
