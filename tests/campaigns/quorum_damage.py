"""Damage to the folders of voters of a real quorum, and what they do about it."""

import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import grpc

from millstream_raft.vote import decode_vote
from millstream_server.local_cluster import NodePlan
from millstream_server.local_cluster.readiness import is_ready
from millstream_server.v1 import controller_service_pb2 as controller
from millstream_server.v1 import controller_service_pb2_grpc as controller_grpc
from tests.campaigns.quorum_faults import POLL_S, READY_TIMEOUT_S, Quorum

_REFUSAL = "the node cannot run"
_LOSS = "lost entries that it had acknowledged"

Change = Callable[[Path, random.Random], None]


def flip_bit(path: Path, chance: random.Random) -> None:
    """Flip a bit anywhere in a file."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    """Cut a file anywhere."""
    os.truncate(path, chance.randrange(path.stat().st_size))


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to one file of a voter between its kill and its start."""

    file: str
    change: Change

    @property
    def kind(self) -> str:
        """Of change."""
        return self.change.__name__

    def __str__(self) -> str:
        return f"{self.kind} of {self.file}"


RAFT_DAMAGES = tuple(
    Damage(f"metadata/{file}", change)
    for file in ("journal", "vote", "snapshot")
    for change in (flip_bit, truncate)
)
DAMAGES = (
    *RAFT_DAMAGES,
    *(
        Damage(file, change)
        for file in ("metadata/identity", "node.json")
        for change in (flip_bit, truncate)
    ),
)


class Fate(Enum):
    """What a voter did about damage."""

    #: It did not start, and said why.
    REFUSED = "refused"
    #: It started, learned from the leader that it had lost entries, and stopped, saying so.
    TOLD = "told"
    #: It started, and holds everything: nothing that it had acknowledged was damaged, or nobody
    #: could know, and the others had it.
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one voter."""

    fate: Fate
    sentence: str = ""


class VoterDamage:
    """Damages voters of a quorum. Its methods block."""

    def __init__(self, quorum: Quorum) -> None:
        self._quorum = quorum

    def wait_noted(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every voter has noted outside of its journal that what is in it now is
        synced: from then on, to cut it off is damage that can be seen. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        for node in self._quorum.voters:
            vote = node.folder / "data/metadata/vote"
            before = decode_vote(vote.read_bytes(), "vote").journal_mark
            while decode_vote(vote.read_bytes(), "vote").journal_mark == before:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{node.name} noted nothing within {timeout_s:g} s")
                time.sleep(POLL_S)

    def inflict(self, damages: Mapping[str, Damage], chance: random.Random) -> dict[str, Outcome]:
        """Kill voters, damage a file of each and start them again; what each did. Afterwards all
        run: those that refused with their folders as they were at the kill. Raises RuntimeError
        if one ended without a clear sentence, TimeoutError if one neither starts nor ends."""
        nodes = [self._quorum.cluster.node(name) for name in damages]
        self._quorum.kill(*damages)
        said_before = {}
        for node in nodes:
            shutil.copytree(node.folder / "data", node.folder / "kept")
            damages[node.name].change(node.folder / "data" / damages[node.name].file, chance)
            said_before[node.name] = node.log_path.stat().st_size
        self._quorum.restart(*damages)
        started = [node for node in nodes if self._starts(node)]
        outcomes = {
            node.name: Outcome(Fate.REFUSED, _sentence(node, said_before[node.name], _REFUSAL))
            for node in nodes
            if node not in started
        }
        if len(outcomes) * 2 > len(self._quorum.voters):
            self.check_silent()
        for name in outcomes:
            self._give_back(self._quorum.cluster.node(name))
        for node in started:
            outcomes[node.name] = self._follow(node, said_before[node.name])
        self._quorum.wait_ready()
        for node in nodes:
            shutil.rmtree(node.folder / "kept")
        return outcomes

    def check_silent(self) -> None:
        """Raise RuntimeError if a voter that runs serves a barrier without a majority."""
        for node in self._quorum.voters:
            if not self._quorum.cluster.is_running(node.name):
                continue
            with grpc.insecure_channel(node.address) as channel:
                stub = controller_grpc.ControllerServiceStub(channel)
                try:
                    stub.ReadBarrier(controller.ReadBarrierRequest(), timeout=1.0)
                except grpc.RpcError:
                    continue
            raise RuntimeError(f"{node.name} serves without a majority")

    def _give_back(self, node: NodePlan) -> None:
        shutil.rmtree(node.folder / "data")
        shutil.copytree(node.folder / "kept", node.folder / "data")
        self._quorum.restart(node.name)

    def _starts(self, node: NodePlan) -> bool:
        """True once the voter talks to the others, False if it ended."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._quorum.cluster.is_running(node.name):
            if _describe(node) is not None or is_ready("127.0.0.1", node.admin_port):
                return self._stays(node)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{node.name} with damage neither starts nor ends")
            time.sleep(POLL_S)
        return False

    def _stays(self, node: NodePlan) -> bool:
        # The port serves before the folder is read, which takes milliseconds; then it has a term.
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._quorum.cluster.is_running(node.name):
            answer = _describe(node)
            if answer is not None and answer.last_index > 0:
                return True
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{node.name} with damage does not come up")
            time.sleep(POLL_S)
        return False

    def _follow(self, node: NodePlan, said_before: int) -> Outcome:
        """Wait until a voter that started holds what the leader had when it did."""
        goal = max(
            answer.quorum.commit_index
            for answer in map(_describe, self._quorum.voters)
            if answer is not None
        )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self._quorum.cluster.is_running(node.name):
                sentence = _sentence(node, said_before, _LOSS)
                self._quorum.restart(node.name)
                return Outcome(Fate.TOLD, sentence)
            answer = _describe(node)
            if answer is not None and answer.quorum.commit_index >= goal:
                return Outcome(Fate.RECOVERED)
            time.sleep(POLL_S)
        raise TimeoutError(f"{node.name} with damage never caught up to {goal}")


def _describe(node: NodePlan) -> controller.DescribeQuorumResponse | None:
    with grpc.insecure_channel(node.address) as channel:
        try:
            answer: controller.DescribeQuorumResponse = controller_grpc.ControllerServiceStub(
                channel
            ).DescribeQuorum(controller.DescribeQuorumRequest(), timeout=1.0)
        except grpc.RpcError:
            return None
        return answer


def _sentence(node: NodePlan, said_before: int, needed: str) -> str:
    """The line of the log in which a voter said why it ended. Raises RuntimeError."""
    said = node.log_path.read_bytes()[said_before:].decode(errors="replace")
    before, _, _ = said.partition(needed)
    sentence = next((line for line in said.splitlines() if needed in line), "")
    named = str(node.folder / "data") in sentence or needed == _LOSS
    if not sentence or not named or "Traceback" in before:
        raise RuntimeError(f"{node.name} ended without a clear sentence:\n{said[-3000:]}")
    return sentence
