"""What the brokers of a cluster counted: requests, messages between processes, bytes of batches."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from millstream_server.local_cluster.supervisor import LocalCluster

_MESSAGES = ("grpc_server_msg_received_total", "grpc_server_msg_sent_total")
_METHODS = ("Produce", "Replicate", "Fetch")
_BYTES_IN = "millstream_topic_bytes_in_total"
_TIMEOUT_S = 10


@dataclass(frozen=True)
class Traffic:
    """Of all brokers together, since they started or since another look."""

    # Messages of producers.
    requests: float = 0
    # Messages in and out of the streams for producing, replicating and fetching.
    messages: float = 0
    # Bytes of batches that leaders took in.
    bytes_in: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        """What came after an earlier look."""
        return Traffic(
            self.requests - before.requests,
            self.messages - before.messages,
            self.bytes_in - before.bytes_in,
        )


def traffic_of(cluster: LocalCluster) -> Traffic:
    """Ask the metrics of every broker. Raises OSError."""
    requests = messages = size = 0.0
    for name, labels, value in _samples(cluster):
        if name == _BYTES_IN:
            size += value
        elif name in _MESSAGES and labels["grpc_method"] in _METHODS:
            messages += value
            if labels["grpc_method"] == "Produce" and name == _MESSAGES[0]:
                requests += value
    return Traffic(requests, messages, int(size))


def _samples(cluster: LocalCluster) -> Iterator[tuple[str, dict[str, str], float]]:
    for node in cluster.plan.with_role("broker"):
        url = f"http://127.0.0.1:{node.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value
