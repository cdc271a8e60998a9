"""A cluster in this process, on real sockets: enough of a broker to prove a client against.

Threaded gRPC servers, so that it does not disturb the event loop under test. Faults are scripted
per partition: each produced batch takes the next fault of its partition, if there is one.
"""

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from millstream.record.wire import RawProduceRequest
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import broker_service_pb2_grpc as broker_grpc
from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1 import metadata_service_pb2_grpc as metadata_grpc
from tests.fakes.broker_log import FakeLog, Refused

_MESSAGE_BYTES_MAX = 16 * 1024 * 1024


@dataclass
class Fault:
    """What befalls one batch.

    ``reason``: answer with this error. ``append``: append it all the same. ``drop``: break the
    stream instead of answering. ``hold``: answer only when this event is set.
    """

    reason: str = ""
    append: bool = False
    drop: bool = False
    hold: threading.Event | None = None
    indeterminate: bool = False
    retry_after_ms: int = 0


class StatusError(Exception):
    """Ends a unary call with a reason of the error table."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def abort(context: grpc.ServicerContext, reason: str, message: str = "") -> Any:
    """End a call as the real services do: rich status with ErrorInfo."""
    status = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="millstream.dev"))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)


class FakeCluster:
    """Brokers that share their state; ``start`` and ``stop`` it, or use it as a context."""

    def __init__(self, brokers: int = 1) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1
        self.cluster_id = "fake"
        self.topics: dict[str, metadata.Topic] = {}
        self.logs: dict[tuple[bytes, int], FakeLog] = defaultdict(FakeLog)
        self.faults: dict[tuple[str, int], deque[Fault]] = defaultdict(deque)
        # Answer every batch with this until it is cleared.
        self.always: Fault | None = None
        self.auto_create = False
        self.calls: list[tuple[str, Any]] = []
        # Reasons to fail unary calls with, by method name, one per call.
        self.call_faults: dict[str, deque[str]] = defaultdict(deque)
        self.produce_requests = 0
        self._next_producer_id = 1000
        self._topic_count = 0
        self._results: dict[tuple[int, int], Any] = {}
        self.brokers = [FakeBroker(self, node_id + 1) for node_id in range(brokers)]

    # ---- life

    def start(self) -> "FakeCluster":
        """Serve on free ports of the loopback interface."""
        for each in self.brokers:
            each.start()
        return self

    def stop(self) -> None:
        """End all calls and servers."""
        with self.changed:
            self.version = -1
            self.changed.notify_all()
        for each in self.brokers:
            each.stop()

    def __enter__(self) -> "FakeCluster":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """Addresses for bootstrap.servers."""
        return ",".join(each.address for each in self.brokers)

    # ---- state

    def create_topic(self, name: str, partitions: int = 1, **configs: str) -> metadata.Topic:
        """Make a topic, its leaders spread over the brokers."""
        with self.changed:
            self._topic_count += 1
            topic = metadata.Topic(
                name=name, topic_id=self._topic_count.to_bytes(16, "big"), configs=configs
            )
            self.topics[name] = topic
            self.add_partitions(name, partitions)
            return topic

    def add_partitions(self, name: str, total: int) -> None:
        """Let a topic have ``total`` partitions."""
        with self.changed:
            topic = self.topics[name]
            for number in range(len(topic.partitions), total):
                node_id = self.brokers[number % len(self.brokers)].node_id
                topic.partitions.add(
                    partition=number, leader_id=node_id, leader_epoch=1, replica_ids=[node_id]
                )
            self.bump()

    def delete_topic(self, name: str) -> None:
        """Remove a topic."""
        with self.changed:
            del self.topics[name]
            self.bump()

    def move_leader(self, name: str, partition: int, node_id: int | None) -> None:
        """Elect another leader, or none."""
        with self.changed:
            entry = self.topics[name].partitions[partition]
            entry.leader_epoch += 1
            if node_id is None:
                entry.ClearField("leader_id")
            else:
                entry.leader_id = node_id
            self.bump()

    def bump(self) -> None:
        """A new version of the metadata."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def bump_watchers(self) -> None:
        """A watch ended: let its thread notice."""
        with self.changed:
            self.changed.notify_all()

    def log(self, name: str, partition: int = 0) -> FakeLog:
        """The log of a partition."""
        return self.logs[(self.topics[name].topic_id, partition)]

    def values(self, name: str, partition: int = 0) -> list[bytes | None]:
        """The values in a log, in order."""
        with self.lock:
            return [record.value for record in self.log(name, partition).records]

    def script(self, name: str, partition: int, *faults: Fault) -> None:
        """Let the next batches of a partition meet these faults."""
        self.faults[(name, partition)].extend(faults)

    def name_of(self, topic_id: bytes) -> str | None:
        """The name of a topic id."""
        for topic in self.topics.values():
            if topic.topic_id == topic_id:
                return topic.name
        return None

    def allocate_producer_id(self) -> int:
        """A fresh producer id."""
        with self.lock:
            self._next_producer_id += 1
            return self._next_producer_id

    def once(self, request_id: metadata.RequestId, make: Callable[[], Any]) -> Any:
        """Execute a metadata write once per request id."""
        with self.lock:
            key = (request_id.session_id, request_id.sequence)
            if key not in self._results or not key[0]:
                self._results[key] = make()
            return self._results[key]


