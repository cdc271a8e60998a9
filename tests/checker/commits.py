"""Judges committed positions: they never go back, and cover only what the group was given."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping

from tests.checker.history import History, Key, Position
from tests.checker.versions import Anomaly, Versions

_Place = tuple[Hashable, Key]


def judge_commits(history: History, versions: Mapping[Key, Versions]) -> Iterator[Anomaly]:
    """The anomalies of commits, per group and key."""
    by_place: dict[_Place, list[Position]] = defaultdict(list)
    for commit in history.commits:
        by_place[history.groups.get(commit.process), commit.key].append(commit)
    given = _given(history)
    for (group, key), commits in by_place.items():
        yield from _regressions(key, commits)
        # Who is in no group may have read before this history begins.
        if group is not None:
            standing = versions[key].read_offsets if key in versions else []
            yield from _skips(key, commits, given[group, key], standing)


def _regressions(key: Key, commits: list[Position]) -> Iterator[Anomaly]:
    known = 0
    answered = sorted(commits, key=lambda one: one.line)
    taken = 0
    for seen in sorted(commits, key=lambda one: one.begun_line):
        while taken < len(answered) and answered[taken].line < seen.begun_line:
            known = max(known, answered[taken].offset)
            taken += 1
        if seen.offset < known:
            text = f"{seen.process} saw {seen.offset}, after {known}"
            yield Anomaly("commit-regression", key, text)


def _given(history: History) -> dict[_Place, list[tuple[int, int]]]:
    """(line, offset) of the records that the members of a group were given."""
    given: dict[_Place, list[tuple[int, int]]] = defaultdict(list)
    for poll in history.polls:
        group = history.groups.get(poll.process)
        if group is not None:
            for key, reads in poll.reads.items():
                given[group, key] += [(poll.line, offset) for offset, _ in reads]
    return given


def _skips(
    key: Key, commits: list[Position], given: list[tuple[int, int]], standing: list[int]
) -> Iterator[Anomaly]:
    """``standing``: the offsets that hold a record, in order. A group reads from the beginning."""
    delivered: set[int] = set()
    reached = taken = 0
    for commit in sorted(commits, key=lambda one: one.begun_line):
        while taken < len(given) and given[taken][0] < commit.begun_line:
            delivered.add(given[taken][1])
            taken += 1
        while reached < len(standing) and standing[reached] in delivered:
            reached += 1
        covered = bisect_left(standing, commit.offset)
        if covered > reached:
            missing = [one for one in standing[reached:covered] if one not in delivered]
            text = f"{commit.process} committed {commit.offset}; {missing[:5]} were given to nobody"
            yield Anomaly("commit-skips", key, text)
            return  # every later commit would say the same
        if commit.offset > max(delivered, default=-1) + 1:
            text = (
                f"{commit.process} committed {commit.offset}, beyond all that its group was given"
            )
            yield Anomaly("commit-skips", key, text)
            return
