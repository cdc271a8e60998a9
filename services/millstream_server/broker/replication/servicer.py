"""`ReplicationService` on the wire: proto in, proto out, and nothing else.

What goes out is bytes already (``leader_wire``). The `.proto` stays the truth.
"""

from typing import Any

import grpc

from millstream_server.broker.counters import BrokerCounters
from millstream_server.broker.replication.leader import Leader
from millstream_server.broker.replication.session_stream import SessionStream
from millstream_server.broker.servicer import parser_of
from millstream_server.runtime.callers import Callers
from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.v1 import replication_service_pb2 as pb

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ReplicationService"].full_name
_Context = grpc.aio.ServicerContext[Any, Any]


class ReplicationServicer:
    """Binds the leader's sessions to gRPC."""

    def __init__(self, leader: Leader, counters: BrokerCounters, callers: Callers) -> None:
        self._leader = leader
        self._counters = counters
        self._callers = callers

    def add_to(self, server: grpc.aio.Server) -> str:
        """Add the service to a server; returns its full name."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Replicate": grpc.stream_stream_rpc_method_handler(
                self._replicate, request_deserializer=parser_of(pb.ReplicateRequest)
            )
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),)
        )
        server.add_registered_method_handlers(SERVICE_NAME, handlers)
        return SERVICE_NAME

    async def _replicate(self, _: Any, context: _Context) -> None:
        self._counters.stream_opened("replicate")
        try:
            await SessionStream(self._leader, self._callers).run(context)
        except ServiceError as error:
            self._counters.errors["replicate", error.reason] += 1
            await abort(context, error)
        finally:
            self._counters.stream_closed("replicate")
