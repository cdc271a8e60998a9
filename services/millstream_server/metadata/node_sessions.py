"""Who is alive, as the active controller sees it: one deadline per node, by the monotonic clock.

Pure: time is an argument. Nothing here ends a session; ``expired`` and ``may_fence_early`` name
the nodes for which the end may be *proposed*, and only the committed command ends it.

States of a session::

    live      ── stream breaks, or none
                 to a new controller ────► suspected
    suspected ── stream opens again ─────► live
    either    ── silent for its time-out ► expired, until a heartbeat comes or it is fenced
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class NodeSession:
    """The session of one registration."""

    node_id: int
    node_epoch: int
    timeout_ms: int
    deadline_ms: int
    # The node's stream is broken.
    suspected: bool


class NodeSessions:
    """The sessions of all nodes that are not fenced, or register."""

    def __init__(self) -> None:
        self._sessions: dict[int, NodeSession] = {}

    def restart(self, nodes: Iterable[tuple[int, int, int]], now_ms: int) -> None:
        """Begin anew as a new controller: every live (node id, epoch, time-out in milliseconds)
        gets its whole time-out.

        They are not suspected: a change of controller breaks every stream (invariant 38)."""
        self._sessions = {
            node_id: NodeSession(node_id, epoch, timeout_ms, now_ms + timeout_ms, False)
            for node_id, epoch, timeout_ms in nodes
        }

    def clear(self) -> None:
        """Forget everything, when another node became the controller."""
        self._sessions = {}

    def open(self, node_id: int, node_epoch: int, timeout_ms: int, now_ms: int) -> None:
        """A stream of this registration was opened."""
        self._sessions[node_id] = NodeSession(
            node_id, node_epoch, timeout_ms, now_ms + timeout_ms, False
        )

    def ensure(self, node_id: int, node_epoch: int, timeout_ms: int, now_ms: int) -> None:
        """This registration is live: it has a session from now on, if it has none."""
        session = self._sessions.get(node_id)
        if session is None or session.node_epoch < node_epoch:
            self.open(node_id, node_epoch, timeout_ms, now_ms)

    def renew(self, node_id: int, node_epoch: int, received_ms: int) -> None:
        """A heartbeat was received at this time."""
        session = self._sessions.get(node_id)
        if session is not None and session.node_epoch == node_epoch:
            session.deadline_ms = max(session.deadline_ms, received_ms + session.timeout_ms)

    def postpone(self, milliseconds: int) -> None:
        """Move every deadline, after this node itself heard nothing for so long. A session that is
        longer here than on its node is safe: the node stops first."""
        for session in self._sessions.values():
            session.deadline_ms += milliseconds

    def nodes(self) -> list[tuple[int, int]]:
        """(node id, epoch) of every session."""
        return [(one.node_id, one.node_epoch) for one in self._sessions.values()]

    def suspect(self, node_id: int, node_epoch: int) -> None:
        """The stream of this registration broke."""
        session = self._sessions.get(node_id)
        if session is not None and session.node_epoch == node_epoch:
            session.suspected = True

    def is_suspected(self, node_id: int, node_epoch: int) -> bool:
        """True while the stream of this registration is broken and the session is not over."""
        session = self._sessions.get(node_id)
        return session is not None and session.node_epoch == node_epoch and session.suspected

    def end(self, node_id: int, node_epoch: int) -> None:
        """The registration was fenced or replaced."""
        session = self._sessions.get(node_id)
        if session is not None and session.node_epoch <= node_epoch:
            del self._sessions[node_id]

    def expired(self, now_ms: int) -> list[tuple[int, int]]:
        """(node id, epoch) of the sessions that are silent for their time-out."""
        return [
            (session.node_id, session.node_epoch)
            for session in self._sessions.values()
            if now_ms >= session.deadline_ms
        ]

    def next_deadline_ms(self) -> int | None:
        """When the next session expires unless it is renewed; None without sessions."""
        return min((session.deadline_ms for session in self._sessions.values()), default=None)

    def may_fence_early(self, node_id: int, node_epoch: int) -> bool:
        """True if a suspected node that refuses a direct connection may be fenced before its
        time-out: fewer than half of all nodes are suspected at once (invariant 38)."""
        suspected = sum(session.suspected for session in self._sessions.values())
        return self.is_suspected(node_id, node_epoch) and suspected * 2 < len(self._sessions)
