"""The producer's decisions: order, sequences, retries, epochs, give-ups. No network, no clock."""

import pytest

from millstream import (
    InvalidProducerEpochError,
    MillstreamError,
    OutOfOrderSequenceError,
    PurgedError,
    RecordTooLargeError,
    TimedOutError,
    UnknownTopicError,
)
from tests.fakes.produce_world import ProduceWorld


def _one_each(world: ProduceWorld, *values: bytes) -> list[object]:
    """Send each value in a request of its own; returns the batches."""
    batches: list[object] = []
    for value in values:
        batches.append(world.send(value)[0])
        world.collect()
    return batches


def test_records_are_appended_in_order_and_acknowledged_with_their_offsets() -> None:
    world = ProduceWorld()
    places = [world.send(b"%d" % n) for n in range(3)]
    (sent,) = world.collect()
    world.answer(sent)
    assert [batch.result_of(index).offset for batch, index in places] == [0, 1, 2]
    assert world.accumulator.buffered == 0
    assert not world.accumulator.active


def test_at_most_max_in_flight_batches_are_unanswered() -> None:
    world = ProduceWorld(max_in_flight_requests_per_connection=2)
    _one_each(world, b"a", b"b", b"c", b"d")
    assert len(world.network) == 2
    world.answer(world.network[0])
    (sent,) = world.collect()
    world.answer(world.network[0])
    world.answer(sent)
    assert world.values() == [b"a", b"b", b"c", b"d"]


def test_a_broken_stream_sends_all_again_in_order_with_the_same_sequences() -> None:
    world = ProduceWorld()
    batches = _one_each(world, b"a", b"b", b"c")
    sequences = [batch.base_sequence for batch in batches]  # type: ignore[attr-defined]
    world.append(world.network[0])  # appended, but the answer is lost
    world.break_stream()
    assert world.collect() == []  # the delay before a retry
    world.wait()
    again = world.collect()
    assert [batch.base_sequence for batch in batches] == sequences  # type: ignore[attr-defined]
    for sent in again:
        world.answer(sent)
    assert world.values() == [b"a", b"b", b"c"]
    assert world.logs[0].duplicates == 1
    assert all(batch.done for batch in batches)  # type: ignore[attr-defined]
    assert not any(batch.error for batch in batches)  # type: ignore[attr-defined]


def test_a_failed_batch_holds_back_new_ones_until_it_is_through() -> None:
    world = ProduceWorld()
    _one_each(world, b"a", b"b")
    world.answer(world.network[0], "NOT_ENOUGH_REPLICAS")
    world.send(b"c")
    assert world.collect() == []
    world.answer(world.network[0])  # b: OUT_OF_ORDER or UNKNOWN_PRODUCER, since a is missing
    world.wait()
    for sent in world.collect():
        world.answer(sent)
    for sent in world.collect():
        world.answer(sent)
    assert world.values() == [b"a", b"b", b"c"]
    assert world.sender.identity.epoch == 0


def test_a_newer_leader_ends_the_wait_before_a_retry() -> None:
    world = ProduceWorld()
    _one_each(world, b"a")
    world.answer(world.network[0], "NOT_LEADER")
    assert world.collect() == []
    world.tell_leader(2)
    (sent,) = world.collect()
    assert sent.call.node_id == 2
    world.answer(sent)
    assert world.values() == [b"a"]


def test_nothing_is_sent_while_there_is_no_leader() -> None:
    world = ProduceWorld()
    world.tell_leader(None)
    world.send(b"a")
    assert world.collect() == []
    world.tell_leader(1)
    assert len(world.collect()) == 1


def test_a_permanent_failure_in_the_middle_begins_a_new_epoch_when_all_is_known() -> None:
    world = ProduceWorld(partitions=2)
    first, second = _one_each(world, b"a", b"b")
    world.send(b"other", partition=1)
    (other,) = world.collect()
    world.answer(world.network[0], "CORRUPT_BATCH")
    world.answer(world.network[0])  # b: its sequence does not fit any more
    assert first.done  # type: ignore[attr-defined]
    assert not second.done  # type: ignore[attr-defined]
    world.send(b"c")
    assert world.collect() == []  # the other partition's batch is still unknown
    assert world.sender.identity.epoch == 0
    world.answer(other)
    for sent in world.collect():
        world.answer(sent)
    assert world.sender.identity.epoch == 1
    for sent in world.collect():
        world.answer(sent)
    assert world.values() == [b"b", b"c"]
    assert [header.producer_epoch for header in world.logs[0].batches] == [1, 1]
    assert [header.base_sequence for header in world.logs[0].batches] == [0, 1]


