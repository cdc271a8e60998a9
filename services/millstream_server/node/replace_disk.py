"""``millstream format --replace-lost-disk``: makes an empty folder that of a metadata node which
lost its disk.

It is done only while every other metadata node is up and holds everything, since what the lost disk
held must not matter any more; ``millstream_raft/disk_recovery.py`` says why that is enough.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from millstream_raft.directory import format_replacement, is_formatted
from millstream_raft.directory_errors import RaftDirectoryError
from millstream_raft.disk_recovery import LostDisk, NotRecoverable, RecoveryPoint, VoterReport
from millstream_server.node.config import NodeConfig
from millstream_server.node.data_folder import DataFolder, DataFolderError, FolderIdentity
from millstream_server.node.format import AlreadyFormattedError, describe_quorum_at
from millstream_server.node.node_dial import dial_of
from millstream_server.runtime.channels import Dial
from millstream_server.runtime.ports import Files

#: Enough for an election that is under way to end.
_PATIENCE_S = 5.0
_PAUSE_S = 0.25

#: Asks voters (address by node id); those that do not answer are left out.
VoterReporter = Callable[[Mapping[int, str], Dial], Awaitable[Mapping[int, VoterReport]]]


async def replace_disk(
    config: NodeConfig,
    files: Files,
    report_voters: VoterReporter,
    *,
    patience_s: float = _PATIENCE_S,
) -> FolderIdentity:
    """Make ``config.data_dir`` the folder of the configured metadata node again; durable on
    return. Asks the other nodes again for so long. Raises AlreadyFormattedError if the folder needs
    no replacement, DataFolderError for everything else."""
    folder = DataFolder(config.data_dir, files)
    folder.lock()
    try:
        identity = _identity(folder, config)
        if is_formatted(folder.metadata_path, files):
            raise AlreadyFormattedError(
                f"{folder.metadata_path} has data already: if that is damaged, move it away"
            )
        point = await _recovery_point(config, identity, report_voters, patience_s)
        format_replacement(
            folder.metadata_path,
            identity.cluster_id,
            identity.node_id,
            config.voters,
            files,
            point,
        )
        folder.write_identity(identity)
    except RaftDirectoryError as error:
        raise DataFolderError(str(error)) from None
    except OSError as error:
        raise DataFolderError(f"cannot format {folder.path}: {error.strerror}") from None
    finally:
        folder.unlock()
    return identity


def _identity(folder: DataFolder, config: NodeConfig) -> FolderIdentity:
    if "metadata" not in config.process_roles:
        raise DataFolderError(
            "only a metadata node needs this: any other starts with an empty folder by itself"
        )
    if config.node_id not in config.voters or len(config.voters) == 1:
        raise DataFolderError("controller.quorum.voters does not name this node and others")
    found = folder.read_identity()
    if found is not None:
        folder.check_identity(found, config.cluster_id, config.node_id)
        return found
    if not config.cluster_id:
        raise DataFolderError("set cluster.id to the value that the other nodes have")
    return FolderIdentity(config.cluster_id, config.node_id)


async def _recovery_point(
    config: NodeConfig, identity: FolderIdentity, report_voters: VoterReporter, patience_s: float
) -> RecoveryPoint:
    others = {node_id: at for node_id, at in config.voters.items() if node_id != config.node_id}
    dial = dial_of(config)
    lost = LostDisk(identity.cluster_id, identity.node_id, frozenset(others))
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + patience_s
    while True:
        try:
            return lost.take(await report_voters(others, dial))
        except NotRecoverable as error:
            if loop.time() >= deadline_s:
                raise DataFolderError(f"the disk cannot be replaced now: {error}") from None
        await asyncio.sleep(_PAUSE_S)


async def report_voters(voters: Mapping[int, str], dial: Dial) -> Mapping[int, VoterReport]:
    """Ask voters over the network."""
    asked = (describe_quorum_at(node_id, at, dial) for node_id, at in voters.items())
    answers = await asyncio.gather(*asked)
    reports: dict[int, VoterReport] = {}
    for node_id, answer in zip(voters, answers, strict=True):
        if answer is None:
            continue
        quorum = answer.quorum
        reports[node_id] = VoterReport(
            cluster_id=answer.cluster_id,
            leader_id=quorum.leader_id if quorum.HasField("leader_id") else None,
            term=quorum.term,
            commit_index=quorum.commit_index,
            last_index=answer.last_index,
            connected=frozenset(node.node_id for node in quorum.nodes if node.connected),
        )
    return reports
