"""A data folder belongs to one node and is used by one process."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from millstream_raft.directory import PeerLog, read_identity
from millstream_server.node.config import NodeConfig
from millstream_server.node.config_sources import load_config
from millstream_server.node.data_folder import DataFolder, DataFolderError, FolderIdentity
from millstream_server.node.format import AlreadyFormattedError, format_folder
from millstream_server.runtime.system import SystemFiles


def config(folder: Path, **keys: object) -> NodeConfig:
    flags = {key.replace("_", "."): value for key, value in keys.items()}
    return load_config(None, {}, {"data.dir": str(folder), **flags}).config


def peers(*logs: PeerLog) -> object:
    async def inspect(voters: Mapping[int, str]) -> Sequence[PeerLog]:
        return [log for log in logs if log.node_id in voters]

    return inspect


async def format_it(settings: NodeConfig, *logs: PeerLog) -> FolderIdentity:
    return await format_folder(settings, SystemFiles(), lambda: "new", peers(*logs))


async def test_a_lone_node_founds_a_cluster(tmp_path: Path) -> None:
    identity = await format_it(config(tmp_path))
    assert identity == FolderIdentity("new", 1)
    folder = DataFolder(str(tmp_path), SystemFiles())
    assert folder.read_identity() == identity
    assert read_identity(folder.metadata_path, SystemFiles()).cluster_id == "new"


async def test_formatting_twice_is_told_apart_from_formatting_anothers(tmp_path: Path) -> None:
    await format_it(config(tmp_path))
    with pytest.raises(AlreadyFormattedError):
        await format_it(config(tmp_path))
    with pytest.raises(DataFolderError, match="belongs to node 1"):
        await format_it(config(tmp_path, node_id=2))
    with pytest.raises(DataFolderError, match="belongs to cluster new"):
        await format_it(config(tmp_path, cluster_id="other"))


async def test_a_lost_disk_is_not_formatted_while_a_peer_has_a_log(tmp_path: Path) -> None:
    voters = "1@127.0.0.1:1,2@127.0.0.1:2,3@127.0.0.1:3"
    keys = {"controller.quorum.voters": voters, "cluster.id": "c", "data.dir": str(tmp_path)}
    settings = load_config(None, {}, keys).config
    with pytest.raises(DataFolderError, match="already has a log"):
        await format_it(settings, PeerLog(2, "c", 40))
    await format_it(settings, PeerLog(2, "c", 1))


async def test_a_quorum_needs_a_cluster_id(tmp_path: Path) -> None:
    keys = {"controller.quorum.voters": "1@h:1,2@h:2,3@h:3", "data.dir": str(tmp_path)}
    with pytest.raises(DataFolderError, match=r"set cluster\.id"):
        await format_it(load_config(None, {}, keys).config)


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    first = DataFolder(str(tmp_path), SystemFiles())
    first.lock()
    with pytest.raises(DataFolderError, match="another process"):
        DataFolder(str(tmp_path), SystemFiles()).lock()
    first.unlock()
    DataFolder(str(tmp_path), SystemFiles()).lock()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps({"format_version": 99, "cluster_id": "c", "node_id": 1}), "newer version"),
        ("rubbish", "damaged"),
        ("{}", "damaged"),
    ],
)
def test_unusable_identities_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "node.json").write_text(content)
    with pytest.raises(DataFolderError, match=words):
        DataFolder(str(tmp_path), SystemFiles()).read_identity()