def test_a_permanent_failure_of_the_last_batch_only_takes_its_number_back() -> None:
    world = ProduceWorld()
    _one_each(world, b"a")
    world.answer(world.network[0])
    _one_each(world, b"bad")
    world.answer(world.network[0], "CORRUPT_BATCH")
    _one_each(world, b"b")
    world.answer(world.network[0])
    assert world.values() == [b"a", b"b"]
    assert world.sender.identity.epoch == 0


def test_a_partition_that_forgot_the_producer_is_written_under_a_new_epoch() -> None:
    world = ProduceWorld()
    _one_each(world, b"a")
    world.answer(world.network[0])
    world.logs[0].producers.clear()
    _one_each(world, b"b")
    world.answer(world.network[0])
    for sent in world.collect():
        world.answer(sent)
    assert world.values() == [b"a", b"b"]
    assert world.sender.identity.epoch == 1


def test_a_batch_that_may_be_in_the_log_is_never_sent_under_a_new_epoch() -> None:
    world = ProduceWorld()
    _one_each(world, b"a")
    world.answer(world.network[0])
    (batch,) = _one_each(world, b"b")
    world.append(world.network[0])
    world.break_stream()
    world.logs[0].producers.clear()
    world.wait()
    (sent,) = world.collect()
    world.answer(sent)
    assert world.values() == [b"a", b"b"]
    assert batch.error.indeterminate  # type: ignore[attr-defined]
    assert batch.error.code == "UNKNOWN_PRODUCER"  # type: ignore[attr-defined]
    _one_each(world, b"c")
    world.answer(world.network[0])
    assert world.values() == [b"a", b"b", b"c"]


def test_a_spent_epoch_counter_asks_for_a_new_producer_id() -> None:
    world = ProduceWorld()
    world.sender.identity.epoch = 32_767
    _one_each(world, b"a", b"b")
    world.answer(world.network[0], "CORRUPT_BATCH")
    world.answer(world.network[0])
    world.sender.collect(world.clock.now_ms)
    assert world.sender.needs_producer_id
    for sent in world.collect():
        world.answer(sent)
    assert world.values() == [b"b"]


def test_another_producer_under_our_id_is_fatal() -> None:
    world = ProduceWorld()
    batch, _ = world.send(b"a")
    world.collect()
    world.answer(world.network[0], "INVALID_PRODUCER_EPOCH")
    assert isinstance(world.sender.fatal, InvalidProducerEpochError)
    assert batch.error is not None
    assert batch.error.fatal
    assert world.accumulator.buffered == 0


def test_a_forgotten_duplicate_is_a_success_without_offset() -> None:
    world = ProduceWorld()
    batch, index = world.send(b"a")
    (sent,) = world.collect()
    world.reply(sent, [(0, None, "DUPLICATE_SEQUENCE")])
    assert batch.result_of(index).offset is None


def test_delivery_timeout_before_the_first_send_is_definite() -> None:
    world = ProduceWorld(delivery_timeout_ms=5_000, request_timeout_ms=1_000)
    world.tell_leader(None)
    batch, index = world.send(b"a")
    world.wait(5_001)
    world.sender.expire(world.clock.now_ms)
    with pytest.raises(TimedOutError) as caught:
        batch.result_of(index)
    assert not caught.value.indeterminate
    assert world.accumulator.buffered == 0


def test_delivery_timeout_in_flight_is_indeterminate_and_leaves_no_gap_behind() -> None:
    world = ProduceWorld(delivery_timeout_ms=5_000, request_timeout_ms=1_000)
    batch, index = world.send(b"a")
    (late,) = world.collect()
    world.wait(5_001)
    assert world.sender.expire(world.clock.now_ms) == [1]
    with pytest.raises(TimedOutError) as caught:
        batch.result_of(index)
    assert caught.value.indeterminate
    _one_each(world, b"b")
    world.answer(late)
    world.answer(world.network[0])
    assert world.values() == [b"a", b"b"]
    assert world.sender.identity.epoch == 0


def test_an_unanswered_expired_batch_makes_later_ones_start_a_new_epoch() -> None:
    world = ProduceWorld(delivery_timeout_ms=5_000, request_timeout_ms=1_000)
    world.send(b"a")
    world.collect()
    world.wait(5_001)
    world.sender.expire(world.clock.now_ms)
    world.break_stream()
    _one_each(world, b"b")
    world.answer(world.network[0])
    assert world.values() == [b"b"]
    assert world.sender.identity.epoch == 1


