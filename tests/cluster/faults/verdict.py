"""What a campaign showed: anomalies, gaps, throughput; and whether it counts."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.checker.edn import export
from tests.checker.history import History, Outcome, Send
from tests.checker.judge import Expectations, judge, lost_places
from tests.checker.lag import Lag, realtime_lags
from tests.checker.versions import Anomaly
from tests.cluster.faults.notes import Key, read_notes
from tests.cluster.faults.replicas import compare
from tests.cluster.faults.world import FSYNC, LEADER_ONLY, LeaderLoss, World

if TYPE_CHECKING:
    from tests.cluster.faults.runner import Campaign

# What a leader alone acknowledged is safe once its followers have it; no fault may come so near.
_ALONE_S = 20.0
_LOST = ("lost-write", "unseen")
_REORDERED = (
    "nonmonotonic-send",
    "int-nonmonotonic-send",
    "realtime-order",
    "nonmonotonic-poll",
    "int-nonmonotonic-poll",
)
_SHOWN = 20
# Of what the writers offer, over the whole run.
_HELD_MIN = 0.1


@dataclass
class Verdict:
    """The figures of the result line."""

    seconds: float
    acknowledged: int = 0
    checked: int = 0
    unknown: int = 0
    failed: int = 0
    anomalies: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    # Reasons besides anomalies for which the run failed.
    problems: list[str] = field(default_factory=list)
    # By what happened to the leader: "killed", "isolated", each also "… among others".
    gaps: dict[str, "Gaps"] = field(default_factory=dict)
    lag_ms: dict[str, float] = field(default_factory=dict)
    lost_places: Counter[str] = field(default_factory=Counter)
    per_second_min: float = 0.0
    bytes_compared: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    settled_s: float = 0.0

    @property
    def lost(self) -> int:
        """Acknowledged, and not there."""
        return sum(self.anomalies[name] for name in _LOST)

    @property
    def reordered(self) -> int:
        """Out of order, for writers or readers."""
        return sum(self.anomalies[name] for name in _REORDERED)


def reach_verdict(campaign: "Campaign", seconds: float) -> Verdict:
    """Judge the notes of all clients and the files of the stopped brokers."""
    world, plan = campaign.world, campaign.plan
    campaign.say("judging")
    reading = read_notes(world.fleet.notes, world.retired)
    if plan.tamper:
        tamper(reading.history, plan.tamper)
    if plan.edn is not None:
        with open(plan.edn, "w", encoding="ascii") as file:
            # What promises less would be taken for lost by a judge who knows no excuse.
            lines = export(reading.history, lambda key: key[0] == FSYNC)  # type: ignore[index]
            file.writelines(f"{line}\n" for line in lines)
    verdict = Verdict(seconds, errors=reading.errors)
    _count(verdict, reading.history)
    excuse = _Excuse(world)
    anomalies = judge(reading.history, Expectations(excused=excuse, visible=_is_replicated))
    for anomaly in anomalies:
        _take(verdict, anomaly, world)
    verdict.lost_places = lost_places(reading.history, anomalies)
    lags = realtime_lags(reading.history, lambda send: _is_replicated(send) and not excuse(send))
    # Who begins at the beginning, when all is over, lags by the whole run at first.
    lags = [lag for lag in lags if not str(lag.process).startswith("final")]
    verdict.lag_ms = summarize_lags(lags, campaign.healed_s)
    _compare_replicas(verdict, world, reading.history)
    _measure_gaps(verdict, world, reading.history)
    return verdict


def _count(verdict: Verdict, history: History) -> None:
    outcomes = Counter(send.outcome for send in history.sends)
    verdict.acknowledged = outcomes[Outcome.OK]
    verdict.checked = sum(
        send.outcome is Outcome.OK and send.key[0] != LEADER_ONLY  # type: ignore[index]
        for send in history.sends
    )
    verdict.unknown = outcomes[Outcome.INFO] + outcomes[Outcome.OPEN]
    verdict.failed = outcomes[Outcome.FAIL]


def _is_replicated(send: Send) -> bool:
    return send.durability.startswith("REPLICATED")


class _Excuse:
    """Which acknowledged sends may be lost by what their acknowledgement promised."""

    def __init__(self, world: World) -> None:
        self._kept = world.ids.keys() | world.recreations_read
        self._begins, self._ends = _merged(world.disturbed)

    def __call__(self, send: Send) -> bool:
        topic = send.key[0]  # type: ignore[index]
        if topic == LEADER_ONLY:
            return self._disturbed(send.completed_at)
        # A topic that was deleted before it was read to the end.
        return topic not in self._kept

    def _disturbed(self, at_s: float) -> bool:
        index = bisect_left(self._ends, at_s - _ALONE_S)
        return index < len(self._ends) and self._begins[index] <= at_s + _ALONE_S


def _merged(spans: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    begins: list[float] = []
    ends: list[float] = []
    for begin, end in sorted(spans):
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            begins.append(begin)
            ends.append(end)
    return begins, ends


def _take(verdict: Verdict, anomaly: Anomaly, world: World) -> None:
    topic = anomaly.key[0] if isinstance(anomaly.key, tuple) else None
    # Nobody reads a retired topic to its end.
    if topic in world.retired and anomaly.name == "unseen":
        return
    verdict.anomalies[anomaly.name] += 1
    if len(verdict.shown) < _SHOWN:
        verdict.shown.append(str(anomaly)[:400])


def _compare_replicas(verdict: Verdict, world: World, history: History) -> None:
    ends: dict[Key, int] = defaultdict(int)
    for send in history.sends:
        if send.outcome is Outcome.OK and send.offset is not None:
            key: Key = send.key  # type: ignore[assignment]
            ends[key] = max(ends[key], send.offset + 1)
    folders = world.data_folders()
    for topic, count in world.topics.items():
        for number in range(count):
            # Only what promises so must still be there.
            end = ends[topic, number] if topic == FSYNC else 0
            compared, problems = compare(folders, world.ids[topic], number, end)
            verdict.bytes_compared += compared
            for text in problems:
                verdict.anomalies["replicas-differ"] += 1
                verdict.shown.append(f"replicas-differ in {topic}/{number}: {text}")
    if not verdict.bytes_compared:
        verdict.problems.append("no bytes of replicas were compared")


def _measure_gaps(verdict: Verdict, world: World, history: History) -> None:
    by_key: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    completed: Counter[int] = Counter()
    for send in history.sends:
        if send.outcome is Outcome.OK:
            by_key[send.key].append(  # type: ignore[index]
                (send.invoked_at, send.completed_at)
            )
            completed[int(send.completed_at)] += 1
    verdict.gaps = gaps(world.leader_losses, by_key)
    seconds = sorted(completed)
    if seconds:
        window = min(30, max(1, int(verdict.seconds)))
        starts = range(seconds[0], max(seconds[0] + 1, seconds[-1] - window), 5)
        rates = [sum(completed[start + n] for n in range(window)) / window for start in starts]
        verdict.per_second_min = min(rates, default=0.0)


@dataclass
class Gaps:
    """For how long nobody could write, after losses of one kind."""

    # Kills, or whatever it was; each may have hit several partitions.
    losses: int = 0
    milliseconds: list[float] = field(default_factory=list)
    # The same from when the nodes were started again, where nobody else could take over.
    since_restart: list[float] = field(default_factory=list)
    # Partitions of which no send that began later was acknowledged any more.
    never: int = 0

    def figures(self) -> dict[str, Any]:
        """For the result line."""
        figures = {"kills": self.losses, "never": self.never, **summary(self.milliseconds)}
        if self.since_restart:
            figures["since_restart"] = summary(self.since_restart)
        return figures


def gaps(
    losses: Iterable[LeaderLoss], sends: Mapping[Key, Sequence[tuple[float, float]]]
) -> dict[str, Gaps]:
    """From the loss of a leader to the next acknowledgement of a send that began after it, by
    kind. ``sends``: (begun, acknowledged) in seconds, in the order of their begins."""
    found: dict[str, Gaps] = defaultdict(Gaps)
    for loss in losses:
        keys = [key for key in loss.keys if key[0] == FSYNC]
        if not keys:
            continue
        gap = found[loss.kind if loss.alone else f"{loss.kind} among others"]
        gap.losses += 1
        at_s = loss.at_ns / 1e9
        for key in keys:
            began = bisect_left(sends.get(key, ()), (at_s, 0.0))
            after = [done for _, done in sends.get(key, ())[began:][:5_000]]
            if after:
                gap.milliseconds.append((min(after) - at_s) * 1000)
                if loss.restarted_ns is not None:
                    gap.since_restart.append((min(after) - loss.restarted_ns / 1e9) * 1000)
            else:
                gap.never += 1
    return found


def summarize_lags(lags: Iterable[Lag], healed_s: float) -> dict[str, float]:
    """For how long readers had not read what was there, milliseconds: over the whole run, once
    all was healed, and when they ended."""
    lags = list(lags)
    kinds = {
        "max": [lag.seconds for lag in lags],
        "after_heal_max": [lag.seconds for lag in lags if lag.at >= healed_s],
        "at_end": [lag.seconds for lag in lags if lag.at_end],
    }
    return {kind: round(max(values, default=0.0) * 1000, 1) for kind, values in kinds.items()}


def void_reasons(acknowledged: int, seconds: float, offered: float, injected: int) -> list[str]:
    """Why a run shows nothing, if so: the faults met an idle cluster, or there were none.
    ``offered``: records per second."""
    reasons = [] if injected else ["no fault was injected"]
    held = acknowledged / max(seconds, 0.001)
    if held < _HELD_MIN * offered:
        reasons.append(f"only {held:.0f} of {offered:.0f} records a second were acknowledged")
    return reasons


def tamper(history: History, kind: str) -> None:
    """Falsify what was read, to see that it is found: "lost" (a record that was acknowledged was
    given to nobody), "duplicated" (it stands twice). Raises ValueError."""
    send = next(
        send
        for send in history.sends
        if send.outcome is Outcome.OK and send.offset is not None and send.key == (FSYNC, 0)
    )
    if kind not in ("lost", "duplicated"):
        raise ValueError(f"no such tampering: {kind}")
    polls = [poll for poll in history.polls if send.key in poll.reads]
    if kind == "lost":
        for poll in polls:
            kept = [one for one in poll.reads[send.key] if one[1] != send.value]
            poll.reads[send.key] = kept  # type: ignore[index]
        return
    last = polls[-1]
    reads = list(last.reads[send.key])
    last.reads[send.key] = [*reads, (reads[-1][0] + 1, send.value)]  # type: ignore[index]


def summary(values: list[float]) -> dict[str, Any]:
    """Count, p50, p99 and maximum, rounded."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    return {
        "count": len(ordered),
        "p50": round(ordered[len(ordered) // 2]),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]),
        "max": round(ordered[-1]),
    }
