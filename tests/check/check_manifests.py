"""Checks everything in deploy/ that can be checked without a cluster or a network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from millstream_server.node.config_sources import load_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
KUBERNETES_VERSIONS = ("1.30", "1.33", "1.37")
# What a node's own environment adds to the shared ConfigMap.
NODE_VARIABLES = re.compile(r"^MILLSTREAM_")


class CheckError(Exception):
    """A file in deploy/ is wrong."""


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered_base() -> list[dict[str, Any]]:
    """The base as kustomize renders it; the plain files where no kustomize is installed."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, str(BASE)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise CheckError(f"{' '.join(command)} {BASE}: {done.stderr}")
            return documents(done.stdout)
    print("neither kubectl nor kustomize is installed: checking the plain files", file=sys.stderr)
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [document for name in listed for document in documents((BASE / name).read_text())]


def check_kustomize() -> None:
    objects = rendered_base()
    for version in KUBERNETES_VERSIONS:
        for item in objects:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                name = f"{item['kind']} {item['metadata']['name']}"
                raise CheckError(f"{name} under Kubernetes {version}: {error}") from None
    workloads = [item for item in objects if item["kind"] == "StatefulSet"]
    if {item["metadata"]["name"] for item in workloads} != {
        "millstream-metadata",
        "millstream-broker",
        "millstream-coordinator",
    }:
        raise CheckError("the base must hold metadata, broker and coordinator workloads")
    shared = next(item["data"] for item in objects if item["kind"] == "ConfigMap")
    for workload in workloads:
        check_pod_environment(workload, shared)
        check_probes(workload)


def check_pod_environment(workload: dict[str, Any], shared: dict[str, str]) -> None:
    """Every pod's environment must be a valid configuration of the node."""
    for index in range(workload["spec"]["replicas"]):
        pod = f"{workload['metadata']['name']}-{index}"
        environment = dict(shared)
        for variable in workload["spec"]["template"]["spec"]["containers"][0]["env"]:
            if NODE_VARIABLES.match(variable["name"]):
                value = (
                    variable["value"]
                    .replace("$(POD_INDEX)", str(index))
                    .replace("$(POD_NAME)", pod)
                    .replace("$(POD_NAMESPACE)", "logs")
                )
                environment[variable["name"]] = value
        load_config(None, environment, {})


def check_probes(workload: dict[str, Any]) -> None:
    container = workload["spec"]["template"]["spec"]["containers"][0]
    asked = {
        probe: container[probe]["grpc"].get("service", "")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    if asked != {"startupProbe": "startup", "readinessProbe": "ready", "livenessProbe": ""}:
        raise CheckError(f"{workload['metadata']['name']}: probes ask for {asked}")


def check_compose() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    nodes = {name: item for name, item in compose["services"].items() if "environment" in item}
    for item in nodes.values():
        load_config(None, item["environment"], {})
        for volume in item["volumes"]:
            if volume.split(":")[0] not in compose["volumes"]:
                raise CheckError(f"compose.yaml: volume {volume} is not declared")
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = {
        target.split(":")[0]
        for job in scraped["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    if targets != set(nodes):
        raise CheckError(f"prometheus.yml scrapes {targets}, compose.yaml starts {set(nodes)}")


def check_dockerfile() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            for source in words[1:-1]:
                if not (ROOT / source).exists():
                    raise CheckError(f"Dockerfile copies {source}, which does not exist")


def main() -> int:
    try:
        check_kustomize()
        check_compose()
        check_dockerfile()
    except (CheckError, ValueError) as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
