"""Who leads the metadata quorum, by the word of all its nodes."""

import time
from collections.abc import Callable, Iterable

import grpc

from millstream_server.local_cluster import LocalCluster, NodePlan
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

_LIMIT_S = 60.0


def plaintext(node: NodePlan) -> grpc.Channel:
    """A channel to a node without TLS."""
    return grpc.insecure_channel(node.address)


def leader_told_by(
    node: NodePlan, connect: Callable[[NodePlan], grpc.Channel] = plaintext
) -> int | None:
    """The quorum's leader as one metadata node knows it; none if it knows of none."""
    with connect(node) as channel:
        stub = pb_grpc.ControllerServiceStub(channel)
        described = stub.DescribeQuorum(
            pb.DescribeQuorumRequest(), timeout=_LIMIT_S, wait_for_ready=True
        )
    return described.quorum.leader_id if described.quorum.HasField("leader_id") else None


def agreed_leader(
    cluster: LocalCluster, connect: Callable[[NodePlan], grpc.Channel] = plaintext
) -> NodePlan:
    """The node that leads by the word of all metadata nodes that run, once they agree.

    A node that was stopped a moment ago may still believe in the leader of then, or know of none.
    """
    deadline_s = time.monotonic() + _LIMIT_S
    while True:
        told = {leader_told_by(node, connect) for node in _running(cluster)}
        if len(told) == 1 and (leader := told.pop()) is not None:
            return cluster.node_by_id(leader)
        assert time.monotonic() < deadline_s, f"no leader, but {told}"
        time.sleep(0.02)


def _running(cluster: LocalCluster) -> Iterable[NodePlan]:
    return [node for node in cluster.plan.with_role("metadata") if cluster.is_running(node.name)]
