"""Leader epochs of a log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream_server.storage.epochs import EpochHistory, EpochStart

HISTORY = [EpochStart(1, 0), EpochStart(3, 10), EpochStart(4, 25)]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [(0, None), (1, (1, 10)), (2, (1, 10)), (3, (3, 25)), (4, (4, 40)), (9, (4, 40))],
)
def test_end_of_the_largest_epoch_at_or_below(asked: int, answer: tuple[int, int] | None) -> None:
    assert EpochHistory(HISTORY).end_of(asked, 40) == answer


@pytest.mark.parametrize(("offset", "epoch"), [(0, 1), (9, 1), (10, 3), (25, 4), (99, 4)])
def test_epoch_of_an_offset(offset: int, epoch: int) -> None:
    assert EpochHistory(HISTORY).epoch_of(offset) == epoch


def test_the_same_epoch_begins_once_and_an_older_one_never() -> None:
    history = EpochHistory(HISTORY)
    assert not history.assign(4, 30)
    with pytest.raises(ValueError, match="older"):
        history.assign(2, 30)
    assert history.entries == tuple(HISTORY)


def test_an_epoch_without_records_gives_way() -> None:
    history = EpochHistory(HISTORY)
    assert history.assign(7, 25)
    assert history.entries[-2:] == (EpochStart(3, 10), EpochStart(7, 25))


@pytest.mark.parametrize(("end", "left"), [(0, 0), (10, 1), (11, 2), (25, 2), (26, 3), (99, 3)])
def test_a_cut_drops_epochs_that_begin_at_or_beyond_it(end: int, left: int) -> None:
    history = EpochHistory(HISTORY)
    assert history.truncate_end(end) == (left < 3)
    assert history.entries == tuple(HISTORY[:left])


def test_a_new_start_keeps_the_epoch_that_holds_it() -> None:
    history = EpochHistory(HISTORY)
    assert history.truncate_start(12)
    assert history.entries == (EpochStart(3, 12), EpochStart(4, 25))
    assert not history.truncate_start(12)
    assert history.truncate_start(25)
    assert history.entries == (EpochStart(4, 25),)
    assert history.truncate_start(50)
    assert history.entries == (EpochStart(4, 50),)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50))))
def test_a_history_ascends_and_comes_back_from_its_checkpoint(
    steps: list[tuple[int, int]],
) -> None:
    history = EpochHistory()
    for epoch, start in sorted(steps):
        history.assign(epoch, start)
    epochs = [entry.epoch for entry in history.entries]
    starts = [entry.start_offset for entry in history.entries]
    assert epochs == sorted(set(epochs))
    assert starts == sorted(set(starts))
    assert EpochHistory.load(history.dump()).entries == history.entries


@pytest.mark.parametrize("payload", [b"", b"{}x", b"[[1]]", b"[1, 2]", b"[[2, 0], [1, 5]]"])
def test_a_payload_that_is_no_history_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        EpochHistory.load(payload)
