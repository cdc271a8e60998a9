"""The configuration of topics: what is allowed, what is in force, what the nearest key is."""

import pytest

from millstream_raft import topic_config
from millstream_raft.refusal import Refused


def test_every_default_is_allowed_and_documented() -> None:
    for key in topic_config.TOPIC_CONFIG_KEYS.values():
        assert str(key.parse(key.default)) == key.default
        assert key.documentation.endswith(".")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("retention.min", "1", "did you mean retention.ms"),
        ("flushmode", "fsync", "did you mean flush.mode"),
        ("zzz", "1", "no topic configuration 'zzz'"),
        ("segment.bytes", "1", "65536"),
        ("segment.bytes", "1 GB", "not an integer"),
        ("cleanup.policy", "compact,drop", "not one of"),
        ("compression.type", "zstd", "producer"),
        ("message.timestamp.type", "createtime", "did you mean CreateTime"),
        ("retention.ms", "9" * 2000, "too long"),
    ],
)
def test_what_is_not_allowed_says_why(key: str, value: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        topic_config.validate({key: value})
    assert caught.value.reason == "INVALID_CONFIG"
    assert words in caught.value.message


def test_values_are_kept_in_one_form() -> None:
    given = {"cleanup.policy": "delete, compact", "retention.ms": " 0050 "}
    assert topic_config.validate(given) == {
        "cleanup.policy": "compact,delete",
        "retention.ms": "50",
    }


def test_the_topic_wins_over_the_cluster_and_the_cluster_over_the_table() -> None:
    cluster = {"retention.ms": "1000", "segment.ms": "2000"}
    values = topic_config.settings({"retention.ms": "-1", "cleanup.policy": "compact"}, cluster)
    assert values.retention_ms == -1
    assert values.segment_ms == 2000
    assert values.max_message_bytes == 1024 * 1024
    assert (values.cleanup_compact, values.cleanup_delete) == (True, False)
    assert values.flush_mode == "fsync"
    assert not values.log_append_time
