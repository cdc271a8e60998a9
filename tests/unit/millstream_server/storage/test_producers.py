"""Verdicts on producers' batches, and the table against a replay of the whole log (21, 22)."""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from millstream.record import BatchHeader
from millstream_server.storage.producer_snapshot import decode_snapshot, encode_snapshot
from millstream_server.storage.producers import Decision, ProducerTable

M = 1 << 31


def header(
    sequence: int, count: int = 1, *, producer_id: int = 1, epoch: int = 0, offset: int = 0
) -> BatchHeader:
    return BatchHeader(
        0, 0, offset, 0, 500 + offset, 0, 0, count - 1, count, 0, 0, producer_id, epoch,
        sequence % M, 0, 0,
    )  # fmt: skip


def table_of(*headers: BatchHeader) -> ProducerTable:
    table = ProducerTable()
    for one in headers:
        table.apply(one)
    return table


SIX = [header(10 * n, 10, offset=10 * n) for n in range(6)]


@pytest.mark.parametrize(
    ("before", "batch", "decision"),
    [
        ([], header(0), Decision.APPEND),
        ([], header(3), Decision.UNKNOWN_PRODUCER),
        ([header(0)], header(1), Decision.APPEND),
        ([header(0)], header(2), Decision.OUT_OF_ORDER),
        ([header(0)], header(0), Decision.DUPLICATE_HIT),
        ([header(0, 5)], header(0, 4), Decision.OUT_OF_ORDER),
        ([header(0, 5)], header(3, 2), Decision.OUT_OF_ORDER),
        ([header(0)], header(M - 1), Decision.OUT_OF_ORDER),
        ([header(0)], header(0, epoch=1), Decision.APPEND),
        ([header(0)], header(1, epoch=1), Decision.OUT_OF_ORDER),
        ([header(0, epoch=2)], header(1, epoch=1), Decision.INVALID_EPOCH),
        ([header(0, epoch=2)], header(0, epoch=1), Decision.INVALID_EPOCH),
        (SIX, header(0, 10), Decision.DUPLICATE),
        (SIX, header(10, 10), Decision.DUPLICATE_HIT),
        (SIX, header(60), Decision.APPEND),
        ([header(40, 10), header(50, 10)], header(30, 10), Decision.DUPLICATE),
        ([header(M - 2, 2)], header(0), Decision.APPEND),
        ([header(M - 2, 4)], header(2), Decision.APPEND),
        ([header(M - 2, 4)], header(M - 2, 4), Decision.DUPLICATE_HIT),
        ([header(M - 1, 1), header(0, 1)], header(M - 2, 1), Decision.DUPLICATE),
    ],
)
def test_verdicts(before: list[BatchHeader], batch: BatchHeader, decision: Decision) -> None:
    assert table_of(*before).check(batch).decision is decision


def test_a_hit_names_the_first_append() -> None:
    verdict = table_of(*SIX).check(header(20, 10))
    assert verdict == (Decision.DUPLICATE_HIT, 20, 29, 520)


def test_a_producer_without_id_is_never_checked() -> None:
    table = table_of(header(5, producer_id=0))
    assert len(table) == 0
    assert table.check(header(9, producer_id=0)).decision is Decision.APPEND


def test_expiry_hides_the_window_but_not_the_epoch() -> None:
    table = table_of(header(0, epoch=3), header(1, epoch=3))
    assert table.check(header(2, epoch=3), expired=True).decision is Decision.UNKNOWN_PRODUCER
    assert table.check(header(0, epoch=3), expired=True).decision is Decision.APPEND
    assert table.check(header(0, epoch=2), expired=True).decision is Decision.INVALID_EPOCH
    assert table == table_of(header(0, epoch=3), header(1, epoch=3))


def test_batches_of_one_request_are_judged_one_after_another() -> None:
    table = table_of(header(0))
    verdicts = table.check_all([header(0), header(1), header(2), header(9), header(3)])
    assert [verdict.decision for verdict in verdicts] == [
        Decision.DUPLICATE_HIT,
        Decision.APPEND,
        Decision.APPEND,
        Decision.OUT_OF_ORDER,
        Decision.APPEND,
    ]
    assert table == table_of(header(0))


def test_forgetting_drops_producers_below_the_start_that_are_silent_for_long() -> None:
    # Appended at 504, 505 and 604 ms.
    headers = [header(0, offset=one, producer_id=one) for one in (4, 5, 104)]
    assert table_of(*headers).forget_below(5, 99) == [4]
    assert table_of(*headers).forget_below(5, 100) == []
    assert table_of(*headers).forget_below(105, 98) == [4, 5]
    assert table_of().forget_below(5, 0) == []


