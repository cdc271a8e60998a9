"""Byte budgets of connections and the broker."""

import pytest

from millstream_server.broker.limits import ByteBudget
from millstream_server.broker.refusal import Refusal


def test_a_connection_is_throttled_at_its_limit_with_a_delay() -> None:
    budget = ByteBudget(100, "connection")
    budget.take(60, 50)
    with pytest.raises(Refusal, match="THROTTLED") as caught:
        budget.take(41, 50)
    assert caught.value.retry_after_ms == 50
    assert budget.used == 60
    budget.give_back(60)
    budget.take(41, 50)


def test_the_brokers_limit_counts_over_all_connections() -> None:
    broker = ByteBudget(100, "broker")
    first = ByteBudget(100, "connection", broker)
    second = ByteBudget(100, "connection", broker)
    first.take(80, 50)
    assert not second.has_room(30)
    with pytest.raises(Refusal, match="broker"):
        second.take(30, 50)
    assert second.used == 0
    first.give_back(80)
    assert second.has_room(30)


def test_an_empty_budget_gives_way_to_one_request_of_any_size() -> None:
    ByteBudget(100, "connection").take(500, 50)


def test_more_is_never_given_back_than_taken() -> None:
    with pytest.raises(ValueError, match="given back"):
        ByteBudget(100, "connection").give_back(1)
