"""Configuration: precedence, origins, and one clear sentence per mistake."""

from pathlib import Path
from typing import Any

import pytest

from millstream_server.node.config_sources import ConfigError, known_keys, load_config
from millstream_server.node.settings import raft_config, tls_files
from millstream_server.runtime.tls import TlsFiles

TLS = {
    "tls.certificate.file": "/certificate",
    "tls.key.file": "/key",
    "tls.ca.file": "/ca",
}


def test_flags_go_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('node.id = 5\nnum.partitions = 7\n[broker]\nrack = "r1"\n')
    environment = {"MILLSTREAM_NUM__PARTITIONS": "8", "MILLSTREAM_BROKER_RACK": "r2", "HOME": "x"}
    loaded = load_config(str(file), environment, {"broker.rack": "r3"})
    config = loaded.config
    assert (config.node_id, config.num_partitions, config.rack) == (5, 8, "r3")
    assert loaded.origins == {
        "node.id": f"file {file}",
        "num.partitions": "environment",
        "broker.rack": "flag",
    }
    assert config.log_retention_ms == 604_800_000


def test_client_variables_are_not_node_keys() -> None:
    assert load_config(None, {"MILLSTREAM_BOOTSTRAP_SERVERS": "x:1"}, {}).origins == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"listeners": "0.0.0.0:9092"}, "plaintext.allow=true"),
        ({"admin.listener": "0.0.0.0:9644"}, "is always plaintext"),
        ({**TLS, "admin.listener": "0.0.0.0:9644"}, "is always plaintext"),
        ({"tls.key.file": "/key"}, "set all or none"),
        ({**TLS, "tls.ca.file": ""}, "set all or none"),
        ({"listeners": "nonsense"}, "host:port"),
        ({"num.partition": 3}, "did you mean 'num.partitions'"),
        ({"process.roles": "broker"}, "controller.quorum.voters is needed"),
        ({"process.roles": ""}, "process.roles is empty"),
        ({"node.id": "x"}, "node.id = 'x' (from flag)"),
        ({"broker.heartbeat.interval.ms": 2000}, "at most half"),
        ({"controller.quorum.voters": "2@h:1"}, "not in controller.quorum.voters"),
        ({"controller.quorum.voters": "h:1"}, "is not id@host:port"),
        ({"message.max.bytes": 8 << 20, "request.max.bytes": 65536}, "must not exceed"),
    ],
)
def test_mistakes_get_one_plain_sentence(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, flags)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plaintext_beyond_loopback_is_served_when_asked_for() -> None:
    flags = {"listeners": "0.0.0.0:9092", "plaintext.allow": "true"}
    assert load_config(None, {}, flags).config.plaintext_allow


def test_tls_is_served_beyond_loopback() -> None:
    config = load_config(None, {}, {**TLS, "listeners": "0.0.0.0:9092"}).config
    assert config.has_tls
    assert tls_files(config) == TlsFiles("/certificate", "/key", "/ca")
    assert tls_files(load_config(None, {}, {}).config) is None


def test_every_key_is_documented() -> None:
    assert all(description for description in known_keys().values())
    assert len(known_keys()) > 25


def test_the_size_of_the_raft_log_can_be_set() -> None:
    config = load_config(None, {}, {"raft.snapshot.entries": "100"}).config
    assert raft_config(config).snapshot_entries == 100
    raft_config(config).validate()


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(str(tmp_path / "none.toml"), {}, {})
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(str(tmp_path / "bad.toml"), {}, {})
