"""Formats data folders: one for ``millstream format``, all of a cluster before its first start."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence

from millstream_raft.directory import PeerLog
from millstream_server.local_cluster.plan import ClusterPlan
from millstream_server.node.config import NodeConfig
from millstream_server.node.config_sources import load_config
from millstream_server.node.data_folder import FolderIdentity
from millstream_server.node.format import (
    AlreadyFormattedError,
    PeerInspector,
    format_folder,
    inspector_of,
)
from millstream_server.node.replace_disk import replace_disk, report_voters
from millstream_server.runtime.system import SystemFiles


def format_data_folder(config: NodeConfig, peers: PeerInspector | None = None) -> FolderIdentity:
    """Make ``config.data_dir`` the folder of that node. Raises AlreadyFormattedError and
    DataFolderError. Runs an event loop of its own, so not to be called from one."""
    asked = peers or inspector_of(config)
    return asyncio.run(format_folder(config, SystemFiles(), lambda: str(uuid.uuid4()), asked))


def replace_lost_disk(config: NodeConfig) -> FolderIdentity:
    """Make ``config.data_dir`` the folder of a metadata node that lost its disk. Raises as
    ``format_data_folder``, and runs an event loop of its own, too."""
    return asyncio.run(replace_disk(config, SystemFiles(), report_voters))


def format_nodes(plan: ClusterPlan) -> None:
    """Format the folders of a new cluster's nodes; leaves formatted ones alone. Raises
    DataFolderError, also for a folder of another cluster or node."""
    for node in plan.nodes:
        config = load_config(str(node.config_path), {}, {}).config
        try:
            format_data_folder(config, _nobody)
        except AlreadyFormattedError:
            continue


async def _nobody(voters: Mapping[int, str]) -> Sequence[PeerLog]:
    # The supervisor made the plan and starts the voters itself: none can be running yet.
    return ()
