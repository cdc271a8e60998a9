"""Judges a cluster from its description: what is broken, what is about to be. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """Nagios' scale; the numbers are its exit codes."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    severity: Severity
    text: str


@dataclass(frozen=True)
class Assessment:
    """The verdict, with the figures behind it."""

    findings: tuple[Finding, ...]
    figures: Mapping[str, int]

    @property
    def severity(self) -> Severity:
        """The worst finding."""
        return max((finding.severity for finding in self.findings), default=Severity.OK)

    @property
    def summary(self) -> str:
        """The worst findings, or the figures when there is none."""
        worst = [each.text for each in self.findings if each.severity == self.severity]
        if worst:
            return "; ".join(worst)
        names = ("brokers", "coordinators", "topics", "partitions")
        return ", ".join(_counted(self.figures[name], name) for name in names)

    def document(self) -> dict[str, Any]:
        """The verdict for programs."""
        return {
            "status": self.severity.name,
            "healthy": self.severity == Severity.OK,
            "findings": [
                {"severity": finding.severity.name, "text": finding.text}
                for finding in self.findings
            ],
            **self.figures,
        }

    def nagios_line(self) -> str:
        """One line as Nagios plug-ins write it, with performance data."""
        data = " ".join(f"{name}={number}" for name, number in self.figures.items())
        return f"MILLSTREAM {self.severity.name} - {self.summary} | {data}"


def assess(
    cluster: Mapping[str, Any],
    topics: Sequence[Mapping[str, Any]],
    quorum: Mapping[str, Any] | None,
) -> Assessment:
    """Judge the documents of `cluster describe`, `topic describe` (all, internal ones too) and
    `metadata quorum describe` (None: it could not be asked)."""
    nodes = cluster["nodes"]
    brokers = [node for node in nodes if "broker" in node["roles"]]
    coordinators = [node for node in nodes if "coordinator" in node["roles"]]
    partitions = [
        (topic["name"], partition) for topic in topics for partition in topic["partitions"]
    ]
    leaderless = [place for place in partitions if place[1].get("leaderId") is None]
    lagging = [
        place
        for place in partitions
        if len(place[1]["inSyncReplicaIds"]) < len(place[1]["replicaIds"])
    ]
    findings = [
        *_judge_nodes("broker", brokers),
        *_judge_nodes("coordinator", coordinators),
        *_judge_partitions(Severity.CRITICAL, "without a leader", leaderless),
        *_judge_partitions(Severity.WARNING, "under-replicated", lagging),
        *_judge_quorum(cluster, quorum),
    ]
    figures = {
        "brokers": sum(not node["fenced"] for node in brokers),
        "coordinators": sum(not node["fenced"] for node in coordinators),
        "topics": len(topics),
        "partitions": len(partitions),
        "leaderless_partitions": len(leaderless),
        "under_replicated_partitions": len(lagging),
    }
    return Assessment(tuple(findings), figures)


def unreachable(text: str) -> Assessment:
    """The verdict on a cluster that does not answer."""
    return Assessment((Finding(Severity.CRITICAL, text),), {})


def _judge_nodes(role: str, nodes: Sequence[Mapping[str, Any]]) -> list[Finding]:
    down = [node["nodeId"] for node in nodes if node["fenced"]]
    if not nodes or len(down) == len(nodes):
        return [Finding(Severity.CRITICAL, f"no {role} is up")]
    if down:
        return [Finding(Severity.WARNING, f"{role} {_numbers(down)} is down")]
    return []


def _judge_partitions(
    severity: Severity, what: str, places: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[Finding]:
    if not places:
        return []
    shown = ", ".join(f"{topic}:{partition['partition']}" for topic, partition in places[:3])
    more = ", …" if len(places) > 3 else ""
    count = "1 partition is" if len(places) == 1 else f"{len(places)} partitions are"
    return [Finding(severity, f"{count} {what} ({shown}{more})")]


def _judge_quorum(cluster: Mapping[str, Any], quorum: Mapping[str, Any] | None) -> list[Finding]:
    if quorum is None or quorum.get("leaderId") is None:
        return [Finding(Severity.CRITICAL, "the metadata quorum has no leader")]
    findings = []
    if cluster.get("controllerId") is None:
        findings.append(Finding(Severity.CRITICAL, "there is no active controller"))
    apart = [node["nodeId"] for node in quorum["nodes"] if not node["connected"]]
    if apart:
        findings.append(
            Finding(Severity.WARNING, f"metadata node {_numbers(apart)} is not connected")
        )
    return findings


def _counted(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"


def _numbers(ids: Sequence[int]) -> str:
    return ", ".join(str(node_id) for node_id in ids)
