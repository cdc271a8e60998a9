"""One node: the only place that wires the roles of a process together."""

import asyncio
import random
from importlib import metadata
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Gauge, Info

from millstream_raft.directory_errors import REPLACE_DISK, RaftDirectoryError
from millstream_server.broker.app import BrokerApp
from millstream_server.cluster.metadata_plane import NodeRegistration
from millstream_server.cluster.metadata_servicer import MetadataServicer
from millstream_server.cluster.view import ClusterView
from millstream_server.coordinator.app import CoordinatorApp
from millstream_server.metadata.app import MetadataApp, quorum_on_disk
from millstream_server.node import settings
from millstream_server.node.config import NodeConfig, split_address
from millstream_server.node.data_folder import DataFolder, DataFolderError, FolderIdentity
from millstream_server.node.recovery_report import RecoveryReport
from millstream_server.runtime.admin_server import AdminServer
from millstream_server.runtime.callers import Callers, CertifiedCallers, UnknownCallers
from millstream_server.runtime.channels import dial_plaintext
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.grpc_server import READY, STARTUP, GrpcServer
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.loop_lag import LoopLag
from millstream_server.runtime.ports import Clock, Files
from millstream_server.runtime.tls import NodeTls, TlsError
from millstream_server.storage.errors import StorageError

_log = structlog.get_logger()
_GRACE_S = 1.0
_REGISTRATION_TRY_MS = 5_000


class NodeStartError(Exception):
    """The node cannot run; the message is one plain sentence that says what to do."""


