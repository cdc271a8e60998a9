"""The name of a node in certificates, such as ``node-3.my-cluster.millstream.internal``. Pure.

A node's certificate carries this name as a DNS subject alternative name, and it is the only thing
in a certificate that makes its holder a node. It is one name for both directions: who dials a node
lets the TLS library check it as the host name, so nothing is sent to the wrong node; who is called
reads it from the caller's certificate. A DNS name, where SPIFFE has a URI, because that check of
the dialling side exists for host names only. ``.internal`` is reserved for private use, so no
public authority can sign such a name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_CLUSTER_ID = re.compile(_LABEL, re.ASCII)
_NAME = re.compile(
    rf"node-(?P<node_id>[1-9][0-9]{{0,9}})\.(?P<cluster_id>{_LABEL})\.millstream\.internal",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node of a cluster."""

    cluster_id: str
    node_id: int

    def __str__(self) -> str:
        return f"node-{self.node_id}.{self.cluster_id}.millstream.internal"


def can_stand_in_names(cluster_id: str) -> bool:
    """True if a cluster id can be a part of a DNS name: up to 63 of ``a-z``, ``0-9``, ``-``."""
    return _CLUSTER_ID.fullmatch(cluster_id) is not None


def named_node(names: Iterable[str]) -> NodeName | None:
    """The node that a certificate with these DNS names belongs to.

    None if they name no node, or several: a certificate shared by nodes would let each of them
    pass for the others. A wildcard names no node.
    """
    found = [match for match in map(_NAME.fullmatch, names) if match is not None]
    if len(found) != 1:
        return None
    return NodeName(found[0]["cluster_id"], int(found[0]["node_id"]))
