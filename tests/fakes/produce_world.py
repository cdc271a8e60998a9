"""A producer's sender against fake logs, without network, threads or clocks: one seed, one run."""

import random
from dataclasses import dataclass
from typing import Any

from millstream._client.cluster import ClusterCache
from millstream._client.config import ProducerConfig
from millstream._errors import UnavailableError
from millstream._producer.accumulator import Accumulator
from millstream._producer.batch import Batch
from millstream._producer.call import ProduceCall
from millstream._producer.sender import Sender
from millstream.record.wire import RawProduceRequest
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as metadata
from tests.fakes.broker_log import FakeLog, Refused

TOPIC_ID = b"\x07" * 16


class ManualClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def monotonic_ms(self) -> int:
        return self.now_ms

    def wall_s(self) -> float:
        return 1_700_000_000 + self.now_ms / 1000


@dataclass
class Sent:
    """A request on its way to a broker."""

    call: ProduceCall
    request: Any


class ProduceWorld:
    """One topic ``t``, its logs, a sender, and a network in the hands of the test."""

    def __init__(self, partitions: int = 1, seed: int = 0, **options: Any) -> None:
        self.clock = ManualClock()
        self.chance = random.Random(seed)
        # Several small batches are under way in most tests.
        self.config = ProducerConfig.resolve(**{"linger_in_flight_ms": 0, **options})
        self.cluster = ClusterCache()
        self.accumulator = Accumulator(self.config, self.clock, self.chance)
        self.sender = Sender(self.config, self.accumulator, self.cluster, self.chance)
        self.partitions = partitions
        self.epoch = 1
        self.version = 0
        self.logs = [FakeLog() for _ in range(partitions)]
        self.network: list[Sent] = []
        self.tell_leader(1)
        self.accumulator.add_topic(self.cluster.topic("t"))
        self.producer_ids = 0
        self.give_producer_id()

    def give_producer_id(self) -> None:
        """Answer an allocation, if the producer is idempotent and has none."""
        if self.config.idempotent and not self.sender.identity.producer_id:
            self.producer_ids += 1
            self.sender.set_producer_id(self.producer_ids, 0)

    def tell_leader(self, node_id: int | None, *, deleted: bool = False) -> None:
        """Metadata: another leader for all partitions, or none, or no topic any more."""
        self.version += 1
        topic = metadata.Topic(name="t", topic_id=TOPIC_ID)
        for number in range(self.partitions):
            topic.partitions.add(partition=number, leader_id=node_id, leader_epoch=self.epoch)
        self.epoch += 1
        message = metadata.WatchClusterResponse(
            version=self.version,
            cluster_id="c",
            nodes=[
                metadata.Node(node_id=n, host="h", port=n, roles=[metadata.NODE_ROLE_BROKER])
                for n in (1, 2)
            ],
            topics=[] if deleted else [topic],
            removed_topic_ids=[TOPIC_ID] if deleted else [],
        )
        self.sender.on_cluster_change(self.cluster.apply(message))

    def send(self, value: bytes, partition: int = 0) -> tuple[Batch, int]:
        """Append a record; (batch, index)."""
        batch = self.accumulator.append("t", value, partition=partition)
        assert batch is not None
        return batch, len(batch.values) - 1

    def collect(self) -> list[Sent]:
        """Let the sender send; returns what went out now."""
        self.give_producer_id()
        out = []
        for call in self.sender.collect(self.clock.now_ms):
            data = call.encode(broker.ACKS_ALL, 1000, 0)
            out.append(Sent(call, RawProduceRequest.FromString(data)))
        self.network += out
        return out

    def append(self, sent: Sent) -> list[tuple[int, int | None, str]]:
        """Let the broker append a request: (partition, base offset, reason) per batch."""
        found: list[tuple[int, int | None, str]] = []
        for part in sent.request.partitions:
            offset: int | None = None
            reason = ""
            try:
                (data,) = part.batches
                offset = self.logs[part.partition].append(data)
            except Refused as refusal:
                reason = str(refusal)
            found.append((part.partition, offset, reason))
        return found

    def answer(self, sent: Sent, reason: str = "", *, indeterminate: bool = False) -> None:
        """Append a request and answer; with ``reason``, answer only."""
        if reason:
            results = [(part.partition, None, reason) for part in sent.request.partitions]
        else:
            results = self.append(sent)
        self.reply(sent, results, indeterminate=indeterminate)

    def reply(
        self,
        sent: Sent,
        results: list[tuple[int, int | None, str]],
        *,
        indeterminate: bool = False,
    ) -> None:
        """Hand an answer to the sender."""
        self.network.remove(sent)
        response = broker.ProduceResponse()
        for partition, offset, reason in results:
            number = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason or 'UNSPECIFIED'}")
            result = response.results.add(
                correlation_id=sent.call.correlation_id,
                topic_id=TOPIC_ID,
                partition=partition,
                error=number,
                indeterminate=indeterminate,
            )
            if offset is not None:
                result.base_offset = offset
        self.sender.on_response(response, self.clock.now_ms)

    def break_stream(self, node_id: int = 1) -> None:
        """The stream to a node ends; what was on its way is lost."""
        self.network = [sent for sent in self.network if sent.call.node_id != node_id]
        self.sender.on_broken(node_id, UnavailableError("broken"), self.clock.now_ms)

    def wait(self, delay_ms: int = 2_000) -> None:
        """Let time pass, long enough for any retry delay by default."""
        self.clock.now_ms += delay_ms

    def values(self, partition: int = 0) -> list[bytes | None]:
        """The values in a log."""
        return [record.value for record in self.logs[partition].records]
