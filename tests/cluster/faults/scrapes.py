"""What nodes say of themselves on their admin ports, which no fault on a link reaches."""

import http.client
import re
from collections.abc import Iterable
from dataclasses import dataclass

from millstream_server.local_cluster import NodePlan

_TIMEOUT_S = 1.0
_LAG = re.compile(
    r'^millstream_replica_lag_records\{partition="(\d+)",replica="\d+",topic="([^"]+)"\}'
    r'|^millstream_replica_lag_records\{topic="([^"]+)",partition="(\d+)",replica="\d+"\}',
    re.MULTILINE,
)
_IN_SYNC = re.compile(
    r"^millstream_partition_in_sync_replicas\{([^}]*)\} ([0-9.]+)",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_CONTROLLER = re.compile(r"^millstream_active_controller 1", re.MULTILINE)

_OFFLINE = re.compile(r"^millstream_log_dir_offline\{[^}]*\} 1", re.MULTILINE)

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Lead:
    """A partition as its leader sees it."""

    leader: str
    in_sync: int


def leads(brokers: Iterable[NodePlan]) -> dict[Key, Lead]:
    """The partitions that somebody leads; a broker that does not answer counts as leading none.
    Where two say that they lead, the one with more in sync is believed."""
    found: dict[Key, Lead] = {}
    for broker in brokers:
        text = _metrics(broker)
        led = set()
        for match in _LAG.finditer(text):
            topic, number = match[2] or match[3], match[1] or match[4]
            led.add((topic, int(number)))
        for match in _IN_SYNC.finditer(text):
            labels = dict(_LABEL.findall(match[1]))
            key = (labels["topic"], int(labels["partition"]))
            lead = Lead(broker.name, int(float(match[2])))
            if key in led and (key not in found or found[key].in_sync < lead.in_sync):
                found[key] = lead
    return found


def controller(metadata: Iterable[NodePlan]) -> str | None:
    """The node that says that it is the active controller."""
    for node in metadata:
        if _CONTROLLER.search(_metrics(node)):
            return node.name
    return None


def is_offline(broker: NodePlan) -> bool:
    """True if it says that its folder failed for good."""
    return _OFFLINE.search(_metrics(broker)) is not None


def _metrics(node: NodePlan) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", node.admin_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
