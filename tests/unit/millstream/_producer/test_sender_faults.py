"""The sender under random faults, one seed a run; what stands in the logs is judged afterwards."""

import random

import pytest

from tests.fakes.produce_world import ProduceWorld

_DEFINITE = ("NOT_ENOUGH_REPLICAS", "NOT_LEADER", "THROTTLED", "CORRUPT_BATCH", "DISK_FULL")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_network_does_each_record_is_written_once_and_in_order(seed: int) -> None:
    """Random faults; then every acknowledged record is in the log once, in the order sent, and no
    record that failed definitely is."""
    chance = random.Random(seed)
    world = ProduceWorld(
        partitions=2, seed=seed, batch_size=60, delivery_timeout_ms=40_000, request_timeout_ms=4_000
    )
    sent_records: list[tuple[bytes, int, object, int]] = []
    for step in range(300):
        if step < 200:
            for _ in range(chance.randrange(4)):
                value = b"%d" % len(sent_records)
                partition = chance.randrange(2)
                sent_records.append((value, partition, *world.send(value, partition)))
        world.collect()
        if world.network:
            _befall(world, chance, healed=step > 230)
        elif chance.random() < 0.1:
            world.tell_leader(chance.choice((1, 2)))
        if step > 280:
            world.clock.now_ms += 2_000
        elif chance.random() < 0.2:
            world.clock.now_ms += chance.randrange(1_500)
        for node_id in world.sender.expire(world.clock.now_ms):
            world.break_stream(node_id)
    for _ in range(100):
        world.collect()
        while world.network:
            world.answer(world.network[0])
        world.wait()
    _judge(world, sent_records)


def _befall(world: ProduceWorld, chance: random.Random, *, healed: bool) -> None:
    fate = 1.0 if healed else chance.random()
    sent = world.network[0]
    if fate < 0.06:
        world.answer(sent, chance.choice(_DEFINITE))
    elif fate < 0.12:
        world.append(sent)  # the answer is lost with the stream
        world.break_stream(sent.call.node_id)
    elif fate < 0.16:
        world.break_stream(sent.call.node_id)
    elif fate < 0.20:
        world.append(sent)
        world.answer(sent, "TIMED_OUT", indeterminate=True)
    elif fate < 0.22:
        world.tell_leader(chance.choice((1, 2, None)))
    elif fate < 0.24:
        world.tell_leader(chance.choice((1, 2)))
    elif fate > 0.4:
        world.answer(sent)
    if healed:
        world.tell_leader(1)


def _judge(world: ProduceWorld, sent_records: list[tuple[bytes, int, object, int]]) -> None:
    logs = [world.values(partition) for partition in range(2)]
    for log in logs:
        assert len(set(log)) == len(log), "a record was written twice"
        numbers = [int(value or b"") for value in log]
        assert numbers == sorted(numbers), "records changed their order"
    acknowledged = 0
    for value, partition, batch, index in sent_records:
        assert batch.done  # type: ignore[attr-defined]
        error = batch.error_of(index)  # type: ignore[attr-defined]
        if error is None:
            acknowledged += 1
            offset = batch.metadata(index).offset  # type: ignore[attr-defined]
            assert value in logs[partition]
            assert offset is None or logs[partition][offset] == value
        elif not error.indeterminate:
            assert value not in logs[partition], "a definite failure was written"
    assert acknowledged > len(sent_records) // 3
    assert world.accumulator.buffered == 0
