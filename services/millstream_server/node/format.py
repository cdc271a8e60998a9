"""``millstream format``: makes a data folder a node's, once.

A metadata node never formats itself: an empty folder might be a lost disk, and a voter that forgot
what it acknowledged can elect a leader that lacks committed entries (invariant 37). So formatting
is a step of its own, and it refuses where a reachable voter already has a log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import grpc

from millstream_raft.directory import PeerLog, format_node, is_formatted
from millstream_raft.directory_errors import RaftDirectoryError
from millstream_server.node.config import NodeConfig
from millstream_server.node.data_folder import DataFolder, DataFolderError, FolderIdentity
from millstream_server.node.node_dial import dial_of
from millstream_server.runtime.channels import Dial, dial_plaintext
from millstream_server.runtime.ports import Files
from millstream_server.v1 import controller_service_pb2 as controller
from millstream_server.v1 import controller_service_pb2_grpc as controller_grpc

_PEER_TIMEOUT_S = 2.0

PeerInspector = Callable[[Mapping[int, str]], Awaitable[Sequence[PeerLog]]]


class AlreadyFormattedError(DataFolderError):
    """The folder belongs to this very node already."""


async def format_folder(
    config: NodeConfig,
    files: Files,
    new_cluster_id: Callable[[], str],
    inspect_peers: PeerInspector,
) -> FolderIdentity:
    """Make ``config.data_dir`` the folder of the configured node; durable on return.

    Without ``cluster.id`` a node that is the only voter founds a cluster with a new id. Raises
    AlreadyFormattedError if that was done before, DataFolderError for everything else.
    """
    folder = DataFolder(config.data_dir, files)
    folder.lock()
    try:
        found = folder.read_identity()
        if found is not None:
            folder.check_identity(found, config.cluster_id, config.node_id)
            raise AlreadyFormattedError(
                f"{folder.path} is formatted already for node {found.node_id} "
                f"of cluster {found.cluster_id}"
            )
        identity = FolderIdentity(_cluster_id(config, new_cluster_id), config.node_id)
        if "metadata" in config.process_roles:
            await _format_metadata(folder, config, identity, files, inspect_peers)
        folder.write_identity(identity)
    except OSError as error:
        raise DataFolderError(f"cannot format {folder.path}: {error.strerror}") from None
    finally:
        folder.unlock()
    return identity


async def _format_metadata(
    folder: DataFolder,
    config: NodeConfig,
    identity: FolderIdentity,
    files: Files,
    inspect_peers: PeerInspector,
) -> None:
    voters = config.voters
    others = {node_id: address for node_id, address in voters.items() if node_id != config.node_id}
    if is_formatted(folder.metadata_path, files):
        return  # an earlier attempt came this far
    try:
        format_node(
            folder.metadata_path,
            identity.cluster_id,
            identity.node_id,
            voters or {config.node_id: ""},
            files,
            await inspect_peers(others),
        )
    except RaftDirectoryError as error:
        raise DataFolderError(str(error)) from None


def _cluster_id(config: NodeConfig, new_cluster_id: Callable[[], str]) -> str:
    if config.cluster_id:
        return config.cluster_id
    if len(config.voters) > 1 or "metadata" not in config.process_roles:
        raise DataFolderError("set cluster.id to the same value on every node of the cluster")
    return new_cluster_id()


def inspector_of(config: NodeConfig) -> PeerInspector:
    """``inspect_peers`` with the TLS of this configuration; it may raise DataFolderError too."""

    async def inspect(voters: Mapping[int, str]) -> Sequence[PeerLog]:
        return await inspect_peers(voters, dial_of(config))

    return inspect


async def inspect_peers(
    voters: Mapping[int, str], dial: Dial = dial_plaintext
) -> Sequence[PeerLog]:
    """Ask the voters what log they have. Those that do not answer in two seconds are left out."""
    asked = (_inspect(node_id, at, dial) for node_id, at in voters.items())
    return [answer for answer in await asyncio.gather(*asked) if answer is not None]


async def _inspect(node_id: int, address: str, dial: Dial) -> PeerLog | None:
    answer = await describe_quorum_at(node_id, address, dial)
    return None if answer is None else PeerLog(node_id, answer.cluster_id, answer.last_index)


async def describe_quorum_at(
    node_id: int, address: str, dial: Dial
) -> controller.DescribeQuorumResponse | None:
    """What a metadata node says of its quorum; None if it does not answer in two seconds."""
    async with dial(node_id, address, ()) as channel:
        stub = controller_grpc.ControllerServiceStub(channel)
        try:
            response: controller.DescribeQuorumResponse = await stub.DescribeQuorum(
                controller.DescribeQuorumRequest(), timeout=_PEER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return None
        return response
