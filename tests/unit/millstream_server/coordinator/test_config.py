"""Configuration that cannot work is refused by the name of the field."""

from dataclasses import replace

import pytest

from millstream_server.coordinator.config import CoordinatorConfig


def test_the_defaults_are_valid() -> None:
    CoordinatorConfig().validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("session_timeout_ms", 100),
        ("rebalance_timeout_ms", 10**9),
        ("writes_in_flight_max", 6),
        ("log_retry_ms", 5_000),
        ("members_per_group_max", 0),
        ("rebalance_delay_ms", -1),
    ],
)
def test_bad_values_are_named(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        replace(CoordinatorConfig(), **{field: value}).validate()  # type: ignore[arg-type]
