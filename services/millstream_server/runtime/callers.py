"""Which nodes call: known from their certificates, never from what messages say (CVE-2018-1288).

``NodeGate`` asks before any internal method; methods that speak for one node (a voter's stream, a
registration) ask whether the caller is that node.
"""

from typing import Any, Protocol

import grpc

from millstream_server.runtime.node_name import NodeName, named_node

Context = grpc.aio.ServicerContext[Any, Any]


class Callers(Protocol):
    """What is known of callers."""

    def is_a_node(self, context: Context) -> bool:
        """True if the caller is a node of this cluster."""

    def is_node(self, context: Context, node_id: int) -> bool:
        """True if the caller is this node of this cluster."""


class UnknownCallers:
    """On a plaintext port nobody can be known, and everybody is believed: right only where nobody
    else can reach the port."""

    def is_a_node(self, context: Context) -> bool:
        """See ``Callers``."""
        return True

    def is_node(self, context: Context, node_id: int) -> bool:
        """See ``Callers``."""
        return True


class CertifiedCallers:
    """Reads the certificate of the caller's connection."""

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id

    def is_a_node(self, context: Context) -> bool:
        """See ``Callers``."""
        name = _name_of(context)
        return name is not None and name.cluster_id == self._cluster_id

    def is_node(self, context: Context, node_id: int) -> bool:
        """See ``Callers``."""
        return _name_of(context) == NodeName(self._cluster_id, node_id)


def _name_of(context: Context) -> NodeName | None:
    # Verified DNS names only: the other names of a certificate, its subject too, prove nothing.
    names = context.auth_context().get("peer_dns", ())
    return named_node(name.decode("ascii", "replace") for name in names)
