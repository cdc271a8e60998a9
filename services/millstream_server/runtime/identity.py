"""Who this process is in its cluster."""

from dataclasses import dataclass

ROLES = frozenset({"broker", "metadata", "coordinator"})


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """One start of one node. Everything but ``incarnation_id`` stays the same across restarts."""

    cluster_id: str
    # Unique in the cluster, from 1.
    node_id: int
    # Random, 16 bytes, new at each start: tells a restarted process from a retried registration.
    incarnation_id: bytes
    # What clients and other nodes connect to.
    host: str
    port: int
    # Rack or zone; empty where unknown.
    rack: str
    # Subset of ROLES.
    roles: frozenset[str]
    # Version of the software.
    version: str

    @property
    def address(self) -> str:
        """``host:port`` as gRPC takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def validate(self) -> None:
        """Raises ValueError with the field that is wrong."""
        if not self.cluster_id:
            raise ValueError("cluster_id is empty")
        if not 1 <= self.node_id < 2**31:
            raise ValueError(f"node_id {self.node_id} is not within 1 and 2147483647")
        if len(self.incarnation_id) != 16:
            raise ValueError("incarnation_id is not 16 bytes long")
        if not self.roles or not self.roles <= ROLES:
            raise ValueError(f"roles {sorted(self.roles)} is not a subset of {sorted(ROLES)}")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port {self.port} is not within 0 and 65535")
