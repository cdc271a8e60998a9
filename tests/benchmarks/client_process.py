"""A workload in a process of its own, so that its CPU is its own."""

import json
import subprocess
import sys
from typing import Any

from tests.campaigns.figures import ROOT

_TIMEOUT_S = 600


def run_client(module: str, workload: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Run a workload of a module of ``tests.benchmarks``; the row that it prints. Raises
    RuntimeError with its errors."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", workload, json.dumps(parameters)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{workload} of {module} failed:\n{done.stderr[-4000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row
