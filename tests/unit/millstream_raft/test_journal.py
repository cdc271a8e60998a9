"""What the journal keeps across power loss, damage and full disks."""

import random

import pytest

from millstream_raft.directory_errors import DirectoryDamaged, NewerFormat
from millstream_raft.journal import Journal
from millstream_raft.journal_format import HEADER_BYTES, RECORD_OVERHEAD_BYTES, encode_file
from millstream_raft.raft_messages import FIRST_ENTRY, LogEntry
from millstream_raft.rules import ALL_RULES, Rule
from tests.fakes.crash_files import Crash, CrashFiles
from tests.fakes.raft_cluster import NodeStopped, stop_node

PATH = "/raft/journal"


def fresh() -> CrashFiles:
    files = CrashFiles()
    files.change(PATH, encode_file([FIRST_ENTRY]))
    return files


def load(files: CrashFiles, rules=ALL_RULES) -> Journal:
    return Journal("/raft", files, stop_node, rules)


def entry(index: int, term: int = 1) -> LogEntry:
    return LogEntry(b"\0" + b"%d of %d " % (index, term) * 5, index, term)


def append(journal: Journal, first: int, last: int, term: int = 1) -> None:
    for index in range(first, last + 1):
        journal.append(entry(index, term))


def positions(journal: Journal) -> list[tuple[int, int]]:
    return [(each.index, each.term) for each in journal.entries]


def test_synced_entries_survive_power_loss_and_unsynced_ones_do_not():
    files = fresh()
    journal = load(files)
    append(journal, 2, 4)
    journal.sync()
    append(journal, 5, 6)
    assert load(files.after_power_loss()).entries == journal.entries[:4]


def test_one_sync_covers_everything_that_waits():
    files = fresh()
    journal = load(files)
    files.operations.clear()
    append(journal, 2, 50)
    journal.sync()
    journal.sync()
    assert files.operations == ["write", "sync"]
    assert journal.syncs == 1


def test_repeated_entries_truncate_nothing():
    journal = load(fresh())
    append(journal, 2, 6)
    append(journal, 2, 3)
    assert positions(journal)[-1] == (6, 1)


def test_entry_of_another_term_truncates_what_follows():
    files = fresh()
    journal = load(files)
    append(journal, 2, 6)
    journal.sync()
    journal.append(entry(4, term=2))
    journal.sync()
    assert positions(journal) == [(1, 0), (2, 1), (3, 1), (4, 2)]
    assert load(files.after_power_loss()).entries == journal.entries


def test_request_to_truncate_is_ignored_unless_the_rule_is_dropped():
    for rules, left in ((ALL_RULES, 6), (ALL_RULES - {Rule.TRUNCATE_ONLY_ON_CONFLICT}, 2)):
        journal = load(fresh(), rules)
        append(journal, 2, 6)
        journal.truncate_from(2)
        assert len(journal.entries) == left


def test_gap_stops_the_node():
    journal = load(fresh())
    with pytest.raises(NodeStopped, match="gap"):
        journal.append(entry(3))


def test_conflict_with_the_snapshot_stops_the_node():
    journal = load(fresh())
    with pytest.raises(NodeStopped, match="conflicts with the snapshot"):
        journal.append(entry(1, term=5))


def test_trimming_is_atomic_and_shrinks_the_file():
    files = fresh()
    journal = load(files)
    append(journal, 2, 100)
    journal.sync()
    size = journal.size_bytes
    journal.trim_to(90)
    assert journal.size_bytes < size / 5
    append(journal, 101, 102)
    journal.sync()
    reloaded = load(files.after_power_loss())
    assert reloaded.entries == journal.entries
    assert reloaded.entries[0].index == 91
    assert reloaded.size_bytes == journal.size_bytes


def test_snapshot_boundary_keeps_a_tail_that_matches():
    files = fresh()
    journal = load(files)
    append(journal, 2, 10)
    journal.sync()
    held = journal.entries
    journal.restart_at(entry(5), entry(6))
    assert positions(journal) == [(index, 1) for index in range(5, 11)]
    assert journal.entries is held, "the library holds on to this list"
    assert load(files.after_power_loss()).entries == journal.entries


