"""Client properties from files and flags, and how they are merged."""

from pathlib import Path
from typing import Any

import pytest

from millstream_server.cli.failures import UsageError
from millstream_server.cli.invocation import _DEFAULTS, build_invocation
from millstream_server.cli.properties import (
    parse_assignments,
    parse_properties,
    read_properties_file,
)


def flags(**given: Any) -> dict[str, Any]:
    return {**_DEFAULTS, **given}


def test_properties_files_as_kafka_reads_them():
    text = "# comment\n! too\nacks = all\nssl.ca.location: /a=b\nbootstrap.servers=a:1,\\\nb:2\n\n"
    assert parse_properties(text) == {
        "acks": "all",
        "ssl.ca.location": "/a=b",
        "bootstrap.servers": "a:1,b:2",
    }


def test_a_line_without_a_key_is_named():
    with pytest.raises(ValueError, match="line 2"):
        parse_properties("a=1\nnonsense\n")


def test_toml_tables_become_dotted_keys(tmp_path: Path):
    path = tmp_path / "client.toml"
    path.write_text('acks = "all"\n[bootstrap]\nservers = ["a:1", "b:2"]\n[check]\ncrcs = false\n')
    assert read_properties_file(str(path)) == {
        "acks": "all",
        "bootstrap.servers": "a:1,b:2",
        "check.crcs": "false",
    }


def test_a_file_that_is_missing_or_malformed_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="No such file"):
        read_properties_file(str(tmp_path / "none.properties"))
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        read_properties_file(str(tmp_path / "bad.toml"))


def test_assignments_need_an_equals_sign():
    assert parse_assignments(["a=1", "b="], "-X") == {"a": "1", "b": ""}
    with pytest.raises(UsageError, match="-X key=value"):
        parse_assignments(["a"], "-X")


def test_flags_win_over_properties_over_file_over_environment(tmp_path: Path):
    path = tmp_path / "client.properties"
    path.write_text("bootstrap.servers=file:1\nacks=1\n")
    environment = {"MILLSTREAM_BOOTSTRAP_SERVERS": "env:1"}
    assert build_invocation(flags(), {}).bootstrap_servers == "127.0.0.1:9092"
    assert build_invocation(flags(), environment).bootstrap_servers == "env:1"
    with_file = build_invocation(flags(config=str(path)), environment)
    assert with_file.bootstrap_servers == "file:1"
    with_property = build_invocation(
        flags(config=str(path), properties=["bootstrap.servers=x:1"]), environment
    )
    assert with_property.bootstrap_servers == "x:1"
    assert with_property.properties["acks"] == "1"
    all_given = flags(
        config=str(path),
        properties=["bootstrap.servers=x:1"],
        bootstrap_servers=["a:1,b:1", "c:1"],
    )
    assert build_invocation(all_given, environment).bootstrap_servers == "a:1,b:1,c:1"


def test_timeouts_are_durations_or_seconds():
    assert build_invocation(flags(timeout="1m"), {}).timeout_s == 60
    assert build_invocation(flags(timeout="2.5"), {}).timeout_s == 2.5
    with pytest.raises(UsageError, match="--timeout"):
        build_invocation(flags(timeout="soon"), {})


def test_unknown_formats_are_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="table, wide, json, yaml, jsonl"):
        build_invocation(flags(format_="xml"), {})


def test_colours_can_be_switched_off_by_flag_and_environment():
    assert build_invocation(flags(), {}).output.color
    assert not build_invocation(flags(no_color=True), {}).output.color
    assert not build_invocation(flags(), {"NO_COLOR": "1"}).output.color
