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
TLS_OVERLAY = DEPLOY / "kubernetes" / "overlays" / "prod-3-tls"
GRPC_PROBES = {
    "startupProbe": {"port": 9092, "service": "startup"},
    "readinessProbe": {"port": 9092, "service": "ready"},
    "livenessProbe": {"port": 9092},
}
# Kubelets have no certificate.
ADMIN_PROBES = {
    "startupProbe": {"port": "admin", "path": "/readyz"},
    "readinessProbe": {"port": "admin", "path": "/readyz"},
    "livenessProbe": {"port": "admin", "path": "/healthz"},
}
KUBERNETES_VERSIONS = ("1.30", "1.33", "1.37")
# What a node's own environment adds to the shared ConfigMap.
NODE_VARIABLES = re.compile(r"^MILLSTREAM_")


class CheckError(Exception):
    """A file in deploy/ is wrong."""


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(folder: Path) -> list[dict[str, Any]] | None:
    """A folder as kustomize renders it; None where no kustomize is installed."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, str(folder)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise CheckError(f"{' '.join(command)} {folder}: {done.stderr}")
            return documents(done.stdout)
    print(f"neither kubectl nor kustomize is installed to render {folder.name}", file=sys.stderr)
    return None


def check_kubernetes() -> None:
    base = rendered(BASE)
    if base is None:
        listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
        base = [document for name in listed for document in documents((BASE / name).read_text())]
    check_objects(base, GRPC_PROBES)
    overlay = rendered(TLS_OVERLAY)
    if overlay is not None:
        check_objects(overlay, ADMIN_PROBES)
        check_tls_mounts(overlay)


def check_objects(objects: list[dict[str, Any]], probes: dict[str, Any]) -> None:
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
        check_probes(workload, probes)


def check_tls_mounts(objects: list[dict[str, Any]]) -> None:
    """Every container must find the files that its configuration names, and its own key alone."""
    shared = next(item["data"] for item in objects if item["kind"] == "ConfigMap")
    wanted = {
        shared["MILLSTREAM_TLS__CERTIFICATE__FILE"]: "$(POD_NAME).crt",
        shared["MILLSTREAM_TLS__KEY__FILE"]: "$(POD_NAME).key",
        shared["MILLSTREAM_TLS__CA__FILE"]: "ca.crt",
    }
    for workload in (item for item in objects if item["kind"] == "StatefulSet"):
        pod = workload["spec"]["template"]["spec"]
        for container in (*pod["initContainers"], *pod["containers"]):
            found = {
                mount["mountPath"]: mount.get("subPathExpr") or mount.get("subPath")
                for mount in container["volumeMounts"]
                if mount["name"] == "tls"
            }
            if found != wanted:
                raise CheckError(f"{workload['metadata']['name']}: TLS files mounted: {found}")


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


def check_probes(workload: dict[str, Any], wanted: dict[str, Any]) -> None:
    container = workload["spec"]["template"]["spec"]["containers"][0]
    asked = {
        probe: container[probe].get("grpc") or container[probe].get("httpGet") for probe in wanted
    }
    if asked != wanted:
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
        check_kubernetes()
        check_compose()
        check_dockerfile()
    except (CheckError, ValueError) as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
