"""``make faults``: a real cluster behind proxies, under faults by a schedule; everything that its
clients were told is judged.

Variables: MINUTES, SEED, FAULTS (names of classes such as ``F1,F4``; unset: all that work on this
machine), RATE (records per second and writer), EDN (a file that gets the history of the topic that
promises most, in the form of ``jepsen.tests.kafka``), FOLDER (where everything is kept; unset:
nothing is, unless it failed), FAULTS_TAMPER (``lost`` or ``duplicated``: falsify what was read; the
run must then fail). Ctrl-C ends the faults, heals, checks and prints. A run in which the writers
got less than a tenth of what they offer through, or without any fault, is void: it fails.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.campaigns.figures import integer, print_result, progress
from tests.cluster.faults.catalogue import choose
from tests.cluster.faults.disks import DisksForbidden, enter_own_namespace
from tests.cluster.faults.runner import Campaign, Plan
from tests.cluster.faults.verdict import Gaps, Verdict, void_reasons

_WRITERS = 4


def main() -> int:
    """Exit code 0 if nothing was lost, doubled or out of order, and enough was exercised."""
    begin_s = time.monotonic()
    # Also where a shell started it in the background, with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    given = os.environ.get("FOLDER")
    folder = Path(given) if given else Path(tempfile.mkdtemp(prefix="millstream-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        enter_own_namespace(folder)
        disks = True
    except DisksForbidden as error:
        progress(f"no disks of our own: {error}")
        disks = False
    wanted = [name.strip() for name in os.environ.get("FAULTS", "").split(",")]
    try:
        chosen, skipped = choose([name for name in wanted if name], disks=disks)
    except ValueError as error:
        progress(str(error))
        return 2
    minutes = float(os.environ.get("MINUTES") or 2)
    edn = os.environ.get("EDN")
    plan = Plan(
        seed=integer("SEED", 1),
        seconds=minutes * 60,
        classes=tuple(chosen),
        skipped=frozenset(skipped),
        rate=integer("RATE", 160),
        disks=disks,
        tamper=os.environ.get("FAULTS_TAMPER", ""),
        edn=Path(edn) if edn else None,
    )
    progress(f"seed {plan.seed}, {minutes:g} minutes of {', '.join(chosen)}, in {folder}")
    campaign = Campaign(folder.absolute(), plan, progress)
    verdict = campaign.run()
    result = _result(campaign, verdict, skipped)
    result["seconds"] = round(time.monotonic() - begin_s, 1)
    for text in [*verdict.shown, *verdict.problems]:
        progress(text)
    passed = not (verdict.anomalies or verdict.problems)
    print_result({"seed": plan.seed, "minutes": minutes, **result, "passed": passed})
    if passed and not given:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if passed else 1


def _result(campaign: Campaign, verdict: Verdict, skipped: dict[str, str]) -> dict[str, Any]:
    plan, world = campaign.plan, campaign.world
    per_second = verdict.acknowledged / max(verdict.seconds, 0.001)
    offered = plan.rate * _WRITERS
    injected = sum(campaign.injected.values())
    void = void_reasons(verdict.acknowledged, verdict.seconds, offered, injected)
    verdict.problems += [f"void: {reason}" for reason in void]
    killed = verdict.gaps.pop("killed", Gaps())
    return {
        "acknowledged": verdict.acknowledged,
        "checked": verdict.checked,
        "unknown": verdict.unknown,
        "failed": verdict.failed,
        "lost": verdict.lost,
        "lost_places": dict(verdict.lost_places),
        "duplicated": verdict.anomalies["duplicate"],
        "reordered": verdict.reordered,
        "anomalies": dict(verdict.anomalies),
        "page_cache_topics_retired": len(world.retired),
        "faults": dict(sorted(campaign.injected.items())),
        "faults_skipped": skipped,
        "not_possible": dict(campaign.impossible),
        "counts": dict(sorted(world.counts.items())),
        "ended_by_themselves": dict(world.ended_alone),
        # After a leader's kill -9 with nothing else wrong; then after other losses.
        "unavailable_ms": killed.figures(),
        "unavailable_otherwise_ms": {
            kind: gaps.figures() for kind, gaps in sorted(verdict.gaps.items())
        },
        # Of readers; "at_end" must be 0.
        "realtime_lag_ms": verdict.lag_ms,
        "void": bool(void),
        "acknowledged_per_second": round(per_second, 1),
        "acknowledged_per_second_min": round(verdict.per_second_min, 1),
        "offered_per_second": offered,
        "settled_s": round(verdict.settled_s, 1),
        "replica_bytes_compared": verdict.bytes_compared,
        "client_errors": dict(verdict.errors.most_common(12)),
        "problems": verdict.problems,
    }


if __name__ == "__main__":
    sys.exit(main())
