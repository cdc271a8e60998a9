"""The vote across crashes and damage."""

import pytest

from millstream_raft.directory_errors import DirectoryDamaged, NewerFormat
from millstream_raft.journal_format import JournalMark
from millstream_raft.vote import Promises, VoteFile, encode_vote
from tests.fakes.crash_files import Crash, CrashFiles
from tests.fakes.raft_cluster import NodeStopped, stop_node

PATH = "/raft/vote"
MARK = JournalMark(first_index=3, whole_bytes=100, synced_bytes=250)


def fresh() -> CrashFiles:
    files = CrashFiles()
    files.change(PATH, encode_vote(Promises()))
    return files


def load(files: CrashFiles) -> VoteFile:
    return VoteFile("/raft", files, stop_node)


def test_vote_survives_power_loss():
    files = fresh()
    load(files).store(7, 3)
    vote = load(files.after_power_loss())
    assert (vote.term, vote.voted_for) == (7, 3)


def test_term_without_a_vote_survives():
    files = fresh()
    load(files).store(7, None)
    assert load(files.after_power_loss()).voted_for is None


def test_unchanged_vote_is_not_written():
    files = fresh()
    vote = load(files)
    vote.store(7, 3)
    files.operations.clear()
    vote.store(7, 3)
    assert files.operations == []


def test_crash_at_every_operation_leaves_the_old_vote_or_the_new_one():
    for crash_at in range(5):
        files = fresh()
        vote = load(files)
        vote.store(6, 1)
        files.crash_at = len(files.operations) + crash_at
        with pytest.raises(Crash):
            vote.store(7, 2)
        for found in (files.after_power_loss(), files.after_kill()):
            vote = load(found)
            assert (vote.term, vote.voted_for) in {(6, 1), (7, 2)}


def test_silence_and_mark_survive_a_vote_and_power_loss():
    files = fresh()
    vote = load(files)
    vote.be_silent_until(12)
    vote.mark_journal(MARK)
    vote.store(7, 3)
    vote = load(files.after_power_loss())
    assert (vote.silent_until, vote.journal_mark) == (12, MARK)
    assert (vote.term, vote.voted_for) == (7, 3)


def test_mark_is_stored_with_a_vote_but_writes_nothing_by_itself():
    files = fresh()
    vote = load(files)
    vote.store(7, 3)
    files.operations.clear()
    vote.store(7, 3, MARK)
    assert files.operations == []
    vote.store(8, None, MARK)
    assert load(files.after_power_loss()).journal_mark == MARK


def test_silence_ends():
    files = fresh()
    vote = load(files)
    vote.be_silent_until(12)
    vote.be_silent_until(0)
    assert load(files.after_power_loss()).silent_until == 0


def test_failed_sync_stops_the_node():
    files = fresh()
    vote = load(files)
    files.failing_syncs = 1
    with pytest.raises(NodeStopped, match="cannot store the vote"):
        vote.store(7, 3)
    assert vote.term == 0


def test_every_flipped_byte_is_refused():
    files = fresh()
    load(files).store(7, 3)
    content = files.content(PATH)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        files.change(PATH, bytes(damaged))
        with pytest.raises((DirectoryDamaged, NewerFormat)):
            load(files)


def test_every_cut_is_refused():
    files = fresh()
    load(files).store(7, 3)
    content = files.content(PATH)
    for size in range(len(content)):
        files.change(PATH, content[:size])
        with pytest.raises(DirectoryDamaged, match="must not take part"):
            load(files)


def test_missing_file_is_refused():
    with pytest.raises(DirectoryDamaged, match="missing"):
        load(CrashFiles())