def test_purged_batches_fail_and_later_ones_go_on() -> None:
    world = ProduceWorld(max_in_flight_requests_per_connection=1)
    sent_batch, sent_index = world.send(b"a")
    world.collect()
    queued, queued_index = world.send(b"b")
    world.sender.abandon_all()
    for batch, index, indeterminate in ((sent_batch, sent_index, 1), (queued, queued_index, 0)):
        with pytest.raises(PurgedError) as caught:
            batch.result_of(index)
        assert caught.value.indeterminate == bool(indeterminate)
    world.answer(world.network[0])
    _one_each(world, b"c")
    world.answer(world.network[0])
    assert world.values() == [b"a", b"c"]


def test_a_deleted_topic_fails_its_records_and_late_answers_are_dropped() -> None:
    world = ProduceWorld()
    batch, index = world.send(b"a")
    (sent,) = world.collect()
    world.tell_leader(1, deleted=True)
    with pytest.raises(UnknownTopicError):
        batch.result_of(index)
    world.answer(sent)
    assert world.accumulator.buffered == 0
    assert world.accumulator.append("t", b"b") is None


def test_a_batch_that_the_broker_finds_too_large_is_cut() -> None:
    world = ProduceWorld()
    places = [world.send(b"%03d" % n + b"x" * 100) for n in range(16)]
    world.logs[0].batch_bytes_max = 700
    for _ in range(6):
        for sent in world.collect():
            world.answer(sent)
    assert [batch.result_of(index).offset for batch, index in places] == list(range(16))
    assert len(world.logs[0].batches) == 4
    assert world.accumulator.buffered == 0
    batch, index = world.send(b"x" * 800)
    for sent in world.collect():
        world.answer(sent)
    with pytest.raises(RecordTooLargeError):
        batch.result_of(index)


def test_retries_are_limited() -> None:
    world = ProduceWorld(retries=1)
    batch, index = world.send(b"a")
    world.answer(world.collect()[0], "NOT_ENOUGH_REPLICAS")
    world.wait()
    world.answer(world.collect()[0], "NOT_ENOUGH_REPLICAS")
    with pytest.raises(MillstreamError) as caught:
        batch.result_of(index)
    assert not caught.value.indeterminate


def test_without_idempotence_a_wrong_sequence_is_just_an_error() -> None:
    world = ProduceWorld(acks=1)
    batch, index = world.send(b"a")
    world.answer(world.collect()[0], "OUT_OF_ORDER_SEQUENCE")
    with pytest.raises(OutOfOrderSequenceError):
        batch.result_of(index)
    assert not world.sender.epoch_is_spent


def test_linger_waits_for_more_records_unless_flushing() -> None:
    world = ProduceWorld(linger_ms=50)
    world.send(b"a")
    assert world.collect() == []
    assert world.sender.wake_at_ms == world.clock.now_ms + 51
    world.wait(51)
    assert len(world.collect()) == 1
    world.send(b"b")
    world.sender.flushing += 1
    assert len(world.collect()) == 1


def test_small_batches_gather_while_an_earlier_one_is_unanswered() -> None:
    world = ProduceWorld(linger_in_flight_ms=10)
    world.send(b"a")
    (first,) = world.collect()
    for value in (b"b", b"c"):
        world.send(value)
        assert world.collect() == []
    assert world.sender.wake_at_ms == world.clock.now_ms + 11
    world.answer(first)
    (second,) = world.collect()
    ((_, batch),) = second.call.waiting.values()
    assert batch.count == 2


def test_small_batches_do_not_wait_long_for_an_answer() -> None:
    world = ProduceWorld(linger_in_flight_ms=10)
    world.send(b"a")
    world.collect()
    world.send(b"b")
    assert world.collect() == []
    world.wait(11)
    assert len(world.collect()) == 1
    world.send(b"c")
    assert world.collect() == []
    world.sender.flushing += 1
    assert len(world.collect()) == 1


def test_full_batches_wait_for_no_answer() -> None:
    world = ProduceWorld(linger_in_flight_ms=10, batch_size=1)
    for value in (b"a", b"b", b"c"):
        world.send(value)
    assert len(world.collect()) == 2, "only the last one may grow"


def test_small_batches_of_many_partitions_share_a_request() -> None:
    world = ProduceWorld(partitions=8)
    for partition in range(8):
        world.send(b"x", partition=partition)
    (sent,) = world.collect()
    assert len(sent.request.partitions) == 8
    world.answer(sent)
