"""No pickle can be reached from the network or the disk, and no other version slips in."""

import ast
import inspect
from pathlib import Path

import pytest

import millstream
import millstream_raft
import millstream_server
from millstream_raft import library_messages, pysyncobj_core
from millstream_raft.library import UnsupportedLibrary, check_library, library
from millstream_raft.raft_codec import MalformedMessage, check_command
from millstream_raft.raft_config import RaftConfig
from tests.fakes.raft_cluster import Cluster, LayeredNode, NodeStopped

SOURCES = sorted(Path(millstream_raft.__file__).parent.glob("*.py"))
#: Everything that ships: the SDK reads from brokers, and the services from everybody.
SHIPPED = sorted(
    path
    for package in (millstream, millstream_raft, millstream_server)
    for path in Path(package.__path__[0]).rglob("*.py")
)
#: Modules that turn bytes into objects of any class, or into code.
UNSAFE = {"pickle", "_pickle", "pickletools", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def functions_that_pickle() -> set[str]:
    """Functions of the library's core that touch its pickle module."""
    found = set()
    for function in ast.walk(ast.parse(inspect.getsource(library))):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "pickle"
                ):
                    found.add(function.name)
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-3:]))
def test_nothing_that_ships_can_unpickle_or_run_what_it_reads(path: Path):
    assert not UNSAFE & {name.split(".")[0] for name in imported(path)}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not UNSAFE_CALLS & calls


def test_the_search_covers_every_package():
    assert {"transport.py", "grpc_server.py", "wire.py"} <= {path.name for path in SHIPPED}


def test_one_module_imports_the_library():
    importers = [
        path.name
        for path in SOURCES
        if any("pysyncobj" in name.split(".") for name in imported(path))
    ]
    assert importers == ["library.py"]


def test_functions_of_the_library_that_pickle_are_the_known_ones():
    """Each is closed, and this says how. A new one must be looked at."""
    closed = {
        # overridden
        "__doApplyCommand",
        "__parseChangeClusterRequest",
        # behind a message key that the codec does not know
        "__onMessageReceived",
        # only for entries of a size that is refused when proposed
        "__sendAppendEntries",
        # local calls that nobody makes; their commands are refused by the codec and by apply
        "setCodeVersion",
        "addNodeToCluster",
        "removeNodeFromCluster",
        # the decorator, which no class here uses
        "replicated",
        "replicatedImpl",
        "newFunc",
    }
    assert functions_that_pickle() <= closed
    node = pysyncobj_core._LibraryNode
    for name in ("_SyncObj__doApplyCommand", "_SyncObj__parseChangeClusterRequest"):
        assert getattr(node, name) is not getattr(library.SyncObj, name)


def test_pickled_pieces_and_forwarded_commands_are_never_sent():
    pieces = {
        "type": "append_entries",
        "transmission": "start",
        "data": b"",
        "term": 1,
        "commit_index": 1,
        "prevLogIdx": 1,
        "prevLogTerm": 0,
    }
    assert library_messages.from_library(pieces) is None
    for kind in ("apply_command", "apply_command_response", "timeout_now"):
        assert library_messages.from_library({"type": kind}) is None


@pytest.mark.parametrize("kind", range(2, 256))
def test_command_of_another_kind_is_refused(kind):
    with pytest.raises(MalformedMessage):
        check_command(bytes([kind]) + b"payload")


def test_command_of_another_kind_in_the_log_stops_the_node():
    cluster = Cluster(LayeredNode, 1)
    node = cluster[1]
    node.campaign()
    cluster.step(rounds=2)
    node.core._node._applyCommand(b"\3" + b"pickle", None)
    with pytest.raises(NodeStopped, match="unknown kind"):
        cluster.step(rounds=3)


def test_largest_batch_stays_below_the_size_that_is_pickled():
    config = RaftConfig()
    config.validate()
    assert config.batch_bytes_max * 5 // 4 <= config.append_bytes_max


def test_another_version_is_refused():
    check_library()
    with pytest.raises(UnsupportedLibrary, match=r"pip install pysyncobj==0\.3\.17"):
        check_library("0.3.18")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heartbeat_interval_ms", 100),
        ("election_timeout_min_ms", 600),
        ("leader_fallback_ms", 80),
        ("batch_bytes_max", 1000),
        ("append_bytes_max", 1 << 20),
        ("append_bytes_max", 3 << 20),
        ("snapshot_entries", 1),
        ("queue_bytes_max", 0),
    ],
)
def test_senseless_configuration_is_refused(field, value):
    with pytest.raises(ValueError, match=r"."):
        RaftConfig(**{field: value}).validate()
