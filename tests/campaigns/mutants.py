"""``make mutants``: bugs planted in production code, one at a time; the simulator must find each.

A mutant is a diff in ``tests/simulation/mutants``. It is applied to a copy of the packages, and
``tests.campaigns.sim`` runs on the copy, seed by seed until a rule breaks: then it is *caught*. It
*counts* only if the quiet schedules pass with it, for a bug that any test would see proves little.
The code as it is must pass the same seeds.

Variables: SEEDS (most that a mutant is given), FIRST_SEED, QUIET_SEEDS, JOBS (processes at a time),
ONLY (a part of the names), RESUME (a file that keeps what was found, so that a campaign can be
interrupted; what was missed, and diffs that changed, are tried again).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.campaigns.figures import ROOT, integer, print_result, progress

FOLDER = ROOT / "tests" / "simulation" / "mutants"
PACKAGES = (
    "services/millstream_server",
    "metadata_raft/millstream_raft",
    "client_sdk/python/millstream",
)
# The cluster did not even start: that is no catch.
_NO_CATCH = frozenset({"no-topics"})
# Seconds that a seed may take at most on a busy machine.
_SEED_S_MAX = 60


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug."""

    name: str
    path: Path
    # What it does wrong.
    bug: str
    # Rules of the design that it breaks, and rows of the table of known bugs.
    rules: str
    rows: str

    @classmethod
    def read(cls, path: Path) -> "Mutant":
        """From a diff with its header. Raises ValueError."""
        head, mark, _ = path.read_text().partition("\n--- a/")
        fields = {}
        for paragraph in (
            head.replace("\nRules: ", "\0Rules: ").replace("\nRows: ", "\0Rows: ").split("\0")
        ):
            key, _, value = paragraph.partition(": ")
            fields[key] = " ".join(value.split())
        if not mark or not fields.get("Bug") or not fields.get("Rules"):
            raise ValueError(f"{path.name}: no header that says which bug and which rules")
        return cls(path.stem, path, fields["Bug"], fields["Rules"], fields.get("Rows", ""))

    @property
    def digest(self) -> str:
        """Changes with the diff."""
        return sha256(self.path.read_bytes()).hexdigest()[:12]


def all_mutants() -> list[Mutant]:
    """Every mutant, in order."""
    return [Mutant.read(path) for path in sorted(FOLDER.glob("*.diff"))]


def copy_packages(target: Path) -> None:
    """Copy production code to where PYTHONPATH may point; ``a/`` paths of diffs hold there."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__")
        )


def apply(mutant: Mutant, target: Path) -> None:
    """Plant the bug in a copy. Raises CalledProcessError if the diff does not apply."""
    command = ["git", "apply", "-C1", str(mutant.path)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(target.parent)}
    subprocess.run(command, cwd=target, env=environment, check=True, capture_output=True, text=True)


def python_path(target: Path) -> str:
    """PYTHONPATH of a copy, so that it comes before what is installed."""
    return os.pathsep.join(str((target / package).parent) for package in PACKAGES)


@dataclass(slots=True)
class Trial:
    """What became of a mutant."""

    name: str
    digest: str
    # Names of what broke in quiet schedules: then the mutant does not count.
    quiet: list[str]
    # Seeds until it was caught; None if it was not.
    seeds: int | None
    # What was found then.
    violations: list[str]

    @property
    def counts(self) -> bool:
        """True if quiet schedules pass with it."""
        return not self.quiet

    @property
    def caught(self) -> bool:
        """True if it counts and was found."""
        return self.counts and self.seeds is not None


def simulate(target: Path, seeds: int, first_seed: int, *, faults: bool) -> dict[str, Any]:
    """Run the simulator on a copy until something breaks; its last line."""
    environment = {
        **os.environ,
        "PYTHONPATH": python_path(target),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SEEDS": str(seeds),
        "FIRST_SEED": str(first_seed),
        "FAULTS": str(int(faults)),
        "SHRINK": "0",
        "STOP": "1",
        "MINUTES": "0",
        "RESUME": "",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.campaigns.sim"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SEED_S_MAX * seeds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failing_seeds": [], "violations": {}, "schedules": 0}
    lines = done.stdout.splitlines()
    if not lines:
        raise RuntimeError(f"the simulator ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def attempt(mutant: Mutant, seeds: int, first_seed: int, quiet_seeds: int) -> Trial:
    """Try to find a mutant."""
    with tempfile.TemporaryDirectory(prefix="millstream-mutant-") as folder:
        target = Path(folder)
        copy_packages(target)
        apply(mutant, target)
        found = simulate(target, seeds, first_seed, faults=True)
        trial = Trial(mutant.name, mutant.digest, [], None, sorted(found["violations"]))
        if found["failing_seeds"] and not set(trial.violations) <= _NO_CATCH:
            trial.seeds = found["failing_seeds"][0] - first_seed + 1
            quiet = simulate(target, quiet_seeds, first_seed, faults=False)
            trial.quiet = sorted(quiet["violations"])
    return trial


def _load(path: Path | None) -> dict[str, Trial]:
    if path is None or not path.exists():
        return {}
    trials = [Trial(**json.loads(line)) for line in path.read_text().splitlines()]
    return {trial.digest: trial for trial in trials if trial.seeds is not None}


def _try_all(
    mutants: Sequence[Mutant], jobs: int, resume: Path | None, sizes: tuple[int, int, int]
) -> list[Trial]:
    known = _load(resume)

    def work(mutant: Mutant) -> Trial:
        trial = known.get(mutant.digest)
        if trial is None:
            trial = attempt(mutant, *sizes)
            if resume is not None:
                with resume.open("a") as file:
                    file.write(json.dumps(asdict(trial)) + "\n")
        told = f"caught after {trial.seeds}: {', '.join(trial.violations)}"
        if not trial.caught:
            told = "missed" if trial.counts else f"does not count: {', '.join(trial.quiet)}"
        progress(f"{mutant.name} (rule {mutant.rules}): {told}")
        return trial

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, mutants))


def main() -> int:
    """Exit code 0 if every mutant was caught and the code as it is passes the same seeds."""
    seeds, first_seed = integer("SEEDS", 30), integer("FIRST_SEED", 1)
    quiet_seeds = integer("QUIET_SEEDS", 20)
    resume = Path(os.environ["RESUME"]) if os.environ.get("RESUME") else None
    mutants = [one for one in all_mutants() if os.environ.get("ONLY", "") in one.name]
    began = time.monotonic()
    trials = _try_all(mutants, integer("JOBS", 2), resume, (seeds, first_seed, quiet_seeds))
    caught = [trial for trial in trials if trial.caught]
    needed = max((trial.seeds or 0 for trial in caught), default=0)
    unmutated = [
        simulate(ROOT, quiet_seeds, first_seed, faults=False),
        simulate(ROOT, needed, first_seed, faults=True) if needed else {"violations": {}},
    ]
    sound = not any(one["violations"] for one in unmutated)
    print_result(
        {
            "first_seed": first_seed,
            "seeds_max": seeds,
            "quiet_seeds": quiet_seeds,
            "mutants": len(trials),
            "caught": len(caught),
            "median_seeds": statistics.median([one.seeds or 0 for one in caught] or [0]),
            "missed": [one.name for one in trials if one.counts and not one.caught],
            "do_not_count": [one.name for one in trials if not one.counts],
            "unmutated_passes": sound,
            "seeds": {trial.name: trial.seeds for trial in caught},
            "seconds": round(time.monotonic() - began, 1),
        }
    )
    return 0 if trials and len(caught) == len(trials) and sound else 1


if __name__ == "__main__":
    sys.exit(main())
