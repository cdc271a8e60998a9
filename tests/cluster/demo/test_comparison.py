"""The comparison finds what was planted, and nothing else."""

import pytest

from tests.cluster.demo.comparison import Comparison, compare
from tests.cluster.demo.ledger import Deliveries, Delivery, SentRecords
from tests.cluster.demo.tampering import SPOILED, TooFewRecordsError, tamper

PARTITIONS = 3
COUNT = 60


def sent_and_read() -> tuple[SentRecords, Deliveries, dict[int, int]]:
    """Sixty records over three partitions, each acknowledged and read once."""
    sent, read = SentRecords(), Deliveries()
    ends = dict.fromkeys(range(PARTITIONS), 0)
    for number in range(COUNT):
        partition = number % PARTITIONS
        record_id = sent.add(fingerprint=number * 7)
        sent.acknowledge(record_id, partition, ends[partition])
        read.add(Delivery(partition, ends[partition], record_id, number * 7))
        ends[partition] += 1
    return sent, read, ends


def figures(comparison: Comparison) -> dict[str, int]:
    names = ("lost", "duplicated", "redelivered", "out_of_order", "committed_lag")
    return {name: comparison.total(name) for name in names if comparison.total(name)}


def compared(deliveries: list[Delivery], **options: bool) -> Comparison:
    sent, _, ends = sent_and_read()
    return compare(sent, deliveries, ends, ends, **options)


def untouched() -> list[Delivery]:
    return list(sent_and_read()[1])


def test_a_perfect_run_is_all_zeros():
    result = compared(untouched())
    assert result.is_clean
    assert (figures(result), result.samples) == ({}, ())
    assert result.total("acknowledged") == result.total("consumed") == COUNT
    assert [tally.end for tally in result.partitions] == [20, 20, 20]


def test_partitions_may_be_read_in_any_interleaving():
    assert compared(sorted(untouched(), key=lambda each: -each.partition)).is_clean


def test_a_record_that_nobody_read_is_lost():
    result = compared(untouched()[:-1])
    assert figures(result) == {"lost": 1}
    assert "record 59" in result.samples[0]
    assert not result.is_clean


def test_a_record_that_was_never_acknowledged_is_not_lost():
    sent, read, ends = sent_and_read()
    sent.add(fingerprint=1)
    assert compare(sent, read, ends, ends).is_clean


def test_a_record_at_two_offsets_is_duplicated():
    read = untouched()
    read.append(read[0]._replace(offset=20))
    assert figures(compared(read)) == {"duplicated": 1}


def test_a_record_in_two_partitions_is_duplicated():
    read = untouched()
    read.append(read[0]._replace(partition=1, offset=20))
    assert figures(compared(read)) == {"duplicated": 1}


def test_a_record_that_was_never_sent_is_a_duplicate():
    assert figures(compared([*untouched(), Delivery(0, 20, COUNT, 0)])) == {"duplicated": 1}
    assert figures(compared([*untouched(), Delivery(0, 20, -1, 0)])) == {"duplicated": 1}


def test_one_offset_twice_is_redelivered_unless_a_kill_excuses_it():
    read = untouched()
    read.extend(read[-3:])
    assert figures(compared(read)) == {"redelivered": 3}
    excused = compared(read, excuse_redelivery=True)
    assert excused.is_clean
    assert excused.redeliveries_excused == 3


def test_a_rewind_to_the_last_commit_is_redelivery_not_disorder():
    read = untouched()
    assert figures(compared([*read[:30], *read[15:30], *read[30:]])) == {"redelivered": 15}


def test_records_in_another_order_than_sent_are_out_of_order():
    read = untouched()
    read[0], read[3] = (
        read[3]._replace(offset=read[0].offset),
        read[0]._replace(offset=read[3].offset),
    )
    assert figures(compared(read)) == {"out_of_order": 2}


def test_a_record_elsewhere_than_acknowledged_is_out_of_order():
    read = untouched()
    read[-1] = read[-1]._replace(offset=25)
    assert figures(compared(read)) == {"out_of_order": 1}


def test_an_acknowledgement_without_offset_binds_to_no_place():
    sent, read, ends = sent_and_read()
    sent.acknowledge(5, 2, None)
    assert compare(sent, read, ends, ends).is_clean


def test_an_altered_record_counts_as_lost():
    read = untouched()
    read[4] = read[4]._replace(fingerprint=1)
    result = compared(read)
    assert figures(result) == {"lost": 1}
    assert "altered" in result.samples[0]


def test_what_was_not_committed_is_lag():
    sent, read, ends = sent_and_read()
    assert figures(compare(sent, read, {0: 20, 1: 17}, ends)) == {"committed_lag": 23}


def test_dropping_seven_records_loses_seven():
    sent, read, ends = sent_and_read()
    spoiled = tamper("drop", read)
    assert figures(compare(sent, spoiled, ends, ends)) == {"lost": SPOILED}


def test_dropping_is_not_hidden_by_a_redelivery():
    sent, read, ends = sent_and_read()
    for delivery in list(read):
        read.add(delivery)
    result = compare(sent, tamper("drop", read), ends, ends, excuse_redelivery=True)
    assert figures(result) == {"lost": SPOILED}


def test_duplicating_seven_records_is_seven_duplicates():
    sent, read, ends = sent_and_read()
    spoiled = tamper("duplicate", read)
    assert figures(compare(sent, spoiled, ends, ends)) == {"duplicated": SPOILED}


def test_swapping_seven_records_is_disorder_and_nothing_else():
    sent, read, ends = sent_and_read()
    spoiled = tamper("swap", read)
    changed = sum(before != after for before, after in zip(read, spoiled, strict=True))
    assert changed == SPOILED
    assert figures(compare(sent, spoiled, ends, ends)) == {"out_of_order": SPOILED}


def test_unknown_ways_to_tamper_are_named():
    with pytest.raises(ValueError, match="drop, duplicate, swap"):
        tamper("burn", sent_and_read()[1])


@pytest.mark.parametrize("mode", ["drop", "duplicate", "swap"])
def test_too_few_records_to_tamper_are_refused(mode: str):
    read = Deliveries()
    read.add(Delivery(0, 0, 0, 0))
    with pytest.raises(TooFewRecordsError):
        tamper(mode, read)
