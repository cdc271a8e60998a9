"""The notes of clients merge into one history in real-time order."""

from pathlib import Path

from tests.checker.history import Outcome
from tests.cluster.faults.notes import Reading, read_notes

K = ("t", 0)


def history_of(folder: Path, cuts: dict[str, float] | None = None, **clients: str) -> Reading:
    paths = []
    for client, text in clients.items():
        path = folder / f"{client.replace('_', '-')}.1.1.i.notes"
        path.write_text(text)
        paths.append(path)
    return read_notes(paths, cuts)


def test_sends_end_as_they_were_answered(tmp_path: Path) -> None:
    lines = "s 1 t 0 0 5\na 2 0 7 REPLICATED_DISK\nf 3 1 REFUSED\ni 4 2 TIMED_OUT\na 5 3 -1 X\n"
    sends = history_of(tmp_path, writer=lines).history.sends
    outcomes = [send.outcome for send in sends]
    assert outcomes == [Outcome.OK, Outcome.FAIL, Outcome.INFO, Outcome.OK, Outcome.OPEN]
    assert [send.offset for send in sends] == [7, None, None, None, None]
    assert sends[0].value == "writer.1.1.i:0"
    assert sends[0].key == K
    assert all(send.idempotent for send in sends)


def test_the_notes_of_several_clients_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    one = "s 10 t 0 0 1\na 40 0 0 REPLICATED_DISK\n"
    other = "s 20 t 0 0 1\na 30 0 1 REPLICATED_DISK\n"
    first, second = history_of(tmp_path, one=one, other=other).history.sends
    assert first.invoked_line < second.invoked_line
    assert second.completed_line < first.completed_line


def test_a_line_that_was_cut_off_by_a_kill_does_not_count(tmp_path: Path) -> None:
    reading = history_of(tmp_path, writer="s 1 t 0 0 1\na 2 0 0 REPLIC")
    assert reading.history.sends[0].outcome is Outcome.OPEN


def test_a_position_began_when_it_was_asked_for(tmp_path: Path) -> None:
    reading = history_of(tmp_path, reader="p 5 t 0 0=v\ne 9 2 t 0 1\nc 10 6 t 0 1\n")
    (poll,) = reading.history.polls
    (end,), (commit,) = reading.history.end_offsets, reading.history.commits
    assert end.begun_line < poll.line < commit.begun_line < end.line < commit.line
    assert (end.offset, commit.offset, commit.key) == (1, 1, K)


def test_a_member_owned_a_partition_until_it_was_given_its_last_records(tmp_path: Path) -> None:
    left = "o 1 t 0\np 2 t 0 0=v\nl 9 t 0\n"
    killed = "o 4 t 0\np 5 t 0 1=w\n"
    reading = history_of(tmp_path, member_1=left, member_2=killed)
    first, second = sorted(reading.history.owned, key=lambda one: one.begin_line)
    assert first.end_line is not None
    assert first.end_line < second.begin_line
    assert second.end_line is not None


def test_a_member_belongs_to_its_group_and_is_subscribed_to_all_that_it_owns(
    tmp_path: Path,
) -> None:
    lines = "g 1 readers\no 2 t 0\no 3 t 1\nl 4 t 0\no 5 t 2\n"
    history = history_of(tmp_path, member=lines).history
    assert history.groups == {"member.1.1.i": "readers"}
    assert [(kind, set(keys)) for _, _, kind, keys in history.other] == [
        ("subscribe", {("t", 0)}),
        ("subscribe", {("t", 0), ("t", 1)}),
        ("subscribe", {("t", 1), ("t", 2)}),
    ]


def test_a_reader_begins_where_it_says_and_ends_with_everything_read(tmp_path: Path) -> None:
    lines = "n 1 t/0=5 again-2/1=0\nd 9000000000\n"
    history = history_of(tmp_path, reader=lines).history
    (assigned,), (drained,) = history.assignments, history.drained
    assert assigned.positions == {K: 5, ("again-2", 1): 0}
    assert assigned.process == drained.process == "reader.1.1.i"
    assert drained.at == 9.0


def test_what_is_sent_by_one_call_belongs_together(tmp_path: Path) -> None:
    one, two, three = history_of(tmp_path, writer="s 1 t 0 0 2\ns 2 t 0 2 1\n").history.sends
    assert one.call == two.call != three.call


def test_a_topic_is_not_looked_at_from_its_cut_on(tmp_path: Path) -> None:
    second = 1_000_000_000
    lines = (
        f"s {second} t 0 0 1\na {3 * second} 0 0 X\ns {3 * second} t 0 1 1\n"
        f"p {3 * second} t 0 0=v\nx {3 * second} LATE\n"
    )
    reading = history_of(tmp_path, {"t": 2.0}, writer=lines)
    (send,) = reading.history.sends
    assert send.outcome is Outcome.OPEN
    assert reading.history.polls == []
    assert reading.errors == {"LATE": 1}
