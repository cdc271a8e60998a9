"""``make failover``: how long a local cluster is without what was taken from it.

ROUNDS times each: the leader of the metadata quorum is stopped (SIGSTOP) or told to end (SIGTERM)
while a client writes through a broker; a broker is killed until another one knows that it is
fenced; a coordinator is killed until all its shards are served elsewhere, and until a group's
member can commit again; both also together with the leader. Milliseconds. KINDS chooses some.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc

from millstream import Admin, Consumer, MillstreamError, NewTopic, TopicPartition
from millstream.v1 import group_coordinator_service_pb2 as group_pb
from millstream.v1 import group_coordinator_service_pb2_grpc as group_grpc
from millstream.v1 import metadata_service_pb2 as pb
from millstream.v1 import metadata_service_pb2_grpc as pb_grpc
from millstream_server.local_cluster import LocalCluster, NodePlan
from millstream_server.local_cluster.readiness import is_ready
from tests.campaigns.figures import integer, print_result, progress
from tests.campaigns.metadata_calls import MetadataCalls

_TOPIC = "failover"
_GROUPS = [f"group-{number}" for number in range(64)]
_PAUSE_S = 5.0
_LIMIT_S = 60.0
_POLL_S = 0.01


class Member(threading.Thread):
    """A member of a group that commits all the time."""

    def __init__(self, bootstrap: str, group: str) -> None:
        super().__init__(daemon=True)
        self._servers = bootstrap
        self._group = group
        self.stopping = threading.Event()
        self.commits_s: list[float] = []
        self.start()

    def run(self) -> None:
        """Commit until told to stop."""
        place = {TopicPartition(_TOPIC, 0): 0}
        with Consumer(_TOPIC, bootstrap_servers=self._servers, group_id=self._group) as consumer:
            while not self.stopping.is_set():
                consumer.getmany(timeout_ms=20)
                try:
                    consumer.commit(place)
                except MillstreamError:
                    continue
                self.commits_s.append(time.monotonic())

    def gap_ms(self, since_s: float) -> float:
        """The longest time without a commit since then; so far, if none came."""
        times = [one for one in list(self.commits_s) if one > since_s - 0.5]
        return 1000 * max((after - before for before, after in pairwise(times)), default=0.0)


class Failover:
    """One cluster and its client."""

    def __init__(self, folder: Path) -> None:
        self.cluster = LocalCluster.create(folder, config={"log.level": "info"})
        plan = self.cluster.plan
        self._voters, self._brokers = plan.with_role("metadata"), plan.with_role("broker")
        self._coordinators = plan.with_role("coordinator")
        self.figures: dict[str, list[float]] = defaultdict(list)

    async def run(self, rounds: int) -> None:
        """Measure everything."""
        await asyncio.to_thread(self.cluster.start)
        broker = self._brokers[0]
        with Admin(bootstrap_servers=self.cluster.bootstrap_servers) as admin:
            admin.create_topics([NewTopic(_TOPIC, 3)])
        self._channel = grpc.aio.insecure_channel(broker.address)
        self._metadata = pb_grpc.MetadataServiceStub(self._channel)
        self._calls = MetadataCalls([broker.address], random.Random(1))
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "controller_stopped": self._stop_controller,
            "controller_told_to_end": self._end_controller,
            "broker_killed": self._kill_broker,
            "broker_and_controller_killed": self._kill_broker_and_controller,
            "coordinator_killed": self._kill_coordinator,
            "coordinator_and_controller_killed": self._kill_coordinator_and_controller,
        }
        wanted = os.environ.get("KINDS", " ".join(kinds)).split()
        for number in range(rounds):
            for kind in wanted:
                await kinds[kind]()
                await self._until(self._all_ready)
                shown = {name: round(values[-1]) for name, values in self.figures.items()}
                progress(f"round {number + 1}/{rounds} {kind}: {shown}")
        await self._calls.close()
        await self._channel.close()

    # What is measured

    async def _stop_controller(self) -> None:
        leader = await self._leader()

        async def pause() -> None:
            self._signal(leader, signal.SIGSTOP)
            await asyncio.sleep(_PAUSE_S)
            self._signal(leader, signal.SIGCONT)

        await self._write_during("controller_stopped", pause)

    async def _end_controller(self) -> None:
        leader = await self._leader()

        async def end() -> None:
            self._signal(leader, signal.SIGTERM)
            await self._until(lambda: not self.cluster.is_running(leader.name))
            await asyncio.sleep(1)
            await asyncio.to_thread(self.cluster.restart, leader.name)

        await self._write_during("controller_told_to_end", end)

    async def _write_during(self, kind: str, fault: Callable[[], Awaitable[None]]) -> None:
        """The longest pause of a writer around a fault."""
        await self._calls.open_session(_LIMIT_S)
        times_s, stop = [], asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                request = pb.AlterConfigsRequest(
                    topic=_TOPIC,
                    set={"retention.ms": str(1_000_000 + len(times_s))},
                    request_id=self._calls.next_request_id(),
                )
                # One try with a long deadline: the gap is the cluster's, not this client's.
                await self._metadata.AlterConfigs(request, timeout=_LIMIT_S)
                times_s.append(time.monotonic())
                await asyncio.sleep(0.005)

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.3)
        await fault()
        await asyncio.sleep(1)
        stop.set()
        await writing
        gap_s = max(after - before for before, after in pairwise(times_s))
        self.figures[f"{kind}_write_gap_ms"].append(1000 * gap_s)

    async def _kill_broker(self) -> None:
        await self._until_fenced("broker_killed", self._brokers[-1])

    async def _kill_broker_and_controller(self) -> None:
        await self._until_fenced(
            "broker_and_controller_killed", self._brokers[-1], await self._leader()
        )

    async def _until_fenced(self, kind: str, victim: NodePlan, *others: NodePlan) -> None:
        watch = self._metadata.WatchCluster(pb.WatchClusterRequest())
        await watch.read()
        killed_s = time.monotonic()
        for node in (*others, victim):
            await asyncio.to_thread(self.cluster.kill, node.name)
        async with asyncio.timeout(_LIMIT_S):
            while True:
                change = await watch.read()
                if any(one.node_id == victim.node_id and one.fenced for one in change.nodes):
                    break
        self.figures[f"{kind}_fenced_ms"].append(1000 * (time.monotonic() - killed_s))
        watch.cancel()
        for node in (*others, victim):
            await asyncio.to_thread(self.cluster.restart, node.name)

    async def _kill_coordinator(self) -> None:
        await self._until_coordinated("coordinator_killed")

    async def _kill_coordinator_and_controller(self) -> None:
        await self._until_coordinated("coordinator_and_controller_killed", await self._leader())

    async def _until_coordinated(self, kind: str, *others: NodePlan) -> None:
        places = {group: await self._coordinator(group) for group in _GROUPS}
        owners = {owner.node_id for owner in places.values()}
        victim = next(one for one in self._coordinators if one.node_id in owners)
        heir = next(one for one in self._coordinators if one is not victim)
        lost = [group for group, owner in places.items() if owner is victim]
        member = Member(self.cluster.bootstrap_servers, lost[0])
        await self._until(lambda: len(member.commits_s) > 3)
        channel = grpc.aio.insecure_channel(heir.address)
        stub = group_grpc.GroupCoordinatorServiceStub(channel)
        killed_s = time.monotonic()
        for node in (*others, victim):
            await asyncio.to_thread(self.cluster.kill, node.name)
        await asyncio.gather(*(self._until_served(stub, group) for group in lost))
        served_s = time.monotonic()
        self.figures[f"{kind}_served_ms"].append(1000 * (served_s - killed_s))
        await self._until(lambda: member.commits_s[-1] > served_s)
        self.figures[f"{kind}_commit_gap_ms"].append(member.gap_ms(killed_s))
        member.stopping.set()
        await asyncio.to_thread(member.join)
        await channel.close()
        for node in (*others, victim):
            await asyncio.to_thread(self.cluster.restart, node.name)

    async def _until_served(
        self, stub: "group_grpc.GroupCoordinatorServiceAsyncStub", group: str
    ) -> None:
        request = group_pb.FetchOffsetsRequest(group_id=group)
        async with asyncio.timeout(_LIMIT_S):
            while True:
                try:
                    await stub.FetchOffsets(request, timeout=1)
                except grpc.aio.AioRpcError as error:
                    if "UNKNOWN_GROUP" in str(error.details()):
                        return
                    await asyncio.sleep(_POLL_S)
                else:
                    return

    # The cluster

    async def _coordinator(self, group: str) -> NodePlan:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                try:
                    found = await self._metadata.FindCoordinator(
                        pb.FindCoordinatorRequest(group_id=group)
                    )
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(_POLL_S)
                else:
                    return self.cluster.node_by_id(found.node.node_id)

    async def _leader(self) -> NodePlan:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                try:
                    quorum = await self._metadata.DescribeQuorum(pb.DescribeQuorumRequest())
                except grpc.aio.AioRpcError:
                    continue
                if quorum.leader_id:
                    return self.cluster.node_by_id(quorum.leader_id)
                await asyncio.sleep(_POLL_S)

    def _all_ready(self) -> bool:
        return all(is_ready("127.0.0.1", node.admin_port) for node in self.cluster.plan.nodes)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_LIMIT_S):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - of processes
                await asyncio.sleep(_POLL_S)

    def _signal(self, node: NodePlan, number: signal.Signals) -> None:
        pid = self.cluster.pid(node.name)
        assert pid is not None
        os.kill(pid, number)


def spread(values: list[float]) -> dict[str, int]:
    """Median and maximum, rounded."""
    ordered = sorted(values)
    return {"p50": round(ordered[len(ordered) // 2]), "max": round(ordered[-1])}


def main() -> int:
    rounds = integer("ROUNDS", 10)
    with tempfile.TemporaryDirectory(prefix="millstream-failover-") as folder:
        failover = Failover(Path(folder))
        try:
            asyncio.run(failover.run(rounds))
        finally:
            failover.cluster.kill_all()
    figures: dict[str, Any] = {name: spread(values) for name, values in failover.figures.items()}
    print_result({"rounds": rounds, **figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
