"""A real cluster behind proxies under faults, judged; and what is tampered with is found."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns.figures import ROOT
from tests.checker.edn_rules import complaints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(folder: Path, **variables: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the result line and the story of one campaign."""
    # A process of its own, for it enters a mount namespace.
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.faults"],
        cwd=ROOT,
        env={**os.environ, "FOLDER": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr[-4000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_under_faults_nothing_acknowledged_is_lost_doubled_or_reordered(tmp_path: Path) -> None:
    history = tmp_path / "history.edn"
    code, result, story = run(
        tmp_path,
        MINUTES="0.75",
        SEED="187",
        FAULTS="F1,F3,F4,F6,F7,F10,F13,F20",
        EDN=str(history),
    )
    assert code == 0, story
    assert (result["lost"], result["duplicated"], result["reordered"]) == (0, 0, 0)
    assert result["anomalies"] == {}
    assert sum(result["faults"].values()) >= 3
    assert result["acknowledged"] > 1_000
    assert result["replica_bytes_compared"] > 100_000
    assert result["realtime_lag_ms"]["max"] > 0
    assert result["realtime_lag_ms"]["at_end"] == 0
    assert complaints(history.read_text().splitlines()) == []


@pytest.mark.parametrize(
    ("kind", "found"), [("lost", {"lost-write"}), ("duplicated", {"duplicate"})]
)
def test_what_was_tampered_with_is_found(tmp_path: Path, kind: str, found: set[str]) -> None:
    history = tmp_path / "history.edn"
    code, result, story = run(
        tmp_path, MINUTES="0.15", FAULTS="F6", FAULTS_TAMPER=kind, EDN=str(history)
    )
    assert code == 1, story
    assert found <= result["anomalies"].keys()
    assert ":type :ok :f :poll" in history.read_text()
