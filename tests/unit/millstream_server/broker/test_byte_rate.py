"""A limit of bytes per second."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream_server.broker.byte_rate import ByteRate


def test_what_is_taken_beyond_the_balance_is_waited_for() -> None:
    rate = ByteRate(1000, 0, burst_ms=100)
    assert rate.wait_ms(0) == 0
    rate.take(600)
    assert rate.wait_ms(0) == 501
    assert rate.wait_ms(400) == 101
    assert rate.wait_ms(501) == 0


def test_idle_time_is_not_saved_up() -> None:
    rate = ByteRate(1000, 0, burst_ms=100)
    assert rate.wait_ms(1_000_000) == 0
    rate.take(1100)
    assert rate.wait_ms(1_000_000) == 1001


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="lets nothing through"):
        ByteRate(0, 0)


@example(84, [16_653, 1])
@given(st.integers(1, 10**9), st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_in_the_long_run_no_more_goes_through_than_the_rate(
    bytes_per_s: int, sizes: list[int]
) -> None:
    rate = ByteRate(bytes_per_s, 0)
    now_ms = 0
    for size in sizes:
        now_ms += rate.wait_ms(now_ms)
        assert rate.wait_ms(now_ms) == 0
        rate.take(size)
    allowed = bytes_per_s * (now_ms + 100) / 1000
    assert sum(sizes[:-1]) <= allowed + 1
