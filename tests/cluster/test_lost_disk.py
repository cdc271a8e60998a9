"""The disk of a metadata node is lost and replaced, by the words of ``deploy/OPERATIONS.md``."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from millstream import Admin, NewTopic
from millstream.v1 import metadata_service_pb2 as pb
from millstream.v1 import metadata_service_pb2_grpc as pb_grpc
from millstream_raft.directory_errors import DirectoryDamaged
from millstream_raft.journal_format import decode_file
from millstream_raft.vote import decode_vote
from millstream_server.local_cluster import LocalCluster, NodePlan
from millstream_server.local_cluster.process import child_environment
from millstream_server.local_cluster.readiness import is_ready
from tests.campaigns.metadata_calls import LINEARIZABLE
from tests.campaigns.quorum_faults import Quorum
from tests.cluster.replicated import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[2] / "deploy/OPERATIONS.md"
TIMEOUT_S = 60.0
ATTEMPTS = 5
NOTICED_S = 20.0


@pytest.fixture
def quorum(tmp_path: Path) -> Iterator[Quorum]:
    quorum = Quorum(tmp_path)
    quorum.start()
    try:
        yield quorum
    finally:
        quorum.stop()


def documented_command(node: NodePlan) -> list[str]:
    """The one of the page, for this node."""
    commands = re.findall(r"^ *millstream (format .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 1
    return [str(node.config_path) if word == "node.toml" else word for word in commands[0].split()]


def millstream(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millstream_server.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=child_environment({}),
        check=False,
    )


def create(quorum: Quorum, *names: str) -> None:
    with Admin(bootstrap_servers=quorum.broker_address) as admin:
        admin.create_topics([NewTopic(name, partitions=2) for name in names])


def topics(node: NodePlan) -> set[str]:
    """As a voter knows them once it holds everything acknowledged anywhere."""
    found: set[str] = set()
    request = pb.ListTopicsRequest(consistency=LINEARIZABLE)
    with grpc.insecure_channel(node.address) as channel:
        while True:
            page = pb_grpc.MetadataServiceStub(channel).ListTopics(request, timeout=TIMEOUT_S)
            found.update(topic.name for topic in page.topics)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def lose_disk(quorum: Quorum, node: NodePlan) -> None:
    quorum.kill(node.name)
    shutil.rmtree(node.folder / "data")


def said(node: NodePlan) -> str:
    return node.log_path.read_text(errors="replace")


def ends(cluster: LocalCluster, node: NodePlan, timeout_s: float = TIMEOUT_S) -> bool:
    return cluster._processes[node.name].wait(timeout_s)


def test_replaced_disk_as_documented(quorum: Quorum) -> None:
    before = [f"before-{number}" for number in range(60)]
    create(quorum, *before)
    leader = quorum.cluster.node(quorum.leader())
    lost, other = [node for node in quorum.voters if node != leader]
    lose_disk(quorum, lost)
    create(quorum, "meanwhile")

    # Neither a start nor an ordinary format makes the empty folder a voter's.
    quorum.restart(lost.name)
    assert ends(quorum.cluster, lost)
    assert "format --replace-lost-disk" in said(lost)
    formatted = millstream("format", "--config", str(lost.config_path))
    assert formatted.returncode == 1
    assert "already has a log" in formatted.stderr
    assert "format --replace-lost-disk" in formatted.stderr

    # Not while another voter is down, either: it may alone hold what the lost disk held.
    quorum.kill(other.name)
    refused = millstream(*documented_command(lost))
    assert refused.returncode == 1
    assert f"metadata node {other.node_id} does not answer" in refused.stderr
    assert not (lost.folder / "data/metadata").exists()
    quorum.restart(other.name)
    wait_until(lambda: is_ready("127.0.0.1", other.admin_port), "the other one is back")

    done = millstream(*documented_command(lost))
    assert done.returncode == 0, done.stderr
    quorum.restart(lost.name)
    quorum.wait_ready()
    assert "raft voter is silent" in said(lost)
    assert "raft voter holds everything again and votes" in said(lost)

    # Its vote and its disk count again: the cluster lives on with it and any other.
    known = {*before, "meanwhile"}
    for gone, left in ((leader, other), (other, leader)):
        quorum.wait_caught_up()
        quorum.kill(gone.name)
        create(quorum, f"without-{gone.name}")
        known.add(f"without-{gone.name}")
        assert known <= topics(lost)
        assert known <= topics(left)
        quorum.restart(gone.name)
        quorum.wait_ready()


def cut_journal(node: NodePlan) -> bool:
    """Cut the last two records off, of which nobody made a note yet; False if somebody did."""
    journal, vote = (node.folder / "data/metadata" / name for name in ("journal", "vote"))
    content = journal.read_bytes()
    for _ in range(2):
        content = content[: content.rindex(b"\xa7MSR")]
    try:
        mark = decode_vote(vote.read_bytes(), "vote").journal_mark
        whole = decode_file(content, "journal", mark)
    except DirectoryDamaged:
        return False
    journal.write_bytes(content)
    return len(whole.entries) > 2


def cut_follower(quorum: Quorum, attempt: int) -> NodePlan:
    """A follower whose journal was cut while it was down; it is down."""
    leader = quorum.leader()
    cut = next(node for node in quorum.voters if node.name != leader)
    create(quorum, *(f"before-{attempt}-{number}" for number in range(20)))
    quorum.kill(cut.name)
    while not cut_journal(cut):
        quorum.restart(cut.name)
        quorum.wait_ready()
        create(quorum, f"again-{len(topics(cut))}")
        quorum.kill(cut.name)
    return cut


def test_voter_whose_journal_was_cut_is_told_stops_and_heals(quorum: Quorum) -> None:
    # Only the leader that got its acknowledgements knows what it lost: not one that was elected
    # while it was down, as may happen on a busy machine.
    for attempt in range(ATTEMPTS):
        cut = cut_follower(quorum, attempt)
        quorum.restart(cut.name)
        if ends(quorum.cluster, cut, NOTICED_S):
            break
        quorum.wait_ready()
    else:
        pytest.fail("no leader noticed it")
    assert f"voter {cut.node_id} lost entries that it had acknowledged" in said(cut)
    quorum.restart(cut.name)
    quorum.wait_ready()
    assert "raft voter holds everything again and votes" in said(cut)
    create(quorum, "after")
    assert "after" in topics(cut)


def test_two_lost_disks_are_not_replaced(quorum: Quorum) -> None:
    create(quorum, "before")
    one, two, _ = quorum.voters
    lose_disk(quorum, one)
    lose_disk(quorum, two)
    for lost in (one, two):
        refused = millstream(*documented_command(lost))
        assert refused.returncode == 1
        assert "cannot be replaced now" in refused.stderr
        assert not (lost.folder / "data/metadata").exists()


def test_running_voters_disk_is_not_replaced(quorum: Quorum) -> None:
    running = quorum.voters[0]
    refused = millstream(*documented_command(running))
    assert refused.returncode == 1
    assert "another process uses" in refused.stderr
    elsewhere = running.folder / "elsewhere"
    refused = millstream(*documented_command(running), "--data", str(elsewhere))
    assert refused.returncode == 1
    assert f"is connected to node {running.node_id}: stop that first" in refused.stderr