@pytest.mark.parametrize("last", [entry(6, term=3), entry(12)])
def test_snapshot_boundary_drops_a_tail_that_does_not_match(last):
    journal = load(fresh())
    append(journal, 2, 10)
    journal.restart_at(entry(last.index - 1, last.term), last)
    assert len(journal.entries) == 2


def test_snapshot_boundary_without_the_rule_drops_the_tail():
    journal = load(fresh(), ALL_RULES - {Rule.KEEP_TAIL_BEHIND_SNAPSHOT})
    append(journal, 2, 10)
    journal.restart_at(entry(5), entry(6))
    assert positions(journal) == [(5, 1), (6, 1)]


def test_failed_sync_stops_the_node():
    files = fresh()
    journal = load(files)
    append(journal, 2, 2)
    files.failing_syncs = 1
    with pytest.raises(NodeStopped, match="input/output error"):
        journal.sync()


def test_full_disk_stops_the_node():
    files = fresh()
    journal = load(files)
    append(journal, 2, 2)
    files.full = True
    with pytest.raises(NodeStopped, match="no space left"):
        journal.sync()


def test_start_reads_the_disk_and_not_the_page_cache():
    """After a failed fsync the cache still shows what the disk never got (invariant 34)."""
    files = fresh()
    journal = load(files)
    append(journal, 2, 3)
    files.failing_syncs = 1
    with pytest.raises(NodeStopped):
        journal.sync()
    assert positions(load(files.after_kill())) == [(1, 0)]


def test_start_syncs_before_it_reads():
    """What kill -9 left in the page cache counts as held only once it is on the disk."""
    files = fresh()
    journal = load(files)
    append(journal, 2, 3)
    files.crash_at = len(files.operations) + 1  # the write happens, the sync does not
    with pytest.raises(Crash):
        journal.sync()
    found = files.after_kill()
    assert positions(load(found)) == [(1, 0), (2, 1), (3, 1)]
    assert found.operations[:2] == ["sync", "sync_directory"]
    assert positions(load(found.after_power_loss())) == [(1, 0), (2, 1), (3, 1)]


@pytest.mark.parametrize("cut", range(1, RECORD_OVERHEAD_BYTES + 30))
def test_torn_tail_is_cut(cut):
    files = fresh()
    journal = load(files)
    append(journal, 2, 3)
    journal.sync()
    kept = journal.size_bytes
    append(journal, 4, 4)
    journal.sync()
    content = files.content(PATH)
    files.change(PATH, content[: kept + min(cut, len(content) - kept - 1)])
    reloaded = load(files)
    assert positions(reloaded) == [(1, 0), (2, 1), (3, 1)]
    assert len(files.content(PATH)) == kept
    append(reloaded, 4, 5)
    reloaded.sync()
    assert load(files.after_power_loss()).entries == reloaded.entries


def test_every_flipped_byte_below_a_synced_length_is_refused():
    files = fresh()
    journal = load(files)
    for index in (2, 3, 4):
        append(journal, index, index)
        journal.sync()
    content = files.content(PATH)
    last_record = journal.size_bytes - RECORD_OVERHEAD_BYTES - len(entry(4).command)
    for at in range(last_record):
        damaged = bytearray(content)
        damaged[at] ^= 0x40
        files.change(PATH, bytes(damaged))
        with pytest.raises((DirectoryDamaged, NewerFormat)):
            load(files)


def test_valid_record_behind_a_hole_is_no_proof_that_the_hole_was_synced():
    """Pages are written back in any order; both records are of one unsynced append."""
    files = fresh()
    journal = load(files)
    append(journal, 2, 2)
    journal.sync()
    hole = journal.size_bytes
    append(journal, 3, 4)
    journal.sync()
    content = bytearray(files.content(PATH))
    content[hole : hole + 40] = bytes(40)
    files.change(PATH, bytes(content))
    assert positions(load(files)) == [(1, 0), (2, 1)]


def test_rewritten_file_is_covered_by_its_header():
    files = fresh()
    journal = load(files)
    append(journal, 2, 20)
    journal.trim_to(10)
    files.change(PATH, files.content(PATH)[:-1])
    with pytest.raises(DirectoryDamaged, match="damaged at byte"):
        load(files)


def cut(files: CrashFiles, size: int) -> CrashFiles:
    files.change(PATH, files.content(PATH)[:size])
    return files


