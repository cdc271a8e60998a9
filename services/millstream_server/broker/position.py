"""Whether a reader may read from where it asks to (KIP-320, invariant 18)."""

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica


class TruncatedLog(Refusal):
    """What the reader has read is not in this log any more; ``offset`` is where they part."""

    def __init__(self, offset: int, position: pb.FetchPosition) -> None:
        super().__init__(
            "LOG_TRUNCATED",
            f"the log parts from what was read at offset {offset}, below {position.offset}",
        )
        self.offset = offset


def check_position(replica: Replica, position: pb.FetchPosition) -> None:
    """Refuse a position that this replica cannot serve: the wrong epoch, a truncated log, an
    offset outside of it."""
    replica.check_fetchable(position.leader_epoch if position.HasField("leader_epoch") else None)
    if position.HasField("last_epoch"):
        truncated = replica.truncated_offset(position.last_epoch, position.offset)
        if truncated is not None:
            raise TruncatedLog(truncated, position)
    replica.check_offset(position.offset)
