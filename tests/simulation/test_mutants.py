"""The planted bugs: their diffs fit the code, and the simulator finds some of them at once."""

import subprocess
from pathlib import Path

import pytest

from tests.campaigns.mutants import Mutant, all_mutants, apply, copy_packages

MUTANTS = all_mutants()
# Of the design's §1: what the data plane, the metadata plane and the storage must keep.
RULES = {*(str(number) for number in range(1, 23)), "34"}


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
