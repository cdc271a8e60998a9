"""``make raft-bench``: what the metadata quorum does on this machine, three voters as processes.

Idle CPU; latency and rate of commits; the gap in a writer's commits when the leader is killed,
ROUNDS times; and, with an image of PARTITIONS, how long snapshots, their loading and a follower's
catching up take, and how long the raft thread was kept from its ticks meanwhile.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.followed_image import FollowedImage
from millstream_server.cluster.image_follower import ImageFollower
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.local_cluster import ReservedPorts
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.logs import configure_logging
from tests.campaigns.figures import ROOT, cpu_seconds, integer, print_result, progress
from tests.campaigns.raft_voter import CLUSTER_ID

_PARTITIONS_PER_TOPIC = 1_000
_BROKERS = 3
_FENCED = 101
_WINDOWS = ((1, 500), (100, 20_000))


class Died(Exception):
    """The voter's process is gone."""


class Refused(Exception):
    """The voter could not do it, or does not know whether it did."""


class VoterProcess:
    """A voter and the line to it."""

    def __init__(self, folder: Path, node_id: int, addresses: list[str]) -> None:
        self.node_id = node_id
        self._arguments = [str(folder / str(node_id)), str(node_id), ",".join(addresses)]
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Process id. Raises Died before the first start."""
        if self._process is None:
            raise Died
        return self._process.pid

    async def start(self) -> None:
        """Start it; it ends when this process does, since its stdin ends."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.campaigns.raft_voter",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )

    async def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Do something there; its answer. Raises Died, or Refused with the service's error."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Died
        async with self._asking:  # answers carry no number, so one question at a time
            if process.returncode is not None or process.stdin.is_closing():
                raise Died
            try:
                process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
                line = await process.stdout.readline()
            except (BrokenPipeError, ConnectionResetError):
                raise Died from None
        if not line:
            raise Died
        answer = dict(json.loads(line))
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Quorum:
    """Three voters."""

    def __init__(self, folder: Path) -> None:
        self._ports = ReservedPorts()
        self.addresses = [f"127.0.0.1:{port}" for port in self._ports.take_all([0] * 3)]
        self.refusals = 0
        self.voters = [VoterProcess(folder, node, self.addresses) for node in (1, 2, 3)]

    async def start(self) -> None:
        """Start all."""
        for voter in self.voters:
            await voter.start()

    async def stop(self) -> None:
        """End all."""
        for voter in self.voters:
            await voter.kill()
        self._ports.close()

    async def leader(self) -> VoterProcess:
        """The active controller, once there is one."""
        while True:
            for voter in self.voters:
                if (await voter.ask("status"))["active"]:
                    return voter
            await asyncio.sleep(0.02)

    async def at_leader(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Have something done by the leader, and again by the next one if it is deposed."""
        while True:
            try:
                return await (await self.leader()).ask(what, **arguments)
            except Refused as refusal:
                self.refusals += 1
                progress(f"{what}: {refusal}")

    async def until_followed(self, restarted: VoterProcess) -> None:
        """Wait until a restarted voter has applied what the leader had."""
        wanted = (await (await self.leader()).ask("status"))["applied"]
        await _until(restarted, lambda status: status["applied"] >= wanted)

    async def until_equal(self) -> dict[str, Any]:
        """Wait until every voter has applied the same; the leader's status."""
        while True:
            leader = await (await self.leader()).ask("status")
            every = [await voter.ask("status") for voter in self.voters]
            if {status["applied"] for status in every} == {leader["applied"]}:
                return leader
            await asyncio.sleep(0.02)


async def _until(voter: VoterProcess, condition: Callable[[dict[str, Any]], bool]) -> None:
    while True:
        if condition(await voter.ask("status")):
            return
        await asyncio.sleep(0.02)


async def measure_idle(quorum: Quorum, seconds: int) -> dict[str, Any]:
    """CPU of each voter, percent of one core."""
    leader = await quorum.leader()
    await asyncio.sleep(2)
    began_s, before = time.monotonic(), [cpu_seconds(voter.pid) for voter in quorum.voters]
    await asyncio.sleep(seconds)
    passed_s = time.monotonic() - began_s
    percent = {
        voter.node_id: round(100 * (cpu_seconds(voter.pid) - cpu) / passed_s, 2)
        for voter, cpu in zip(quorum.voters, before, strict=True)
    }
    return {
        "leader": percent.pop(leader.node_id),
        "followers": list(percent.values()),
    }


class Writer:
    """Commits all the time at whoever leads, and knows when it succeeded."""

    def __init__(self, quorum: Quorum) -> None:
        self._quorum = quorum
        self.times_s: list[float] = []
        self._stopping = False
        self._committed = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        turn = 0
        while not self._stopping:
            voter = self._quorum.voters[turn % 3]
            try:
                await voter.ask("put")
            except (Died, Refused):
                turn += 1
                await asyncio.sleep(0.005)
            else:
                self.times_s.append(time.monotonic())
                self._committed.set()

    async def past(self, moment_s: float, count: int) -> None:
        """Wait for commits after a moment."""
        async with asyncio.timeout(30):
            while sum(time_s > moment_s for time_s in self.times_s[-count:]) < count:
                self._committed.clear()
                await self._committed.wait()

    async def stop(self) -> None:
        """Write no more."""
        self._stopping = True
        await self._task


async def measure_gaps(quorum: Quorum, rounds: int) -> dict[str, Any]:
    """The longest pause between two commits around a kill of the leader, ``rounds`` times."""
    writer, gaps_ms = Writer(quorum), []
    try:
        for number in range(rounds):
            await writer.past(time.monotonic(), 50)
            await asyncio.sleep(random.uniform(0, 0.3))
            leader = await quorum.leader()
            killed_s = time.monotonic()
            await leader.kill()
            await writer.past(time.monotonic(), 20)
            near = [time_s for time_s in writer.times_s if time_s > killed_s - 0.5]
            gap_s = max(after - before for before, after in pairwise(near))
            gaps_ms.append(gap_s * 1000)
            progress(f"kill {number + 1}/{rounds}: no commits for {gap_s * 1000:.0f} ms")
            await leader.start()
            await quorum.until_followed(leader)
    finally:
        await writer.stop()
    gaps_ms.sort()
    return {
        "rounds": len(gaps_ms),
        "p50": round(gaps_ms[len(gaps_ms) // 2]),
        "p99": round(gaps_ms[min(len(gaps_ms) - 1, len(gaps_ms) * 99 // 100)]),
        "max": round(gaps_ms[-1]),
        "commits": len(writer.times_s),
    }


class Watcher:
    """Follows the image over gRPC as any node does."""

    def __init__(self, quorum: Quorum) -> None:
        bootstrap = tuple(enumerate(quorum.addresses, 1))
        self.followed = FollowedImage(waiters_max=10)
        self._channels = MetadataChannels(bootstrap)
        identity = NodeIdentity(
            cluster_id=CLUSTER_ID,
            node_id=999,
            incarnation_id=bytes(16),
            host="127.0.0.1",
            port=1,
            rack="",
            roles=frozenset({"broker"}),
            version="1",
        )
        follower = ImageFollower(
            self.followed, self._channels, identity, ClusterConfig(), random.Random(1)
        )
        self._task = asyncio.create_task(follower.run())

    async def reach(self, version: int) -> float:
        """Milliseconds until the image has a version."""
        began_s = time.monotonic()
        await self.followed.wait_for_version(version, 60_000)
        return round((time.monotonic() - began_s) * 1000, 1)

    async def stop(self) -> None:
        """Follow no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channels.close()


async def measure_load(quorum: Quorum) -> tuple[dict[str, Any], dict[str, Any]]:
    """A follower that is killed loads its own snapshot; and then, killed again and left so far
    behind that the leader sends one, the leader's."""
    leader = await quorum.leader()
    follower = next(voter for voter in quorum.voters if voter is not leader)
    await follower.kill()
    term = (await leader.ask("status"))["term"]
    await follower.start()
    await quorum.until_equal()
    loaded = await follower.ask("status")
    loaded["elections"] = (await leader.ask("status"))["term"] - term
    await follower.kill()
    await leader.ask("fence", broker=_FENCED)
    before = await leader.ask("compact")
    await follower.start()
    await quorum.until_followed(follower)
    installed = await follower.ask("status")
    after = await leader.ask("status")
    return loaded, {**installed, "elections": after["term"] - before["term"]}


async def measure_image(quorum: Quorum, partitions: int) -> dict[str, Any]:
    """Snapshot, load, catching up and fencing with so many partitions."""
    topics = max(1, partitions // _PARTITIONS_PER_TOPIC)
    filled = await quorum.at_leader(
        "fill", brokers=_BROKERS, topics=topics, partitions=min(partitions, _PARTITIONS_PER_TOPIC)
    )
    await quorum.until_equal()
    progress(f"{filled['partitions']} partitions made")
    watcher = Watcher(quorum)
    caught_up_ms = await watcher.reach(filled["version"])
    for voter in quorum.voters:
        await voter.ask("status")  # forgets the stalls so far
    fenced = await quorum.at_leader("fence", broker=_FENCED)
    told_ms = await watcher.reach(fenced["version"])
    unfenced = await quorum.at_leader("unfence", broker=_FENCED)
    await quorum.until_equal()
    snapshots = [await voter.ask("compact") for voter in quorum.voters]
    await watcher.stop()
    loaded, installed = await measure_load(quorum)
    return {
        "partitions": filled["partitions"],
        "fill_stall_ms": filled["stall_ms"],
        "snapshot_dump_ms": max(one["dump"] for one in snapshots),
        "snapshot_stall_ms": max(one["stall_ms"] for one in snapshots),
        "load_restore_ms": loaded["restore"],
        "load_start_ms": loaded["start"],
        "load_elections": loaded["elections"],
        "install_restore_ms": installed["restore"],
        "install_elections": installed["elections"],
        "watch_catch_up_ms": caught_up_ms,
        "fence_apply_ms": fenced["apply"],
        "fence_stall_ms": fenced["stall_ms"],
        "fence_seen_by_follower_ms": told_ms,
        "unfence_apply_ms": unfenced["apply"],
        "unfence_stall_ms": unfenced["stall_ms"],
        "leader_changes": quorum.refusals,
    }


async def measure_commits(quorum: Quorum) -> list[dict[str, Any]]:
    """Commits of some numbers of callers."""
    figures = []
    for window, count in _WINDOWS:
        figures.append(await quorum.at_leader("measure", window=window, count=count))
        progress(f"window {window}: {figures[-1]}")
    return figures


async def run(rounds: int, seconds: int, partitions: int) -> dict[str, Any]:
    """Everything, each part on the same three folders one after another."""
    with tempfile.TemporaryDirectory(prefix="millstream-raft-bench-") as folder:
        quorum = Quorum(Path(folder))
        try:
            await quorum.start()
            idle = await measure_idle(quorum, seconds)
            progress(f"idle CPU percent: {idle}")
            commits = await measure_commits(quorum)
            gaps = await measure_gaps(quorum, rounds)
            image = await measure_image(quorum, partitions)
        finally:
            await quorum.stop()
    return {
        "idle_cpu_percent": idle,
        "commit_ms": {
            f"window_{one['window']}": {"p50": one["p50_ms"], "p99": one["p99_ms"]}
            for one in commits
        },
        "commits_per_second": {
            f"window_{one['window']}": one["commits_per_second"] for one in commits
        },
        "leader_syncs": {f"window_{one['window']}": one["leader_syncs"] for one in commits},
        "gap_ms": gaps,
        "image": image,
    }


def main() -> int:
    rounds, seconds = integer("ROUNDS", 5), integer("SECONDS", 5)
    partitions = integer("PARTITIONS", 50_000)
    configure_logging("json", "warning")
    began_s = time.monotonic()
    result = asyncio.run(run(rounds, seconds, partitions))
    print_result({**result, "seconds": round(time.monotonic() - began_s, 1)})
    exercised = result["gap_ms"]["rounds"] == rounds
    return 0 if exercised and result["image"]["partitions"] else 1


if __name__ == "__main__":
    sys.exit(main())
