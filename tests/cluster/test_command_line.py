"""``millstream up`` and the other commands as a person types them, against a real process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream_server.local_cluster import ReservedPorts

MILLSTREAM = [sys.executable, "-m", "millstream_server.cli"]
TIMEOUT_S = 60


class Shell:
    """Runs commands against one embedded node."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{port}"
        self._up = [*MILLSTREAM, "up", "--format", "jsonl", "--data", str(folder)]
        self._up += ["--port", str(port)]
        self._process: subprocess.Popen[str] | None = None

    def up(self, admin_port: int) -> dict[str, Any]:
        """Start the node; what it says when it can be used."""
        command = [*self._up, "-X", f"admin.listener=127.0.0.1:{admin_port}"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        return said

    def down(self) -> int:
        """Ctrl-C; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(timeout=TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        return code

    def close(self) -> None:
        """Stop the node if it runs."""
        if self._process is not None:
            self.down()

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        done = subprocess.run(
            [*MILLSTREAM, *arguments],
            input=stdin,
            env={**os.environ, "MILLSTREAM_BOOTSTRAP_SERVERS": self.address},
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode()

    def out(self, *arguments: str, stdin: bytes = b"") -> str:
        """Stdout of a command that must succeed."""
        code, out, err = self.run(*arguments, stdin=stdin)
        assert code == 0, err
        return out


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    with ReservedPorts() as reserved:
        yield reserved.take_all([0, 0])


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, ports: list[int]) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("up") / "data", ports[0])
    said = made.up(ports[1])
    assert said == {"bootstrapServers": made.address, "dataDir": str(made.folder)}
    yield made
    made.close()


def test_records_go_in_and_come_out_as_they_were(shell: Shell):
    lines = b"k1:v1\nk2:\xff\xfe\nnokey\n:emptykey\n"
    shell.out("produce", "in-out", "-K", ":", "-z", "zstd", "-H", "h=1", "-p", "0", stdin=lines)
    out = shell.out("consume", "in-out", "-e", "-f", "%o|%k|%K|%v|%h\\n")
    assert out.splitlines() == [
        "0|k1|2|v1|h=1", "1|k2|2|\xff\xfe|h=1", "2||-1|nokey|h=1", "3||0|emptykey|h=1",
    ]  # fmt: skip
    (last,) = map(
        json.loads,
        shell.out("consume", "in-out", "-o", "-1", "-e", "--format", "jsonl").splitlines(),
    )
    assert (last["offset"], last["key"], last["value"]) == (3, "", "emptykey")


def test_a_topic_lives_and_dies(shell: Shell):
    shell.out("topic", "create", "life", "-p", "2", "-c", "retention.ms=60000")
    assert shell.run("topic", "create", "life")[0] == 64 + 6
    shell.out("topic", "create", "life", "--if-not-exists")
    shell.out("topic", "add-partitions", "life", "-n", "1")
    (found,) = json.loads(shell.out("topic", "describe", "life", "--format", "json"))
    assert len(found["partitions"]) == 3
    assert found["configs"] == {"retention.ms": "60000"}
    code, _, err = shell.run("topic", "alter-config", "life", "-s", "retention.mss=1")
    assert (code, "retention.ms" in err) == (64 + 3, True)
    assert shell.run("topic", "delete", "life")[0] == 1
    shell.out("topic", "delete", "life", "--dry-run")
    shell.out("topic", "delete", "life", "-y")
    assert shell.run("topic", "describe", "life")[0] == 64 + 5


def test_a_group_reads_commits_and_is_reset(shell: Shell):
    shell.out("produce", "shared", "-p", "0", stdin=b"a\nb\nc\nd\n")
    assert shell.out("consume", "shared", "-g", "team", "-e").split() == ["a", "b", "c", "d"]
    assert shell.out("consume", "shared", "-g", "team", "-e") == ""
    plan = json.loads(shell.out("group", "reset", "team", "--shift-by", "-1", "--format", "json"))
    assert (plan[0]["committedOffset"], plan[0]["offset"]) == (4, 3)
    assert shell.out("consume", "shared", "-g", "team", "-e") == ""
    shell.out("group", "reset", "team", "--to-offset", "1", "--execute")
    (described,) = json.loads(shell.out("group", "describe", "team", "--format", "json"))
    assert described["offsets"][0]["lag"] == 3
    assert shell.out("consume", "shared", "-g", "team", "-n", "1") == "b\n"
    assert shell.out("consume", "shared", "-g", "team", "-e").split() == ["c", "d"]
    shell.out("group", "delete", "team", "-y")
    assert shell.run("group", "describe", "team")[0] == 64 + 5


def test_only_a_node_that_is_gone_is_unregistered(shell: Shell):
    (node,) = json.loads(shell.out("cluster", "describe", "--format", "json"))["nodes"]
    running = str(node["nodeId"])
    assert shell.run("node", "unregister", running)[0] == 1
    shell.out("node", "unregister", running, "--dry-run")
    code, _, err = shell.run("node", "unregister", running, "-y")
    assert (code, "stop it first" in err) == (64 + 9, True)
    assert shell.run("node", "unregister", "77", "-y")[0] == 64 + 5


def test_the_node_is_healthy_and_tells_so(shell: Shell):
    assert shell.out("health").startswith("MILLSTREAM OK - 1 broker, 1 coordinator")
    assert json.loads(shell.out("cluster", "health", "--format", "json"))["healthy"] is True
    assert json.loads(shell.out("metadata", "quorum", "describe", "--format", "json"))["leaderId"]
    (node,) = json.loads(shell.out("cluster", "describe", "--format", "json"))["nodes"]
    assert sorted(node["roles"]) == ["broker", "coordinator", "metadata"]


def test_errors_are_one_sentence(shell: Shell):
    code, out, err = shell.run("consume", "nowhere", "-e")
    assert (code, out) == (64 + 5, "")
    assert err.startswith("millstream: topic 'nowhere' does not exist; ")
    assert err.count("\n") == 1
    code, _, err = shell.run("topic", "list", "-b", "127.0.0.1:1", "--timeout", "5")
    assert (code, "start one with `millstream up`" in err) == (64 + 14, True)
    assert shell.run("health", "-b", "127.0.0.1:1", "--timeout", "1")[0] == 2


def test_a_second_process_on_the_folder_is_refused(shell: Shell):
    code, _, err = shell.run("up", "--data", str(shell.folder), "--port", "1")
    assert code == 1
    assert "port 1" in err or "another process uses" in err


def test_a_restart_keeps_everything(shell: Shell, ports: list[int]):
    shell.out("produce", "kept", stdin=b"one\ntwo\n")
    assert shell.out("consume", "kept", "-g", "keepers", "-n", "1") == "one\n"
    assert shell.down() == 0
    shell.up(ports[1])
    assert shell.out("consume", "kept", "-e").split() == ["one", "two"]
    assert shell.out("consume", "kept", "-g", "keepers", "-e") == "two\n"
    assert shell.run("log", "verify", str(shell.folder / "log"))[0] == 0