class Node:
    """Use in this order: ``start``, ``become_ready``, ``stop`` (always)."""

    def __init__(self, config: NodeConfig, *, clock: Clock, files: Files) -> None:
        self._config = config
        self._clock = clock
        self._files = files
        self._random = random.SystemRandom()
        self._metrics = CollectorRegistry()
        self._folder = DataFolder(config.data_dir, files)
        self._ready = False
        self._admin = AdminServer(self._metrics, lambda: self._ready)
        self._loop_lag = LoopLag(self._metrics)
        self._tls: NodeTls | None = None
        self._callers: Callers = UnknownCallers()
        self._server: GrpcServer | None = None
        self._metadata: MetadataApp | None = None
        self._broker: BrokerApp | None = None
        self._coordinator: CoordinatorApp | None = None
        self._view: ClusterView | None = None
        self._public_metadata: MetadataServicer | None = None
        self._services: list[str] = []

    @property
    def port(self) -> int:
        """Port of the gRPC server once started."""
        return self._server.port if self._server is not None else 0

    async def start(self) -> None:
        """Recover what the disk holds, then serve. Raises NodeStartError or DataFolderError."""
        self._folder.lock()
        cluster_id = self._own_cluster_id()
        self._tls = self._load_tls(cluster_id)
        self._server = self._bind(cluster_id)
        identity = self._identity(cluster_id, self._server.port)
        _log.info("starting", node_id=identity.node_id, roles=sorted(identity.roles))
        try:
            await self._wire(identity, self._server)
            await self._serve(identity, self._server)
        except (StorageError, RaftDirectoryError, ServiceError, OSError) as error:
            raise NodeStartError(str(error)) from error

    async def become_ready(self) -> None:
        """Wait until the node takes part in its cluster. Raises NodeStartError if it never may."""
        assert self._server is not None
        assert self._view is not None
        if self._broker is None and self._coordinator is None:
            while self._view.image.version == 0:
                await self._try(self._view.wait_for_version(1, timeout_ms=_REGISTRATION_TRY_MS))
        else:
            while not self._view.in_session():
                # Its id is free once the session of the process before, if any, is over.
                try_ms = self._config.broker_session_timeout_ms + _REGISTRATION_TRY_MS
                await self._try(self._view.wait_registered(timeout_ms=try_ms))
        if self._metadata is not None:
            await self._metadata.wait_until_it_votes()
        self._ready = True
        await self._server.set_serving(STARTUP, READY, *self._services)
        _log.info("ready", node_id=self._config.node_id, port=self._server.port)

    async def stop(self) -> None:
        """Stop gracefully, whatever was started; bounded by ``shutdown.timeout.ms``."""
        self._ready = False
        try:
            async with asyncio.timeout(self._config.shutdown_timeout_ms / 1000):
                await self._stop_roles()
        except TimeoutError:
            _log.error("graceful stop took too long", limit_ms=self._config.shutdown_timeout_ms)
        self._loop_lag.stop()
        await self._admin.stop()
        self._folder.unlock()
        _log.info("stopped", node_id=self._config.node_id)

    # Starting

    def _own_cluster_id(self) -> str:
        found = self._folder.read_identity()
        config = self._config
        if found is not None:
            self._folder.check_identity(found, config.cluster_id, config.node_id)
            return found.cluster_id
        if "metadata" in config.process_roles:
            raise NodeStartError(
                f"{self._folder.path} is not formatted: if this node is new, run "
                "'millstream format' once; if it had data, its disk is not mounted, or lost; if "
                f"it is lost, {REPLACE_DISK}"
            )
        if not config.cluster_id:
            raise NodeStartError("set cluster.id to the same value on every node of the cluster")
        # A broker's or coordinator's empty folder harms nobody: it registers as a new incarnation.
        self._folder.write_identity(FolderIdentity(config.cluster_id, config.node_id))
        return config.cluster_id

    def _load_tls(self, cluster_id: str) -> NodeTls | None:
        files = settings.tls_files(self._config)
        if files is None:
            return None
        try:
            tls = NodeTls.load(files, cluster_id, self._config.node_id)
        except TlsError as error:
            raise NodeStartError(str(error)) from None
        host, _ = split_address(self._config.advertised_listeners or self._config.listeners)
        if not tls.names_host(host):
            _log.warning(
                "clients cannot verify this node: its certificate does not name the host that "
                "they connect to",
                host=host,
                certificate=files.certificate,
            )
        Gauge(
            "millstream_certificate_expiry_timestamp_seconds",
            "When the node's certificate ends, Unix time.",
            registry=self._metrics,
        ).set(tls.expires_at_s)
        return tls

    def _bind(self, cluster_id: str) -> GrpcServer:
        tls = self._tls
        self._callers = CertifiedCallers(cluster_id) if tls is not None else UnknownCallers()
        try:
            return GrpcServer(
                self._config.listeners,
                self._metrics,
                reflection=self._config.reflection_enable,
                callers=self._callers,
                credentials=tls.server_credentials() if tls is not None else None,
            )
        except RuntimeError:
            raise NodeStartError(
                f"cannot listen on {self._config.listeners}: another program uses it; "
                "choose another port"
            ) from None

    def _identity(self, cluster_id: str, port: int) -> NodeIdentity:
        config = self._config
        host, advertised = split_address(config.advertised_listeners or config.listeners)
        identity = NodeIdentity(
            cluster_id=cluster_id,
            node_id=config.node_id,
            incarnation_id=self._random.randbytes(16),
            host=host,
            port=advertised or port,
            rack=config.rack,
            roles=frozenset(config.process_roles),
            version=metadata.version("millstream"),
        )
        Info("millstream_build", "Version.", registry=self._metrics).info(
            {"version": identity.version}
        )
        Gauge(
            "millstream_node_info", "Who this is.", ("node_id", "rack"), registry=self._metrics
        ).labels(str(identity.node_id), identity.rack).set(1)
        return identity

    async def _wire(self, identity: NodeIdentity, server: GrpcServer) -> None:
        config = self._config
        ports: dict[str, Any] = {
            "clock": self._clock,
            "random": self._random,
            "metrics": self._metrics,
        }
        listener = f"{split_address(config.listeners)[0]}:{server.port}"
        voters = tuple((config.voters or {config.node_id: listener}).items())
        dial = self._tls.dial if self._tls is not None else dial_plaintext
        if "metadata" in identity.roles:
            metadata_config = settings.metadata_config(config, voters)
            quorum = quorum_on_disk(
                metadata_config,
                identity,
                self._folder.metadata_path,
                settings.raft_config(config),
                clock=self._clock,
                files=self._files,
                random=self._random,
                dial=dial,
                callers=self._callers,
            )
            self._metadata = MetadataApp(
                metadata_config, identity, quorum, callers=self._callers, **ports
            )
        registration = NodeRegistration() if "coordinator" in identity.roles else None
        if "broker" in identity.roles:
            self._broker = BrokerApp(
                settings.broker_config(config),
                identity,
                self._folder.log_path,
                files=self._files,
                dial=dial,
                callers=self._callers,
                **ports,
            )
            await self._broker.open(RecoveryReport(self._clock))
            registration = self._broker.registration
        cluster_config = settings.cluster_config(config)
        self._view = ClusterView(
            identity,
            voters,
            clock=self._clock,
            random=self._random,
            config=cluster_config,
            registration=registration,
            dial=dial,
        )
        self._public_metadata = MetadataServicer(self._view, cluster_config, voters)
        if self._broker is not None:
            self._broker.attach(self._view)
        if "coordinator" in identity.roles:
            self._coordinator = CoordinatorApp(
                settings.coordinator_config(config),
                identity,
                cluster=self._view,
                dial=dial,
                **ports,
            )

    async def _serve(self, identity: NodeIdentity, server: GrpcServer) -> None:
        assert self._view is not None
        assert self._public_metadata is not None
        self._services = self._public_metadata.register(server.server)
        for app in (self._metadata, self._broker, self._coordinator):
            if app is not None:
                self._services += app.register(server.server)
        if self._config.admin_listener:
            host, port = split_address(self._config.admin_listener)
            try:
                await self._admin.start(host, port)
            except OSError:
                raise NodeStartError(
                    f"cannot listen on {self._config.admin_listener}: another program uses it; "
                    "choose another admin.listener"
                ) from None
        self._loop_lag.start()
        await server.start(self._services)
        if self._metadata is not None:
            await self._metadata.start()
        await self._view.start()
        if self._broker is not None:
            await self._broker.start()
        if self._coordinator is not None:
            await self._coordinator.start()

    async def _try(self, attempt: Any) -> None:
        try:
            await attempt
        except ServiceError as error:
            if error.reason in ("NODE_ID_IN_USE", "CLUSTER_MISMATCH"):
                raise NodeStartError(str(error)) from None
            _log.warning("waiting for the metadata quorum", reason=str(error))

    # Stopping

    async def _stop_roles(self) -> None:
        if self._server is not None and self._services:
            await self._server.set_serving(READY, *self._services, serving=False)
        # The coordinator writes to brokers, brokers report to the quorum: so in this order.
        if self._coordinator is not None:
            await self._coordinator.stop()
        if self._broker is not None:
            await self._broker.stop()
        if self._public_metadata is not None:
            self._public_metadata.stop()
        if self._view is not None:
            await self._view.stop()
        if self._metadata is not None:
            await self._metadata.stop()
        if self._server is not None:
            await self._server.stop(_GRACE_S)


__all__ = ["DataFolderError", "Node", "NodeStartError"]
