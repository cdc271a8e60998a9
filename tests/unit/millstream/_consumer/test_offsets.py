"""Questions about offsets whose time is over before all answers came."""

import pytest

from millstream._consumer.lookups import LATEST, OffsetLookups
from millstream._consumer.offsets import OffsetQueries
from millstream._consumer.record import TopicPartition
from millstream._errors import MillstreamError, TimedOutError


def test_a_question_that_nobody_answered_in_time_timed_out() -> None:
    queries = OffsetQueries({TopicPartition("t", 0): LATEST})
    lookups = OffsetLookups(lambda code, message: MillstreamError(message), 100, 1000)
    queries.begin(lookups, 0, 1000)
    assert not queries.done
    with pytest.raises(TimedOutError) as caught:
        queries.check()
    assert not caught.value.indeterminate


def test_nothing_asked_is_answered_at_once() -> None:
    queries = OffsetQueries({})
    queries.check()
    assert queries.offsets() == {}
