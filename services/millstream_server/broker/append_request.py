"""One append to one partition on its way through the broker."""

from collections.abc import Callable, Sequence

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.refusal import Refusal
from millstream_server.storage.appends import IncomingBatch
from millstream_server.storage.producers import Verdict

AppendDone = Callable[["AppendRequest", Refusal | None], None]


class AppendRequest:
    """What is to be appended, and, once ``done`` was called without a refusal, where it went."""

    __slots__ = (
        "acknowledged_epoch",
        "acks",
        "append_timestamp_ms",
        "appended_at_s",
        "base_offset",
        "batches",
        "done",
        "durability",
        "encoded",
        "forgotten",
        "from_node",
        "leader_epoch",
        "log_append_time",
        "log_start_offset",
        "partition",
        "received_at_s",
        "repeats",
        "timeout_ms",
        "topic_id",
    )

    def __init__(
        self,
        topic_id: bytes,
        partition: int,
        encoded: Sequence[bytes],
        *,
        acks: pb.Acks.ValueType,
        timeout_ms: int,
        received_at_s: float,
        done: AppendDone,
        leader_epoch: int | None = None,
        from_node: bool = False,
    ) -> None:
        self.topic_id = topic_id
        self.partition = partition
        self.encoded = encoded
        self.batches: list[IncomingBatch] = []
        self.acks = acks
        # Zero: the broker's default.
        self.timeout_ms = timeout_ms
        # By the event loop's clock, for the durations that are measured.
        self.received_at_s = received_at_s
        self.appended_at_s = 0.0
        # None: not checked.
        self.leader_epoch = leader_epoch
        # True if the caller is a node of the cluster: only such a one writes internal topics.
        self.from_node = from_node
        # Called once, on the event loop, possibly before ``submit`` returns.
        self.done = done
        # Verdicts on batches that were appended before.
        self.repeats: Sequence[Verdict] = ()
        # True if the first batch was appended too long ago to know where.
        self.forgotten = False
        # None: the records were appended before, too long ago to know where.
        self.base_offset: int | None = None
        self.append_timestamp_ms = 0
        self.log_start_offset = 0
        # True if the records are dated by the append.
        self.log_append_time = False
        self.acknowledged_epoch = 0
        self.durability: pb.Durability.ValueType = pb.DURABILITY_UNSPECIFIED

    @property
    def acks_all(self) -> bool:
        """True if every in-sync replica must have it."""
        return self.acks in (pb.ACKS_ALL, pb.ACKS_UNSPECIFIED)
