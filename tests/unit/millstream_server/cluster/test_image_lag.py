"""An image that waits too long for a version is noticed, and the next node gets more time."""

from millstream_server.cluster.image_lag import ImageLag


def test_an_image_that_keeps_up_is_never_too_old() -> None:
    lag = ImageLag(1_000)
    assert not any(lag.is_too_long(version + 3, version, 500 * version) for version in range(100))


def test_an_image_that_stands_still_is_noticed_after_the_limit() -> None:
    lag = ImageLag(1_000)
    assert not lag.is_too_long(11, 10, 0)
    assert not lag.is_too_long(50, 10, 1_000)
    assert lag.is_too_long(60, 10, 1_001)


def test_a_quiet_cluster_makes_no_image_old() -> None:
    lag = ImageLag(1_000)
    assert not any(lag.is_too_long(10, 10, now) for now in range(0, 10_000, 500))


def test_the_next_node_gets_more_time_until_one_has_caught_up() -> None:
    lag = ImageLag(1_000)
    lag.is_too_long(11, 10, 0)
    left = [now for now in range(100, 40_000, 100) if lag.is_too_long(11, 10, now)]
    assert left == [1_100, 3_200, 7_300, 15_400, 23_500, 31_600, 39_700]
    assert not lag.is_too_long(12, 11, 40_000)
    assert lag.is_too_long(12, 11, 41_001)
