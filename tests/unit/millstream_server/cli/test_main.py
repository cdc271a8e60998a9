"""The entry point: exit codes, and errors as one sentence."""

import os

import pytest

from millstream_server.cli.main import main


def test_help_is_for_everybody(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    assert "up" in capsys.readouterr().out


def test_no_command_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tpic"], "millstream: no such command 'tpic'"),
        (["topic", "lst"], "see `millstream topic --help`"),
        (["topic", "list", "--frmat", "json"], "no such option"),
        (["topic", "list", "--format", "xml"], "table, wide, json, yaml, jsonl"),
        (["topic", "create"], "missing argument"),
        (["consume", "t", "-o", "middle"], "is not a position"),
        (["consume", "t", "-f", "%q"], "%q in the format is unknown"),
        (["consume", "t", "-p", "0", "-g", "g"], "-p and -g exclude each other"),
        (["produce", "t", "-z", "gzip"], "there are none, lz4, zstd"),
        (["produce", "t", "--acks", "2"], "there are all, 1 and 0"),
        (["produce", "t", "-H", "=x"], "name=value"),
        (["group", "reset", "g"], "exactly one of --to-earliest"),
        (["group", "offset-delete", "g", "-t", "a:b"], "topic:0,1,2"),
        (["topic", "alter-config", "t"], "nothing to change"),
        (["topic", "list", "-X", "novalue"], "-X key=value"),
        (["serve", "-X", "node.idd=3"], "did you mean 'node.id'"),
        (["completion", "tcsh"], "there are bash, zsh, fish"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected.lower() in captured.err.lower()
    assert captured.err.startswith("millstream: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("alias", [["topics", "ls"], ["groups", "ls"], ["logs", "check"]])
def test_plurals_and_short_forms_are_known(alias: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*alias, "--help"]) == 0


def test_completion_scripts_complete_millstream(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "bash"]) == 0
    assert "_MILLSTREAM_COMPLETE" in capsys.readouterr().out


def test_config_show_tells_the_origin_of_each_value(
    capsys: pytest.CaptureFixture[str], tmp_path: object
):
    assert main(["config", "show", "--effective", "--format", "jsonl", "-X", "node.id=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '{"key": "node.id", "value": 7, "origin": "flag"' in lines[0]
    assert any('"origin": "default"' in line for line in lines)


def test_the_environment_of_a_program_that_calls_it_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    assert main(["--help"]) == 0
    assert "GRPC_VERBOSITY" not in os.environ
