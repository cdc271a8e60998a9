"""Which folders become voters and which are refused."""

import pytest

from millstream_raft.directory import (
    PeerLog,
    RaftIdentity,
    check_directory,
    format_node,
    is_formatted,
    read_identity,
)
from millstream_raft.directory_errors import (
    AlreadyFormatted,
    DirectoryDamaged,
    ForeignDirectory,
    NewerFormat,
    NotFormatted,
    PeerHasLog,
)
from millstream_raft.journal import Journal
from millstream_raft.raft_messages import LogEntry
from tests.fakes.crash_files import Crash, CrashFiles
from tests.fakes.raft_cluster import stop_node

IDENTITY = RaftIdentity("cluster", 1, frozenset((1, 2, 3)))


def formatted() -> CrashFiles:
    files = CrashFiles()
    format_node("/raft", "cluster", 1, (1, 2, 3), files)
    return files


def test_formatted_folder_is_this_nodes():
    files = formatted().after_power_loss()
    assert is_formatted("/raft", files)
    assert read_identity("/raft", files) == IDENTITY
    check_directory("/raft", IDENTITY, files)


def test_empty_folder_is_refused():
    files = CrashFiles()
    files.make_directory("/raft")
    with pytest.raises(NotFormatted, match="replace-lost-disk"):
        check_directory("/raft", IDENTITY, files)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (RaftIdentity("other", 1, frozenset((1, 2, 3))), "belongs to cluster cluster"),
        (RaftIdentity("cluster", 2, frozenset((1, 2, 3))), "belongs to node 1"),
        (RaftIdentity("cluster", 1, frozenset((1, 2, 4))), r"voters \[1, 2, 3\]"),
    ],
)
def test_foreign_folder_is_refused(expected, message):
    with pytest.raises(ForeignDirectory, match=message):
        check_directory("/raft", expected, formatted())


def test_newer_folder_is_refused():
    files = formatted()
    content = bytearray(files.content("/raft/identity"))
    content[8] = 9
    files.change("/raft/identity", bytes(content))
    with pytest.raises(NewerFormat, match="format 9"):
        check_directory("/raft", IDENTITY, files)


def test_damaged_identity_is_refused():
    files = formatted()
    files.change("/raft/identity", files.content("/raft/identity")[:-1])
    with pytest.raises(DirectoryDamaged, match=r"/raft/identity holds .* must not take part"):
        check_directory("/raft", IDENTITY, files)


def test_used_folder_is_not_formatted_again():
    with pytest.raises(AlreadyFormatted):
        format_node("/raft", "cluster", 1, (1, 2, 3), formatted())


def test_log_without_identity_is_not_formatted():
    files = formatted()
    journal = Journal("/raft", files, stop_node)
    journal.append(LogEntry(b"\0", 2, 1))
    journal.close()
    files.remove("/raft/identity")
    with pytest.raises(AlreadyFormatted, match="identity is missing"):
        format_node("/raft", "cluster", 1, (1, 2, 3), files)


def test_peer_with_a_log_forbids_formatting():
    files = CrashFiles()
    with pytest.raises(PeerHasLog, match="node 2 already has a log"):
        format_node("/raft", "cluster", 1, (1, 2), files, [PeerLog(2, "cluster", 5)])
    assert not is_formatted("/raft", files)


def test_peer_with_an_empty_log_does_not():
    format_node("/raft", "cluster", 1, (1, 2), CrashFiles(), [PeerLog(2, "cluster", 1)])


@pytest.mark.parametrize(
    ("cluster_id", "node_id", "voters"), [("", 1, (1,)), ("c", 4, (1, 2)), ("c", 0, (0, 1))]
)
def test_senseless_identity_is_refused(cluster_id, node_id, voters):
    with pytest.raises(ValueError, match=r"."):
        format_node("/raft", cluster_id, node_id, voters, CrashFiles())


def test_crash_at_every_operation_leaves_a_folder_that_can_be_formatted():
    for crash_at in range(len(formatted().operations)):
        files = CrashFiles()
        files.crash_at = crash_at
        with pytest.raises(Crash):
            format_node("/raft", "cluster", 1, (1, 2, 3), files)
        for found in (files.after_power_loss(), files.after_kill()):
            if not is_formatted("/raft", found):
                format_node("/raft", "cluster", 1, (1, 2, 3), found)
            check_directory("/raft", IDENTITY, found)
            assert Journal("/raft", found, stop_node).last_index == 1
