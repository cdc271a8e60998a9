"""The planted bugs: their diffs fit the code, and the simulator finds some of them at once."""

import subprocess
from pathlib import Path

import pytest

from tests.campaigns.mutants import Mutant, all_mutants, apply, copy_packages, simulate

MUTANTS = all_mutants()
# Of the design's §1: what the data plane, the metadata plane and the storage must keep.
RULES = {*(str(number) for number in range(1, 23)), "34"}
# Mutants that one schedule shows, with its seed. Where a change of the simulator draws other
# schedules, ``make mutants ONLY=<name>`` tells another seed.
QUICK = {
    "request-executed-twice": 6,
    "leader-epoch-not-stepped": 1,
    "fenced-follower-stays-in-sync": 1,
    "joiner-of-another-registration": 32,
    "eligible-leader-forgotten": 1,
    "unclean-restart-keeps-its-place": 5,
    "mark-moves-below-minimum": 22,
    "joins-below-high-watermark": 1,
    "truncates-to-high-watermark": 3,
    "no-repeat-detected": 1,
    "drained-leader-put-out": 11,
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages."""
    target = tmp_path_factory.mktemp("mutants")
    copy_packages(target)
    return target


def test_every_diff_applies(copy: Path) -> None:
    """Where one does not, the code it is about has changed: plant the same bug there anew."""
    stale = []
    for mutant in MUTANTS:
        try:
            apply(mutant, copy)
            subprocess.run(["git", "apply", "-C1", "-R", str(mutant.path)], cwd=copy, check=True)
        except subprocess.CalledProcessError as error:
            stale.append(f"{mutant.name}: {error.stderr}")
    assert not stale, "\n".join(stale)


def test_there_is_a_mutant_for_every_rule() -> None:
    covered = {
        rule.rstrip("ab") for mutant in MUTANTS for rule in mutant.rules.replace(" ", "").split(",")
    }
    assert covered >= RULES, sorted(RULES - covered)
    assert len(MUTANTS) >= 30


def test_a_diff_without_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "01-nameless.diff"
    path.write_text("--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match="header"):
        Mutant.read(path)


@pytest.mark.parametrize(("name", "seed"), QUICK.items())
def test_the_simulator_finds_it(name: str, seed: int, tmp_path: Path) -> None:
    (mutant,) = [one for one in MUTANTS if one.name.partition("-")[2] == name]
    copy_packages(tmp_path)
    apply(mutant, tmp_path)
    found = simulate(tmp_path, 1, seed, faults=True)
    assert found["violations"], f"seed {seed} shows {name} no more"