def test_a_snapshot_that_is_cut_is_refused() -> None:
    data = encode_snapshot(table_of(*SIX))
    assert decode_snapshot(data) == table_of(*SIX)
    for size in range(len(data)):
        with pytest.raises(ValueError):
            decode_snapshot(data[:size])


class Row(NamedTuple):
    producer_id: int
    epoch: int
    first: int
    last: int
    offset: int


class ProducersAgainstTheLog(RuleBasedStateMachine):
    """The verdict is worked out anew from all batches in the log, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Row] = []
        self.table = ProducerTable()

    def judge(self, batch: BatchHeader) -> Decision:
        mine = [row for row in self.log if row.producer_id == batch.producer_id]
        if not mine:
            return Decision.APPEND if batch.base_sequence == 0 else Decision.UNKNOWN_PRODUCER
        newest = mine[-1].epoch
        if batch.producer_epoch < newest:
            return Decision.INVALID_EPOCH
        if batch.producer_epoch > newest:
            return Decision.APPEND if batch.base_sequence == 0 else Decision.OUT_OF_ORDER
        mine = [row for row in mine if row.epoch == newest]
        if batch.base_sequence == (mine[-1].last + 1) % M:
            return Decision.APPEND
        window = mine[-5:]
        if any((r.first, r.last) == (batch.base_sequence, batch.last_sequence) for r in window):
            return Decision.DUPLICATE_HIT
        if any((batch.last_sequence - r.first) % M <= (r.last - r.first) % M for r in mine[:-5]):
            return Decision.DUPLICATE  # it ends where something below the window stands
        return Decision.OUT_OF_ORDER

    @rule(
        producer_id=st.integers(1, 2),
        epoch_step=st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]),
        move=st.sampled_from(["next", "next", "next", "again", "old", "ahead"]),
        # A window of more than half the circle cannot tell what is below from what is ahead.
        count=st.sampled_from([1, 3, M // 12]),
        pick=st.integers(0, 20),
    )
    def produce(self, producer_id: int, epoch_step: int, move: str, count: int, pick: int) -> None:
        mine = [row for row in self.log if row.producer_id == producer_id]
        epoch = max(0, (mine[-1].epoch if mine else 0) + epoch_step)
        first = (mine[-1].last + 1) % M if mine and epoch_step == 0 else 0
        if move == "ahead":
            first = (first + 1 + pick) % M
        elif move in ("again", "old") and mine:
            row = mine[-1 - pick % len(mine)]
            first, count, epoch = row.first, (row.last - row.first) % M + 1, row.epoch
        batch = header(first, count, producer_id=producer_id, epoch=epoch, offset=self.end)
        expected = self.judge(batch)
        verdict = self.table.check(batch)
        if expected is Decision.DUPLICATE:
            # Half a circle back a sequence can no longer be told from one that is ahead.
            assert verdict.decision in (Decision.DUPLICATE, Decision.OUT_OF_ORDER)
        elif count < 4 or verdict.decision is not Decision.DUPLICATE:
            assert verdict.decision is expected
        if verdict.decision is Decision.APPEND:
            self.table.apply(batch)
            last = batch.last_sequence
            self.log.append(Row(producer_id, epoch, first, last, batch.base_offset))

    @property
    def end(self) -> int:
        return len(self.log)

    @invariant()
    def state_is_the_last_five_batches_of_the_newest_epoch(self) -> None:
        for producer_id in (1, 2):
            mine = [row for row in self.log if row.producer_id == producer_id]
            state = self.table.get(producer_id)
            assert (state is None) == (not mine)
            if state is not None:
                window = [row for row in mine if row.epoch == mine[-1].epoch][-5:]
                assert [(b.first_sequence, b.base_offset) for b in state.batches] == [
                    (row.first, row.offset) for row in window
                ]

    @invariant()
    def a_snapshot_says_the_same(self) -> None:
        assert decode_snapshot(encode_snapshot(self.table)) == self.table


ProducersAgainstTheLog.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestProducersAgainstTheLog = ProducersAgainstTheLog.TestCase


@given(st.integers(0, M - 1), st.integers(1, 7), st.integers(1, 3))
def test_a_run_of_batches_across_the_wrap_is_accepted(first: int, batches: int, count: int) -> None:
    table = ProducerTable()
    table.apply(header(first, count))
    for number in range(1, batches):
        batch = header(first + number * count, count)
        assert table.check(batch).decision is Decision.APPEND
        table.apply(batch)
        assert table.check(batch).decision is Decision.DUPLICATE_HIT
