"""A lost disk is replaced only where that is safe, and only if there is nothing on the new one."""

from collections.abc import Mapping
from os import listdir, rename
from pathlib import Path

import pytest

from millstream_raft.directory import read_identity
from millstream_raft.disk_recovery import VoterReport
from millstream_raft.vote import VoteFile
from millstream_server.node.config import NodeConfig
from millstream_server.node.config_sources import load_config
from millstream_server.node.data_folder import DataFolder, DataFolderError, FolderIdentity
from millstream_server.node.format import AlreadyFormattedError
from millstream_server.node.replace_disk import VoterReporter, replace_disk
from millstream_server.runtime.channels import Dial
from millstream_server.runtime.system import SystemFiles
from tests.fakes.raft_cluster import stop_node

GOOD = VoterReport("c", leader_id=1, term=5, commit_index=20, last_index=20, connected=frozenset())


def config(folder: Path, **keys: object) -> NodeConfig:
    flags: dict[str, object] = {
        "data.dir": str(folder),
        "node.id": 3,
        "process.roles": "metadata",
        "cluster.id": "c",
        "controller.quorum.voters": "1@h:1,2@h:2,3@h:3",
    }
    flags |= {key.replace("_", "."): value for key, value in keys.items()}
    return load_config(None, {}, flags).config


def voters(*rounds: Mapping[int, VoterReport]) -> VoterReporter:
    """Voters that report this, and in the end the last of it again and again."""
    left = list(rounds)

    async def report(asked: Mapping[int, str], dial: Dial) -> Mapping[int, VoterReport]:
        assert asked == {1: "h:1", 2: "h:2"}
        return left.pop(0) if len(left) > 1 else left[0]

    return report


async def replace_it(settings: NodeConfig, *rounds: Mapping[int, VoterReport]) -> FolderIdentity:
    given = rounds or ({1: GOOD, 2: GOOD},)
    return await replace_disk(settings, SystemFiles(), voters(*given), patience_s=0.3)


async def test_new_disk_promises_to_be_silent(tmp_path: Path) -> None:
    assert await replace_it(config(tmp_path)) == FolderIdentity("c", 3)
    metadata = DataFolder(str(tmp_path), SystemFiles()).metadata_path
    assert read_identity(metadata, SystemFiles()).voter_ids == {1, 2, 3}
    promises = VoteFile(metadata, SystemFiles(), stop_node)
    assert (promises.term, promises.voted_for, promises.silent_until) == (5, 1, 20)


async def test_waits_for_voters_that_are_about_to_agree(tmp_path: Path) -> None:
    await replace_it(config(tmp_path), {1: GOOD}, {1: GOOD, 2: GOOD})


async def test_refusal_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="cannot be replaced now: metadata node 2 does not"):
        await replace_it(config(tmp_path), {1: GOOD})
    folder = DataFolder(str(tmp_path), SystemFiles())
    assert folder.read_identity() is None
    assert not SystemFiles().exists(folder.metadata_path)


async def test_folder_with_data_is_not_replaced(tmp_path: Path) -> None:
    await replace_it(config(tmp_path))
    with pytest.raises(AlreadyFormattedError, match="move it away"):
        await replace_it(config(tmp_path))


async def test_metadata_alone_can_be_replaced(tmp_path: Path) -> None:
    await replace_it(config(tmp_path))
    rename(tmp_path / "metadata", tmp_path / "damaged")
    assert await replace_it(config(tmp_path, cluster_id="")) == FolderIdentity("c", 3)
    assert listdir(tmp_path / "metadata")


async def test_folder_of_another_node_is_refused(tmp_path: Path) -> None:
    await replace_it(config(tmp_path))
    with pytest.raises(DataFolderError, match="belongs to node 3"):
        await replace_it(config(tmp_path, node_id=2))


async def test_leftovers_of_a_log_are_refused(tmp_path: Path) -> None:
    await replace_it(config(tmp_path))
    metadata = tmp_path / "metadata"
    (metadata / "identity").unlink()
    (metadata / "snapshot").write_bytes(b"old")
    with pytest.raises(DataFolderError, match="has a snapshot"):
        await replace_it(config(tmp_path))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"process_roles": "broker"}, "only a metadata node"),
        ({"controller_quorum_voters": "3@h:3"}, "does not name this node and others"),
        ({"cluster_id": ""}, "set cluster.id"),
    ],
)
async def test_senseless_replacement_is_refused(
    tmp_path: Path, keys: dict[str, object], reason: str
) -> None:
    with pytest.raises(DataFolderError, match=reason):
        await replace_it(config(tmp_path, **keys))
