"""The schedule of faults: the same for the same seed, quiet at first, every class in turn."""

from collections import Counter

from tests.cluster.faults.schedule import BETWEEN_S, PERIOD_S, QUIET_S, draw

CLASSES = ("F1", "F2", "F3", "F4", "F5")


def test_one_seed_gives_one_schedule() -> None:
    assert draw(7, 600, CLASSES) == draw(7, 600, CLASSES)
    assert draw(7, 600, CLASSES) != draw(8, 600, CLASSES)


def test_it_is_quiet_at_first_and_nothing_comes_after_the_end() -> None:
    for seed in range(50):
        planned = draw(seed, 300, CLASSES)
        assert all(QUIET_S <= one.at_s < 300 for one in planned)
        assert planned == sorted(planned, key=lambda one: one.at_s)


def test_about_a_quarter_of_the_periods_is_quiet_and_the_others_are_busy() -> None:
    seconds = 1000 * PERIOD_S
    busy = Counter(int((one.at_s - QUIET_S) // PERIOD_S) for one in draw(1, seconds, CLASSES))
    assert 0.7 < len(busy) / 1000 < 0.8
    assert min(busy[period] for period in sorted(busy)[:-1]) >= PERIOD_S / BETWEEN_S[1] - 1


def test_every_class_comes_again_and_again() -> None:
    counts = Counter(one.name for one in draw(1, 3600, CLASSES))
    assert counts.keys() == set(CLASSES)
    assert min(counts.values()) > 20


def test_without_classes_there_are_no_faults() -> None:
    assert draw(1, 600, ()) == []
