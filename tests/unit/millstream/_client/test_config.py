"""Configuration: one namespace, types, defaults, unknown and foreign keys, cross-field rules."""

import logging

import pytest

from millstream import InvalidConfigError
from millstream._client.config import (
    AdminConfig,
    ClientConfig,
    ConsumerConfig,
    ProducerConfig,
    describe_keys,
)


def test_dots_and_underscores_name_the_same_key() -> None:
    dotted = ProducerConfig.resolve({"linger.ms": "5", "batch.size": "1000"})
    assert dotted == ProducerConfig.resolve(linger_ms=5, batch_size=1000)
    assert dotted == ProducerConfig.resolve({"linger_ms": 5, "batch-size": 1000})


def test_keywords_win_over_the_mapping() -> None:
    assert ProducerConfig.resolve({"linger.ms": 1}, linger_ms=2).linger_ms == 2


def test_defaults_are_kafkas_of_today() -> None:
    config = ProducerConfig.resolve()
    assert config.acks == -1
    assert config.idempotent
    assert config.delivery_timeout_ms == 120_000
    assert config.max_in_flight_requests_per_connection == 5


@pytest.mark.parametrize(
    ("key", "value", "want"),
    [
        ("acks", "all", -1),
        ("acks", 1, 1),
        ("enable.auto.commit", "false", False),
        ("linger.ms", "0.5", 0.5),
        ("bootstrap.servers", "a:1, b:2", ("a:1", "b:2")),
        ("bootstrap.servers", ["[::1]:9092"], ("[::1]:9092",)),
        ("compression.type", "LZ4", "lz4"),
        ("security.protocol", "plaintext", "PLAINTEXT"),
        ("compression.codec", "zstd", "zstd"),
        ("metadata.broker.list", "a:1", ("a:1",)),
    ],
)
def test_text_becomes_the_keys_type(key: str, value: object, want: object) -> None:
    table: type[ClientConfig] = ConsumerConfig if "auto" in key else ProducerConfig
    config = table.resolve({key: value})
    name = {"compression_codec": "compression_type", "metadata_broker_list": "bootstrap_servers"}
    normal = key.replace(".", "_")
    assert getattr(config, name.get(normal, normal)) == want


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("lingerms", 1, "did you mean linger.ms"),
        ("bootstrap.server", "a:1", "did you mean bootstrap.servers"),
        ("quite.unlike", 1, "unknown configuration key"),
        ("sasl.mechanism", "PLAIN", "there is no SASL"),
        ("transactional.id", "t", "no transactions"),
        ("transaction.timeout.ms", 1, "no transactions"),
        ("api.version.request", True, "no version probing"),
        ("ssl.truststore.location", "x", "PEM"),
        ("statistics.interval.ms", 1, "not supported"),
        ("linger.ms", "soon", "must be a number"),
        ("batch.size", 1.5, "whole number"),
        ("batch.size", True, "whole number"),
        ("batch.size", 0, "at least 1"),
        ("linger.ms", "inf", "at least"),
        ("linger.ms", "nan", "at least"),
        ("acks", 2, "must be one of"),
        ("compression.type", "gzip", "none, lz4, zstd"),
        ("enable.idempotence", "perhaps", "true or false"),
        ("bootstrap.servers", "localhost", "host:port"),
        ("bootstrap.servers", "localhost:99999", "host:port"),
        ("bootstrap.servers", "", "at least one"),
        ("client.id", 5, "must be text"),
        ("key.serializer", "utf-8", "callable"),
        ("ssl.ca.location", "x.pem", "security.protocol=SSL"),
        ("acks", 1, None),
    ],
)
def test_a_bad_key_or_value_is_named(key: str, value: object, part: str | None) -> None:
    if part is None:
        assert not ProducerConfig.resolve({key: value}).idempotent
        return
    with pytest.raises(InvalidConfigError) as caught:
        ProducerConfig.resolve({key: value})
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"acks": 1, "enable.idempotence": True}, "acks=all"),
        ({"max.in.flight": 6}, "at most 5"),
        ({"delivery.timeout.ms": 1000}, "linger.ms + request.timeout.ms"),
        ({"batch.size": 2**20, "buffer.memory": 2**19}, "buffer.memory"),
        ({"max.request.size": 2**24}, "message.max.bytes"),
        (
            {"security.protocol": "SSL", "ssl.key.location": "k"},
            "ssl.certificate.location and ssl.key.location",
        ),
    ],
)
def test_keys_are_checked_against_each_other(config: dict[str, object], part: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        ProducerConfig.resolve(config)
    assert part in str(caught.value)


def test_another_clients_key_is_left_out_of_a_mapping_but_refused_as_keyword(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "millstream"):
        ProducerConfig.resolve({"group.id": "g"})
    assert "group.id configures a consumer" in caplog.text
    with pytest.raises(InvalidConfigError, match="configures a consumer"):
        ProducerConfig.resolve(group_id="g")


def test_consumer_rules() -> None:
    with pytest.raises(InvalidConfigError, match=r"needs group\.id"):
        ConsumerConfig.resolve({"group.instance.id": "i"})
    with pytest.raises(InvalidConfigError, match="at most half"):
        ConsumerConfig.resolve({"heartbeat.interval.ms": 6_000})


def test_every_key_is_described() -> None:
    for client in ("producer", "consumer", "admin"):
        rows = list(describe_keys(client))
        assert all(documentation for _, _, documentation in rows)
    assert AdminConfig.resolve().client_id == "millstream-python"
