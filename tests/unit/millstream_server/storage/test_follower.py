"""A follower's log: the leader's bytes, but for the replica's own fields."""

import pytest

from millstream.record import iterate_frames, parse_header
from millstream_server.storage import LogConfig, MalformedAppendError, StaleEpochError
from millstream_server.storage.follower import take_frames
from tests.fakes.storage import Appender, make_batch

CONFIG = LogConfig(preallocate_bytes=0, segment_bytes=3000)


def leader() -> Appender:
    appender = Appender(config=CONFIG)
    for number in range(20):
        appender.append(
            make_batch((b"v%d" % number,), producer_id=3, base_sequence=number),
            epoch=(2, 5)[number >= 12],
        )
    return appender


def follow(follower: Appender, data: bytes) -> None:
    log = follower.log
    for run in take_frames(data, log.end_offset, log.epochs.latest):
        if run.epoch != log.epochs.latest:
            follower.writer.begin_epoch(log, run.epoch, lambda _, error: None)
            follower.executor.run()
        follower.writer.submit(log, log.stage_as_follower(run.batches), lambda _, error: None)
        follower.executor.run()


def replicate(source: Appender, follower: Appender, bytes_max: int = 700) -> None:
    while data := source.log.read(follower.log.end_offset, bytes_max, source.log.end_offset):
        follow(follower, data)


def test_a_follower_ends_with_the_same_records_epochs_and_producers() -> None:
    source, follower = leader(), Appender(config=CONFIG)
    replicate(source, follower)
    assert follower.read_all() == source.read_all()
    assert follower.log.epochs.entries == source.log.epochs.entries
    assert follower.log.producers == source.log.producers
    follower.files.power_loss()
    again = Appender(follower.files, CONFIG)
    assert again.read_all() == source.read_all()
    assert again.log.producers == source.log.producers


def test_only_the_synced_end_and_its_checksum_differ() -> None:
    source, follower = leader(), Appender(config=CONFIG)
    replicate(source, follower, bytes_max=100_000)
    theirs = source.log.read(0, 100_000, 20)
    ours = follower.log.read(0, 100_000, 20)
    frames = list(iterate_frames(theirs))
    assert frames == list(iterate_frames(ours))
    for frame in frames:
        mine = parse_header(ours, frame.batch_start, frame.end)
        other = parse_header(theirs, frame.batch_start, frame.end)
        assert mine[2:] == other[2:]
        assert mine.synced_end_offset <= other.synced_end_offset


def test_damaged_bytes_gaps_and_old_epochs_are_refused() -> None:
    data = leader().log.read(0, 100_000, 20)
    for position in range(0, len(data), 7):
        spoilt = bytearray(data)
        spoilt[position] ^= 1
        with pytest.raises(MalformedAppendError):
            take_frames(bytes(spoilt), 0, None)
    with pytest.raises(MalformedAppendError, match="ends at 1"):
        take_frames(data, 1, None)
    with pytest.raises(MalformedAppendError, match="after epoch 9"):
        take_frames(data, 0, 9)


def test_an_epoch_must_be_begun_before_its_batches() -> None:
    run = take_frames(leader().log.read(0, 500, 20), 0, None)[0]
    with pytest.raises(StaleEpochError):
        Appender().log.stage_as_follower(run.batches)


def test_a_diverged_follower_truncates_and_agrees_again() -> None:
    source, follower = leader(), Appender(config=CONFIG)
    replicate(source, follower)
    for _ in range(5):
        follower.append(make_batch((b"never acknowledged",)), epoch=6)
    source.append(make_batch((b"the truth",)), epoch=7)
    theirs = source.log.epochs.end_of(6, source.log.end_offset)
    assert theirs == (5, 20)
    follower.log.truncate_to(20)
    replicate(source, follower)
    assert follower.read_all() == source.read_all()
    assert follower.log.epochs.entries == source.log.epochs.entries
