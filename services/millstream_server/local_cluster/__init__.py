"""A cluster of separate processes on this machine, supervised by one parent.

::

    with LocalCluster.create(folder, metadata=3, brokers=3, coordinators=2) as cluster:
        cluster.start()                      # returns when every node answers "ready"
        cluster.bootstrap_servers            # "127.0.0.1:40001,127.0.0.1:40002,…"
        cluster.kill("broker-1")             # kill -9
        cluster.restart("broker-1")
    # every process is gone
"""

from millstream_server.local_cluster.connection import CONNECTION_FILE, read_connection
from millstream_server.local_cluster.plan import ClusterPlan, NodePlan, plan_cluster
from millstream_server.local_cluster.ports import PortsTakenError, ReservedPorts
from millstream_server.local_cluster.process import NodeProcess
from millstream_server.local_cluster.supervisor import (
    ClusterStartError,
    LocalCluster,
    UnknownNodeError,
)

__all__ = [
    "CONNECTION_FILE",
    "ClusterPlan",
    "ClusterStartError",
    "LocalCluster",
    "NodePlan",
    "NodeProcess",
    "PortsTakenError",
    "ReservedPorts",
    "UnknownNodeError",
    "plan_cluster",
    "read_connection",
]
