"""TLS of a node: its certificate, checked before it is used, and what is built from it.

TLS is mutual on the whole port: grpcio can demand a client's certificate or not ask for one at
all, and nodes must present theirs. So every caller has a certificate of the cluster's authority;
those of nodes say which node, see ``node_name``.
"""

import ssl
from dataclasses import dataclass
from typing import Any

import grpc

from millstream_server.runtime.channels import ChannelOptions
from millstream_server.runtime.node_name import NodeName, can_stand_in_names, named_node

_HANDSHAKE_STEPS_MAX = 20


class TlsError(Exception):
    """The files cannot serve as this node's TLS identity; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    # The node's certificate, followed by those between it and the authority, if any.
    certificate: str
    key: str
    # Certificates of the authorities trusted for nodes and clients.
    ca: str


class NodeTls:
    """The TLS identity of a node. Made by ``load``; never shows its key."""

    def __init__(
        self, name: NodeName, certificate: bytes, key: bytes, ca: bytes, presented: dict[str, Any]
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._ca = ca
        self.name = name
        self._hosts = frozenset(
            value for kind, value in presented["subjectAltName"] if kind in ("DNS", "IP Address")
        )
        #: When the certificate ends, Unix time in seconds.
        self.expires_at_s = ssl.cert_time_to_seconds(presented["notAfter"])
        self._credentials = grpc.ssl_channel_credentials(ca, key, certificate)

    @classmethod
    def load(cls, files: TlsFiles, cluster_id: str, node_id: int) -> "NodeTls":
        """Read the files and check that other nodes will accept them. Raises TlsError."""
        if not can_stand_in_names(cluster_id):
            raise TlsError(
                f"cluster.id {cluster_id!r} cannot stand in certificates: with tls.* it must be "
                "up to 63 of a-z, 0-9 and -"
            )
        certificate = _read("tls.certificate.file", files.certificate)
        key = _read("tls.key.file", files.key)
        ca = _read("tls.ca.file", files.ca)
        presented = _presented(files)
        names = [name for kind, name in presented.get("subjectAltName", ()) if kind == "DNS"]
        wanted = NodeName(cluster_id, node_id)
        if named_node(names) != wanted:
            raise TlsError(
                f"tls.certificate.file {files.certificate} is not this node's: of its DNS names "
                f"({', '.join(names) or 'none'}) exactly one must name a node, {wanted}"
            )
        return cls(wanted, certificate, key, ca, presented)

    def names_host(self, host: str) -> bool:
        """True if clients that connect to this host accept the certificate."""
        _, _, parent = host.partition(".")
        return host in self._hosts or f"*.{parent}" in self._hosts

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of the node's port: callers without a trusted certificate are refused."""
        return grpc.ssl_server_credentials(
            [(self._key, self._certificate)], self._ca, require_client_auth=True
        )

    def dial(self, node_id: int, address: str, options: ChannelOptions) -> grpc.aio.Channel:
        """A channel to a node of this cluster: whoever listens at the address must be that node.
        See ``channels.Dial``."""
        expected = str(NodeName(self.name.cluster_id, node_id))
        named = ("grpc.ssl_target_name_override", expected)
        return grpc.aio.secure_channel(address, self._credentials, options=(*options, named))


def _read(key: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise TlsError(f"cannot read {key} {path}: {error.strerror}") from None


def _presented(files: TlsFiles) -> dict[str, Any]:
    """The certificate as a peer sees it, after a handshake of the node with itself in memory.

    So everything that would make peers refuse it (the wrong authority, dates, purpose, a key of
    another certificate) is told when the node starts, and not by connections that fail. Raises
    TlsError.
    """
    server = _context(ssl.PROTOCOL_TLS_SERVER, files)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    client.check_hostname = False  # the names are judged by the caller
    client.verify_mode = server.verify_mode = ssl.CERT_REQUIRED
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        for _ in range(_HANDSHAKE_STEPS_MAX):
            waiting = []
            for side in sides:
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    waiting.append(side)
            if not waiting:
                return dict(sides[1].getpeercert() or {})
    except ssl.SSLCertVerificationError as error:
        raise TlsError(
            f"other nodes would refuse tls.certificate.file {files.certificate} with tls.ca.file "
            f"{files.ca}: {error.verify_message}"
        ) from None
    except ssl.SSLError as error:
        raise TlsError(f"TLS does not work with these files: {error.reason}") from None
    raise TlsError("TLS does not work with these files: the handshake does not end")


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    try:
        # A password, or OpenSSL would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        mismatch = getattr(error, "reason", "") == "KEY_VALUES_MISMATCH"
        raise TlsError(
            f"tls.key.file {files.key} is the key of another certificate"
            if mismatch
            else f"tls.certificate.file {files.certificate} and tls.key.file {files.key} must be "
            "a certificate and its key as PEM, the key without a password"
        ) from None
    try:
        context.load_verify_locations(files.ca)
    except ssl.SSLError:
        raise TlsError(f"tls.ca.file {files.ca} holds no certificate as PEM") from None
    return context