def test_every_cut_below_the_mark_is_refused_and_none_above():
    files = fresh()
    journal = load(files)
    append(journal, 2, 4)
    journal.sync()
    mark = journal.mark
    append(journal, 5, 6)
    journal.sync()
    for size in range(HEADER_BYTES, journal.size_bytes):
        left = cut(files.after_kill(), size)
        if size < mark.synced_bytes:
            with pytest.raises(DirectoryDamaged, match="were on the disk"):
                Journal("/raft", left, stop_node, mark=mark)
        else:
            assert Journal("/raft", left, stop_node, mark=mark).last_index >= 4


def test_mark_counts_only_what_is_synced():
    files = fresh()
    journal = load(files)
    append(journal, 2, 4)
    assert journal.mark.synced_bytes < journal.size_bytes
    Journal("/raft", files.after_power_loss(), stop_node, mark=journal.mark)


def test_mark_of_a_file_that_was_replaced_says_nothing():
    files = fresh()
    journal = load(files)
    append(journal, 2, 30)
    journal.sync()
    mark = journal.mark
    journal.trim_to(25)
    assert journal.size_bytes < mark.synced_bytes
    assert Journal("/raft", files.after_power_loss(), stop_node, mark=mark).last_index == 30


def test_mark_of_the_first_file_says_nothing_of_the_first_snapshots():
    files = fresh()
    journal = load(files)
    append(journal, 2, 30, term=1)
    journal.sync()
    mark = journal.mark
    journal.restart_at(FIRST_ENTRY, entry(2, term=3))
    assert Journal("/raft", files.after_power_loss(), stop_node, mark=mark).last_index == 2


def test_torn_tail_above_the_mark_is_cut():
    files = fresh()
    journal = load(files)
    append(journal, 2, 4)
    journal.sync()
    mark = journal.mark
    append(journal, 5, 5)
    journal.sync()
    left = cut(files.after_kill(), journal.size_bytes - 1)
    assert Journal("/raft", left, stop_node, mark=mark).last_index == 4


@pytest.mark.parametrize("size", [0, 5, HEADER_BYTES - 1, HEADER_BYTES])
def test_file_without_an_entry_is_refused(size):
    files = fresh()
    files.change(PATH, files.content(PATH)[:size])
    with pytest.raises(DirectoryDamaged):
        load(files)


def test_missing_file_is_refused():
    with pytest.raises(DirectoryDamaged, match="missing"):
        load(CrashFiles())


def test_newer_format_is_refused():
    files = fresh()
    content = bytearray(files.content(PATH))
    content[8] = 2
    files.change(PATH, bytes(content))
    with pytest.raises(NewerFormat, match="format 2"):
        load(files)


def work(files: CrashFiles, promised: list[LogEntry]) -> None:
    """Everything that a journal does; ``promised`` always holds what must not be lost."""
    journal = load(files)

    def promise() -> None:
        journal.sync()
        promised[:] = journal.entries

    promise()
    for first, last, term in ((2, 4, 1), (5, 9, 1), (8, 12, 2), (13, 14, 2)):
        if first <= journal.last_index:
            promised[:] = promised[: first - 1]  # a leader replaces them: no longer promised
        append(journal, first, last, term)
        promise()
    promised[:] = promised[5:]
    journal.trim_to(5)
    append(journal, 15, 16, 2)
    promise()
    boundary = journal.entries[3], journal.entries[4]
    promised[:] = promised[3:]
    journal.restart_at(*boundary)
    append(journal, 17, 18, 3)
    promise()
    journal.close()


def test_crash_at_every_operation_loses_nothing_promised():
    """Power goes at each write, sync, truncate, rename and directory sync in turn; of what was not
    synced, anything may have reached the disk."""
    complete = fresh()
    work(complete, [])
    assert len(complete.operations) > 20
    for crash_at in range(len(complete.operations)):
        for seed in (None, 1, 2, 3):
            files = fresh()
            files.crash_at = crash_at
            promised: list[LogEntry] = [FIRST_ENTRY]
            with pytest.raises(Crash):
                work(files, promised)
            chance = None if seed is None else random.Random(seed * 1000 + crash_at)
            reloaded = load(files.after_power_loss(chance))
            held = {each.index: each for each in reloaded.entries}
            for each in promised:
                assert held.get(each.index) == each, (crash_at, seed, each.index)
