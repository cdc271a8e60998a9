"""Shrinks a failing schedule: as few faults as still break the same rule, and tells its story."""

from collections.abc import Callable, Sequence

from tests.simulation.world.plan import Fault, Plan
from tests.simulation.world.schedule import Report

PLAYS_MAX = 60
Play = Callable[[Plan], Report]


def shrink(
    plan: Plan, found: Report, play: Play, plays_max: int = PLAYS_MAX
) -> tuple[Plan, Report]:
    """A plan with fewer faults that still has one of the violations, and its report.

    Takes away halves, quarters and so on down to single faults (delta debugging), then clients
    and time at the end are as they were: the seed fixes them.
    """
    names = found.names
    best, report = plan, found
    plays = 0
    size = max(1, len(best.faults) // 2)
    while plays < plays_max and best.faults:
        begin = 0
        smaller = False
        while begin < len(best.faults) and plays < plays_max:
            faults = best.faults[:begin] + best.faults[begin + size :]
            plays += 1
            attempt = play(best.with_faults(faults))
            if attempt.names & names:
                best, report, smaller = best.with_faults(faults), attempt, True
            else:
                begin += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return best, report


def tell(plan: Plan, report: Report) -> str:
    """A short story of a failing schedule."""
    lines = [
        f"seed {plan.seed}: {plan.brokers} brokers, {plan.voters} metadata nodes, topics "
        + ", ".join(
            f"{topic.name} ({topic.partitions} x {topic.replication_factor}, "
            f"{'fsync' if topic.fsync else 'page cache'})"
            for topic in plan.topics
        ),
        *_told(report.story),
    ]
    for name, text in report.violations[:3]:
        lines.append(f"then {name}: {text}")
    return "\n  ".join(lines)


def _told(story: Sequence[str]) -> list[str]:
    return list(story[-30:])


def faults_text(faults: Sequence[Fault]) -> str:
    """The faults, one a line."""
    return "\n".join(str(fault) for fault in faults)
