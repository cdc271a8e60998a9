"""The file that tells how to reach a local cluster.

``cluster.json`` in the cluster's folder: cluster id, bootstrap servers and, for each node, its
name, role, node id, address, admin address, process id and log file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millstream_server.local_cluster.plan import ClusterPlan

CONNECTION_FILE = "cluster.json"


def write_connection(plan: ClusterPlan, pids: Mapping[str, int | None]) -> Path:
    """Write the file anew, whole or not at all."""
    document = {
        "clusterId": plan.cluster_id,
        "bootstrapServers": plan.bootstrap_servers,
        "nodes": [
            {
                "name": node.name,
                "role": node.role,
                "nodeId": node.node_id,
                "address": node.address,
                "adminAddress": f"127.0.0.1:{node.admin_port}",
                "pid": pids.get(node.name),
                "log": str(node.log_path),
            }
            for node in plan.nodes
        ],
    }
    path = plan.folder / CONNECTION_FILE
    partial = path.with_suffix(".json.new")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(partial, path)
    return path


def read_connection(folder: Path) -> dict[str, Any] | None:
    """The content of the file; None if there is none. Raises ValueError if it is not JSON."""
    try:
        text = (folder / CONNECTION_FILE).read_text()
    except FileNotFoundError:
        return None
    document: dict[str, Any] = json.loads(text)
    return document
