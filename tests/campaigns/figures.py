"""What every campaign prints and measures: the last line, progress, CPU and memory of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def commit() -> str:
    """The commit that is measured, with a mark if the tree differs from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def print_result(result: dict[str, Any]) -> None:
    """Print the last line of stdout: one JSON object, with the commit."""
    sys.stderr.flush()
    print(json.dumps({"commit": commit(), **result}), flush=True)


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, seconds. Raises OSError if it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def rss_megabytes(pid: int) -> float:
    """Resident memory of a process, MB (10^6 bytes). Raises OSError if it is gone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 1e6


def integer(name: str, default: int) -> int:
    """A size from the environment, as make passes it."""
    return int(os.environ.get(name) or default)
