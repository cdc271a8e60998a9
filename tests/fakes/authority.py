"""A certificate authority for tests, and the files that nodes and clients read from it."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme

_PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
LOOPBACK = ("127.0.0.1", "localhost")


def node_name(cluster_id: str, node_id: int) -> str:
    """The name that makes a certificate a node's, written out: tests must notice a change."""
    return f"node-{node_id}.{cluster_id}.millstream.internal"


class Authority:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, label: str, *names: str, expired: bool = False) -> tuple[Path, Path]:
        """Certificate and key for these names."""
        dates: dict[str, Any] = {}
        if expired:
            dates = {"not_before": _PAST, "not_after": _PAST + datetime.timedelta(days=1)}
        issued = self._authority.issue_cert(*(names or (f"{label}.example",)), **dates)
        certificate, key = self._folder / f"{label}.pem", self._folder / f"{label}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def node(self, cluster_id: str, node_id: int) -> dict[str, str]:
        """A node's keys of configuration, with certificates to read."""
        name = node_name(cluster_id, node_id)
        return self.node_keys(*self.issue(f"node-{node_id}", name, *LOOPBACK))

    def node_keys(self, certificate: Path, key: Path) -> dict[str, str]:
        """Keys of configuration of a node with these files."""
        return {
            "tls.certificate.file": str(certificate),
            "tls.key.file": str(key),
            "tls.ca.file": str(self.ca),
        }

    def client(self, label: str = "client") -> Mapping[str, str]:
        """Properties of a client with a certificate that names no node."""
        certificate, key = self.issue(label)
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.ca),
            "ssl.certificate.location": str(certificate),
            "ssl.key.location": str(key),
        }
