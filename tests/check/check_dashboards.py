"""Checks the Grafana dashboards: fresh, every query parses and names metrics that exist."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}
SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created", "_info")
METRIC = re.compile(r"\b(?:millstream|grpc_server)_[a-z0-9_]+")


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    def panels(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for item in items:
            yield item
            yield from panels(item.get("panels") or [])

    for panel in panels(board["panels"]):
        for target in panel.get("targets") or []:
            yield panel["title"], target["expr"]


def known_metrics() -> tuple[set[str], set[str]]:
    """Whole names, and beginnings that code completes with another literal.

    A test against real processes holds the names that really are served; this finds drift early.
    """
    literals: set[str] = set()
    prefixes: set[str] = set()
    for path in (ROOT / "services" / "millstream_server").rglob("*.py"):
        text = path.read_text()
        literals.update(re.findall(r'"([a-z][a-z0-9_]+)"', text))
        prefixes.update(re.findall(r'f"(millstream_[a-z0-9_]*)\{', text))
        prefixes.update(re.findall(r'"(millstream_[a-z0-9_]*_)"', text))
    return literals, prefixes


def exists(metric: str, known: tuple[set[str], set[str]]) -> bool:
    literals, prefixes = known
    bases = {metric, *(metric.removesuffix(suffix) for suffix in SUFFIXES)}
    completions = {
        base.removeprefix(prefix) for base in bases for prefix in prefixes if base != prefix
    }
    return not literals.isdisjoint(bases | completions)


def problems() -> Iterator[str]:
    known = known_metrics()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, GRAFANA / "generate.py", folder], check=True)
        fresh = {path.name: path.read_text() for path in Path(folder).iterdir()}
    committed = {path.name: path.read_text() for path in GRAFANA.glob("*.json")}
    if fresh != committed:
        yield "generated dashboards are stale: run 'make dashboards'"
    for name, text in committed.items():
        board = json.loads(text)
        if not board.get("uid"):
            yield f"{name}: no fixed uid"
        for title, expression in queries(board):
            filled = expression
            for variable, value in VARIABLES.items():
                filled = filled.replace(variable, value)
            try:
                promql_parser.parse(filled)
            except ValueError as error:
                yield f"{name}: {title}: {error}"
            for metric in METRIC.findall(re.sub(r"\{[^}]*\}", "", filled)):
                if not exists(metric, known):
                    yield f"{name}: {title}: no such metric: {metric}"


def main() -> int:
    found = list(problems())
    for problem in found:
        print(f"dashboards: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