class FakeBroker:
    """One server of a fake cluster."""

    def __init__(self, cluster: FakeCluster, node_id: int) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.address = ""
        self.port = 0
        self.server: grpc.Server | None = None
        self.streams: set[grpc.ServicerContext] = set()

    def start(self) -> None:
        """Serve, on the port of the last time if there was one."""
        from tests.fakes.metadata_servicer import FakeMetadataServicer

        self.server = grpc.server(
            ThreadPoolExecutor(64),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
            ),
        )
        servicer = _BrokerServicer(self)
        broker_grpc.add_BrokerServiceServicer_to_server(servicer, self.server)
        # Over the generated one: batches stay as bytes.
        self.server.add_registered_method_handlers(
            "millstream.v1.BrokerService",
            {
                "Produce": grpc.stream_stream_rpc_method_handler(
                    servicer.Produce,
                    request_deserializer=RawProduceRequest.FromString,
                    response_serializer=broker.ProduceResponse.SerializeToString,
                )
            },
        )
        metadata_grpc.add_MetadataServiceServicer_to_server(
            FakeMetadataServicer(self.cluster), self.server
        )
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()
        self.cluster.bump()

    def stop(self) -> None:
        """End at once, as kill -9 would for a client."""
        if self.server is not None:
            self.server.stop(None).wait(5)
            self.server = None

    def break_streams(self) -> None:
        """End the open produce streams."""
        for context in list(self.streams):
            context.cancel()


class _BrokerServicer(broker_grpc.BrokerServiceServicer):
    def __init__(self, owner: FakeBroker) -> None:
        self._broker = owner
        self._cluster = owner.cluster

    def Produce(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        answers: queue.SimpleQueue[broker.ProduceResponse | None] = queue.SimpleQueue()
        self._broker.streams.add(context)
        context.add_callback(lambda: answers.put(None))

        def read() -> None:
            try:
                for request in request_iterator:
                    self._cluster.produce_requests += 1
                    if not self._handle(request, answers):
                        context.cancel()
                        return
            except grpc.RpcError:
                pass
            except Exception as error:
                if not context.is_active():
                    return
                raise error
            answers.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            while (answer := answers.get()) is not None:
                yield answer
        finally:
            self._broker.streams.discard(context)

    def _handle(self, request: Any, answers: "queue.SimpleQueue[Any]") -> bool:
        for part in request.partitions:
            result = broker.ProduceResult(
                correlation_id=request.correlation_id,
                topic_id=part.topic_id,
                partition=part.partition,
            )
            cluster = self._cluster
            with cluster.lock:
                name = cluster.name_of(part.topic_id)
                script = cluster.faults[(name or "", part.partition)]
                fault = script.popleft() if script else cluster.always
            if fault is not None and fault.drop and not fault.append:
                return False
            if fault is None or fault.append:
                self._append(part, name, result)
            if fault is not None and fault.drop:
                return False
            if fault is not None and fault.reason:
                result.error = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{fault.reason}")
                result.indeterminate = fault.indeterminate
                result.retry_after_ms = fault.retry_after_ms
            if request.acks == broker.ACKS_NONE:
                continue
            answer = broker.ProduceResponse(results=[result])
            if fault is not None and fault.hold is not None:
                self._answer_later(fault.hold, answer, answers)
            else:
                answers.put(answer)
        return True

    def _answer_later(self, event: threading.Event, answer: Any, answers: Any) -> None:
        def wait() -> None:
            event.wait(30)
            answers.put(answer)

        threading.Thread(target=wait, daemon=True).start()

    def _append(self, part: Any, name: str | None, result: Any) -> None:
        cluster = self._cluster
        with cluster.lock:
            if name is None:
                result.error = errors_pb2.ERROR_REASON_UNKNOWN_TOPIC
                return
            entry = cluster.topics[name].partitions[part.partition]
            if entry.leader_id != self._broker.node_id:
                result.error = errors_pb2.ERROR_REASON_NOT_LEADER
                result.leader_epoch = entry.leader_epoch
                return
            try:
                for batch in part.batches:
                    base = cluster.logs[(part.topic_id, part.partition)].append(batch)
            except Refused as refusal:
                result.error = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{refusal}")
                return
            if base is None:
                result.error = errors_pb2.ERROR_REASON_DUPLICATE_SEQUENCE
                return
            result.base_offset = base
            result.append_timestamp_ms = 1_700_000_000_000
            result.leader_epoch = entry.leader_epoch
            result.durability = broker.DURABILITY_REPLICATED_DISK

    def ListOffsets(self, request: Any, context: Any) -> Any:
        response = broker.ListOffsetsResponse()
        with self._cluster.lock:
            for query in request.queries:
                answer = response.answers.add(topic=query.topic, partition=query.partition)
                if query.topic not in self._cluster.topics:
                    answer.error = errors_pb2.ERROR_REASON_UNKNOWN_TOPIC
                    continue
                log = self._cluster.log(query.topic, query.partition)
                kind = query.position.WhichOneof("kind")
                answer.offset = len(log.records) if kind == "latest" else 0
        return response

    def DeleteRecords(self, request: Any, context: Any) -> Any:
        response = broker.DeleteRecordsResponse()
        for deletion in request.deletions:
            response.results.add(
                topic=deletion.topic,
                partition=deletion.partition,
                log_start_offset=deletion.before_offset,
            )
        return response

    def DescribeLogDirs(self, request: Any, context: Any) -> Any:
        return broker.DescribeLogDirsResponse(
            node_id=self._broker.node_id,
            log_dirs=[broker.LogDir(path="/fake", total_bytes=100, free_bytes=50)],
        )
