"""``make demo``, small: zeros when nothing is wrong, and failure when records read are spoiled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = [
    "produced", "acknowledged", "consumed", "lost", "duplicated", "redelivered",
    "out_of_order", "committed_lag", "records_per_second", "seconds", "ack_gap_ms_max",
]  # fmt: skip
ZEROS = KEYS[3:8]
RUN_TIMEOUT_S = 300

pytestmark = pytest.mark.timeout(600)


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    cleared = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RECORDS", "LOGS", "KEEP", "KILL", "DEMO_TAMPER")
    }
    return {**cleared, "TMPDIR": str(tmp_path), **variables}


def run_demo(tmp_path: Path, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object of the last line of stdout, and everything for people."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.demo"],
        cwd=REPOSITORY,
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, json.loads(lines[-1]), done.stdout + done.stderr


def test_everything_sent_is_read_once_in_order_and_committed(tmp_path: Path):
    code, result, shown = run_demo(tmp_path, RECORDS="5000")
    assert list(result) == KEYS, shown
    assert (result["produced"], result["acknowledged"], result["consumed"]) == (5000, 5000, 5000)
    assert {name: result[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0), shown
    # The leader of partition 0 was killed half-way; the longest wait for an answer shows it.
    assert shown.count("with kill -9") == 1, shown
    assert result["ack_gap_ms_max"] > 0
    assert code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tamper", "figure", "expected"),
    [("drop", "lost", 7), ("duplicate", "duplicated", 7), ("swap", "out_of_order", 7)],
)
def test_spoiled_records_are_noticed(tmp_path: Path, tamper: str, figure: str, expected: int):
    code, result, shown = run_demo(tmp_path, RECORDS="600", KILL="nobody", DEMO_TAMPER=tamper)
    assert result[figure] == expected, shown
    assert {name: result[name] for name in ZEROS if name != figure} == {
        name: 0 for name in ZEROS if name != figure
    }, shown
    assert code == 1


def test_nothing_acknowledged_is_lost_when_nodes_are_killed(tmp_path: Path):
    code, result, shown = run_demo(tmp_path, RECORDS="20000", KILL="metadata,coordinator,broker")
    assert {name: result[name] for name in ZEROS} == dict.fromkeys(ZEROS, 0), shown
    assert result["produced"] == result["acknowledged"] == 20000
    assert shown.count("is back") == 3
    assert code == 0


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.demo"],
        cwd=REPOSITORY,
        env=environment(tmp_path, RECORDS="1000000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    pids: list[int] = []
    for line in process.stderr:
        if line.startswith("topic logs has"):
            connection = next(tmp_path.glob("millstream-demo-*/cluster/cluster.json"))
            pids = [node["pid"] for node in json.loads(connection.read_text())["nodes"]]
            process.send_signal(signal.SIGINT)
            break
    process.stderr.read()
    assert process.wait(timeout=30) == 130
    assert len(pids) == 8
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and not ended(pid)]
    assert list(tmp_path.iterdir()) == []


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_setting_that_means_nothing_is_one_sentence(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.demo"],
        cwd=REPOSITORY,
        env=environment(tmp_path, KILL="disk"),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    known = "metadata, coordinator, broker, or nobody"
    assert done.stderr == f"demo: KILL=disk is unknown: name any of {known}\n"
