"""The leader's side of replication on one broker: which followers have a session, and since when
that session is worth something."""

from dataclasses import dataclass

import structlog

from millstream_raft.delta import Delta
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.replication.session import CandidateWatch, FollowerSession
from millstream_server.broker.replication.transfers import Lane
from millstream_server.runtime.errors import ServiceError

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hello:
    """Who opens a lane; see the proto."""

    cluster_id: str
    follower_id: int
    follower_epoch: int
    leader_id: int
    session_id: int
    lane: Lane


class Leader:
    """The sessions of this broker's followers, at most one each. On the event loop."""

    def __init__(self, hosted: HostedPartitions, cluster_id: str, watch: CandidateWatch) -> None:
        self._hosted = hosted
        self._cluster_id = cluster_id
        self._watch = watch
        self._stopping = False
        self.sessions: dict[int, FollowerSession] = {}

    @property
    def node_epoch(self) -> int:
        """This broker's registration."""
        return self._hosted.cluster.node_epoch

    def open(self, hello: Hello) -> FollowerSession:
        """Add a lane to the follower's session, or begin a new one in place of an older (13).

        Raises ServiceError CLUSTER_MISMATCH, INVALID_REQUEST, STALE_NODE_EPOCH,
        NODE_SHUTTING_DOWN, and UNAVAILABLE while the image here does not hold the follower's
        registration yet.
        """
        if self._stopping:
            raise ServiceError("NODE_SHUTTING_DOWN", "the broker is stopping")
        self._check(hello)
        session = self.sessions.get(hello.follower_id)
        if session is None or session.session_id != hello.session_id:
            if session is not None:
                session.end(ServiceError("UNAVAILABLE", "the follower began another session"))
            session = FollowerSession(
                self._hosted,
                self._watch,
                follower_id=hello.follower_id,
                node_epoch=hello.follower_epoch,
                session_id=hello.session_id,
            )
            self.sessions[hello.follower_id] = session
            _log.info("follower connected", follower_id=hello.follower_id)
        if hello.lane in session.open_lanes or session.node_epoch != hello.follower_epoch:
            raise ServiceError("INVALID_REQUEST", "hello: the session has this lane already")
        session.open_lanes[hello.lane] = None
        return session

    def _check(self, hello: Hello) -> None:
        if hello.cluster_id != self._cluster_id:
            raise ServiceError(
                "CLUSTER_MISMATCH", f"this is cluster {self._cluster_id}, not {hello.cluster_id}"
            )
        if hello.leader_id != self._hosted.node_id:
            raise ServiceError("INVALID_REQUEST", f"leader_id: this is node {self._hosted.node_id}")
        if hello.follower_id == self._hosted.node_id or not hello.session_id:
            raise ServiceError("INVALID_REQUEST", "hello: no follower, or no session")
        node = self._hosted.cluster.image.node(hello.follower_id)
        known = node.epoch if node is not None else 0
        if known > hello.follower_epoch:
            raise ServiceError(
                "STALE_NODE_EPOCH",
                f"node {hello.follower_id} registered anew, with epoch {known}",
            )
        if known < hello.follower_epoch:
            raise ServiceError(
                "UNAVAILABLE",
                f"epoch {hello.follower_epoch} of node {hello.follower_id} is not known here yet",
            )

    def close(self, session: FollowerSession, reason: ServiceError) -> None:
        """One lane of a session ended, so all of it does."""
        if self.sessions.get(session.follower_id) is session:
            del self.sessions[session.follower_id]
            _log.info("follower left", follower_id=session.follower_id, reason=str(reason))
        session.end(reason)

    def image_changed(self, delta: Delta) -> None:
        """End the sessions of registrations that are over (KIP-903). A subscriber of the
        cluster."""
        for session in list(self.sessions.values()):
            node = delta.image.node(session.follower_id)
            if node is None or node.epoch != session.node_epoch:
                reason = ServiceError("STALE_NODE_EPOCH", "the follower's registration is over")
                self.close(session, reason)

    def stop(self) -> None:
        """End all sessions and take no more."""
        self._stopping = True
        for session in list(self.sessions.values()):
            self.close(session, ServiceError("NODE_SHUTTING_DOWN", "the broker is stopping"))
