"""The anomalies of a history, by the names that ``jepsen.tests.kafka`` gives them, and some more.

The version order of a key is its offsets in order, with the value at each; it is taken from
acknowledged sends, from sends of unknown outcome that a read proves, and from all polls. Offsets
may have gaps, so places are counted as indexes in that order. Pure, and linear in the history but
for sorting. Transactions do not exist yet: what only they can break (precommitted reads, cycles of
reads and writes) is judged once they do.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.checker.commits import judge_commits
from tests.checker.history import History, Key, Outcome, Poll, Read, Send
from tests.checker.lag import realtime_lags
from tests.checker.versions import Anomaly, Versions


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the history may be held to."""

    # Every acknowledged value was to be read at the end: the last phase read everything.
    read_all: bool = True
    # True if an acknowledged send may be lost by what it promised and what happened.
    excused: Callable[[Send], bool] = lambda send: False
    # True if readers see an acknowledged send at once; what a leader alone has, they do not.
    visible: Callable[[Send], bool] = lambda send: True


def judge(history: History, expectations: Expectations | None = None) -> list[Anomaly]:
    """All anomalies of a history."""
    return list(_Judge(history, expectations or Expectations()).run())


class _Judge:
    def __init__(self, history: History, expectations: Expectations) -> None:
        self._history = history
        self._expectations = expectations
        self._sends = {(send.key, send.value): send for send in history.sends}
        self._versions: dict[Key, Versions] = defaultdict(Versions)
        for poll in history.polls:
            for key, reads in poll.reads.items():
                versions = self._versions[key]
                for offset, value in reads:
                    versions.see(offset, value)
                    versions.read[value] = min(offset, versions.read.get(value, offset))
                    versions.read_at[value].add(offset)
        for send in history.sends:
            if self._stands(send):
                self._versions[send.key].see(_offset(send), send.value)
        for versions in self._versions.values():
            versions.number()

    def _stands(self, send: Send) -> bool:
        """True if the offset of an acknowledgement counts: not if it may have been lost since."""
        if send.outcome is not Outcome.OK or send.offset is None:
            return False
        # One that is excused stands only if it was read there: another may have its place by now.
        read_at = self._versions[send.key].offsets.get(send.value, ())
        return not self._expectations.excused(send) or send.offset in read_at

    def _place(self, send: Send) -> int | None:
        """Where it stands: as acknowledged, or, its outcome being unknown, as it was read."""
        if send.outcome is Outcome.OK:
            return send.offset if self._stands(send) else None
        if send.outcome is Outcome.FAIL:
            return None
        return self._versions[send.key].read.get(send.value)

    def run(self) -> Iterator[Anomaly]:
        """Every rule in turn."""
        for name, text in self._history.noted:
            yield Anomaly(name, None, text)
        for key, versions in self._versions.items():
            yield from self._inconsistent(key, versions)
            yield from self._duplicates(key, versions)
            yield from self._aborted(key, versions)
        yield from self._lost()
        yield from self._polls()
        yield from self._send_order()
        yield from self._end_offsets()
        yield from judge_commits(self._history, self._versions)
        yield from self._owners()
        yield from self._lags()

    def _inconsistent(self, key: Key, versions: Versions) -> Iterator[Anomaly]:
        for offset, values in versions.values.items():
            if len(values) > 1:
                yield Anomaly("inconsistent-offsets", key, f"offset {offset} holds {values}")

    def _duplicates(self, key: Key, versions: Versions) -> Iterator[Anomaly]:
        for value, offsets in versions.offsets.items():
            send = self._sends.get((key, value))
            if len(offsets) > 1 and (send is None or send.idempotent):
                yield Anomaly("duplicate", key, f"{value!r} stands at {sorted(offsets)}", value)
            if send is None or send.outcome is not Outcome.OK or value not in versions.read:
                continue
            if send.offset is None or self._expectations.excused(send):
                continue
            if send.offset not in versions.read_at[value]:
                text = (
                    f"{value!r}, acknowledged at {send.offset}, was read at {versions.read[value]}"
                )
                yield Anomaly("ack-offset", key, text, value)

    def _aborted(self, key: Key, versions: Versions) -> Iterator[Anomaly]:
        for value in versions.read:
            send = self._sends.get((key, value))
            if send is None:
                yield Anomaly("phantom", key, f"{value!r} was read, and nobody sent it", value)
            elif send.outcome is Outcome.FAIL:
                text = f"{value!r} was read; its send failed: {send.error}"
                yield Anomaly("G1a", key, text, value)

    def _lost(self) -> Iterator[Anomaly]:
        highest = {
            key: max(versions.read.values(), default=-1) for key, versions in self._versions.items()
        }
        for send in self._history.sends:
            if send.outcome is not Outcome.OK or self._expectations.excused(send):
                continue
            versions = self._versions[send.key]
            if send.value in versions.read:
                continue
            at = f"acknowledged at {send.offset} ({send.durability})"
            if send.offset is not None and send.offset <= highest.get(send.key, -1):
                text = f"{send.value!r}, {at}; read up to {highest[send.key]}, not this"
                yield Anomaly("lost-write", send.key, text, send.value)
            elif self._expectations.read_all:
                text = f"{send.value!r}, {at}, was never read"
                yield Anomaly("unseen", send.key, text, send.value)

    def _polls(self) -> Iterator[Anomaly]:
        last: dict[tuple[object, Key], tuple[int, int]] = {}
        for poll in self._history.polls:
            for key, reads in poll.reads.items():
                index = self._versions[key].index
                yield from self._within(poll, key, reads, index)
                before = last.get((poll.process, key))
                if before is not None and before[0] == poll.assignment and reads:
                    step = index[reads[0][0]] - index[before[1]]
                    if step > 1:
                        text = f"{poll.process} went from {before[1]} to {reads[0][0]}"
                        yield Anomaly("poll-skip", key, text)
                    elif step < 1:
                        text = f"{poll.process} went from {before[1]} back to {reads[0][0]}"
                        yield Anomaly("nonmonotonic-poll", key, text)
                if reads:
                    last[poll.process, key] = (poll.assignment, reads[-1][0])

    def _within(
        self, poll: Poll, key: Key, reads: Iterable[Read], index: dict[int, int]
    ) -> Iterator[Anomaly]:
        before: int | None = None
        for offset, _ in reads:
            if before is not None:
                step = index[offset] - index[before]
                if step > 1:
                    text = f"{poll.process} was given {offset} after {before}"
                    yield Anomaly("int-poll-skip", key, text)
                elif step < 1:
                    text = f"{poll.process} was given {offset} after {before}"
                    yield Anomaly("int-nonmonotonic-poll", key, text)
            before = offset

    def _send_order(self) -> Iterator[Anomaly]:
        """Sends of one producer in its order; and whatever was acknowledged before another send
        began stands below it."""
        by_key: dict[Key, list[_Placed]] = defaultdict(list)
        for send in self._history.sends:
            place = self._place(send)
            if place is not None:
                by_key[send.key].append(_Placed(send, place))
        for key, placed in by_key.items():
            last: dict[object, _Placed] = {}
            for one in placed:
                if not one.send.idempotent:  # a retry may overtake
                    continue
                before = last.get(one.send.process)
                if before is not None and one.offset <= before.offset:
                    call = one.send.call
                    within = call is not None and call == before.send.call
                    name = "int-nonmonotonic-send" if within else "nonmonotonic-send"
                    text = f"{one.send.process} sent {before}, then {one}"
                    yield Anomaly(name, key, text)
                last[one.send.process] = one
            yield from _real_time(key, placed)

    def _end_offsets(self) -> Iterator[Anomaly]:
        acknowledged = sorted(
            (send.completed_line, send.key, _offset(send) + 1)
            for send in self._history.sends
            if send.outcome is Outcome.OK
            and send.offset is not None
            and not self._expectations.excused(send)
            and self._expectations.visible(send)
        )
        known: dict[Key, int] = {}
        asked = sorted(self._history.end_offsets, key=lambda one: one.begun_line)
        answered = sorted(self._history.end_offsets, key=lambda one: one.line)
        done = taken = 0
        for seen in asked:
            while done < len(acknowledged) and acknowledged[done][0] < seen.begun_line:
                _, key, end = acknowledged[done]
                known[key] = max(end, known.get(key, 0))
                done += 1
            while taken < len(answered) and answered[taken].line < seen.begun_line:
                earlier = answered[taken]
                known[earlier.key] = max(earlier.offset, known.get(earlier.key, 0))
                taken += 1
            if seen.offset < known.get(seen.key, 0):
                text = f"{seen.process} was told {seen.offset}, after {known[seen.key]} was known"
                yield Anomaly("end-offset-back", seen.key, text)

    def _owners(self) -> Iterator[Anomaly]:
        by_key = defaultdict(list)
        for owned in self._history.owned:
            by_key[owned.key].append(owned)
        for key, periods in by_key.items():
            until: tuple[float, object] = (-1.0, None)
            for period in sorted(periods, key=lambda one: one.begin_line):
                if period.begin_line < until[0] and period.process != until[1]:
                    text = f"{period.process} began at {period.begin_line}, {until[1]} still owned"
                    yield Anomaly("double-ownership", key, text)
                end = float("inf") if period.end_line is None else period.end_line
                until = max(until, (end, period.process), key=lambda one: one[0])

    def _lags(self) -> Iterator[Anomaly]:
        def counts(send: Send) -> bool:
            return self._expectations.visible(send) and not self._expectations.excused(send)

        for lag in realtime_lags(self._history, counts):
            if lag.at_end:
                text = (
                    f"{lag.process} ended at {lag.position}, {lag.seconds:.1f} s after a record "
                    f"there was to be read; there were some up to {lag.newest}"
                )
                yield Anomaly("realtime-lag", lag.key, text)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A send, and the offset at which its record stands."""

    send: Send
    offset: int

    def __str__(self) -> str:
        return f"{self.send.value!r} to {self.offset}"


def _real_time(key: Key, placed: list[_Placed]) -> Iterator[Anomaly]:
    ends = [one for one in placed if one.send.outcome is Outcome.OK]
    ends.sort(key=lambda one: one.send.completed_line)
    taken = 0
    highest: _Placed | None = None
    for one in sorted(placed, key=lambda one: one.send.invoked_line):
        while taken < len(ends) and ends[taken].send.completed_line < one.send.invoked_line:
            if highest is None or ends[taken].offset > highest.offset:
                highest = ends[taken]
            taken += 1
        if highest is not None and one.offset < highest.offset:
            text = f"{one}, though {highest} was acknowledged before it began"
            yield Anomaly("realtime-order", key, text)


def _offset(send: Send) -> int:
    assert send.offset is not None
    return send.offset


def lost_places(history: History, anomalies: Iterable[Anomaly]) -> Counter[str]:
    """Where in the life of its writer a lost value was: before the first of its values that was
    read, after the last one, or between them. A report, no anomaly."""
    lost = {(one.key, one.value) for one in anomalies if one.name in ("lost-write", "unseen")}
    read = {
        (key, value)
        for poll in history.polls
        for key, reads in poll.reads.items()
        for _, value in reads
    }
    by_writer: dict[object, list[Send]] = defaultdict(list)
    for send in history.sends:
        by_writer[send.process, send.key].append(send)
    places: Counter[str] = Counter()
    for sends in by_writer.values():
        kept = [number for number, send in enumerate(sends) if (send.key, send.value) in read]
        for number, send in enumerate(sends):
            if (send.key, send.value) in lost:
                early = not kept or number < kept[0]
                late = bool(kept) and number > kept[-1]
                places["lost-prefix" if early else "lost-postfix" if late else "lost-middle"] += 1
    return places
