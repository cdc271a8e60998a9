"""What a group member asks of its owner, in order, and the numbers of its streams and messages.

Pure.
"""

from millstream._group.types import CloseStream, OpenStream, Output, SendToGroup
from millstream.v1 import group_coordinator_service_pb2 as pb


class Outbox:
    """See the module."""

    def __init__(self) -> None:
        # Id of the newest stream; messages of older ones are void.
        self.stream_id = 0
        self._correlation_id = 0
        self._outputs: list[Output] = []

    def put(self, output: Output) -> None:
        """Ask for something."""
        self._outputs.append(output)

    def take(self) -> list[Output]:
        """Everything asked for since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def open_stream(self) -> None:
        """Ask for a new stream."""
        self.stream_id += 1
        self._outputs.append(OpenStream(self.stream_id))

    def close_stream(self) -> None:
        """Ask for the end of the newest stream."""
        self._outputs.append(CloseStream(self.stream_id))

    def send(
        self,
        *,
        join: pb.Join | None = None,
        heartbeat: pb.Heartbeat | None = None,
        commit: pb.SessionCommit | None = None,
        leave: pb.Leave | None = None,
    ) -> int:
        """Send one message on the newest stream; returns its correlation id."""
        self._correlation_id += 1
        request = pb.SessionRequest(
            correlation_id=self._correlation_id,
            join=join,
            heartbeat=heartbeat,
            commit=commit,
            leave=leave,
        )
        self._outputs.append(SendToGroup(self.stream_id, request))
        return self._correlation_id
