"""The consumer without its network: subscription, rebalances, positions, delivery, commits.

A driver (asyncio or threads) owns one core. It reports what happens, carries out what
``take_effects`` hands out, and calls ``tick`` when ``next_tick_ms`` says so. The application's
calls become *steps*: ``begin_step`` … ``next_event`` … hand out … ``end_step``.

Pure: time comes in as ``now_ms`` (monotonic milliseconds). Not locked.
"""

from collections.abc import Iterable

from millstream._consumer.effects import (
    CloseFetch,
    CloseGroup,
    Effect,
    OpenFetch,
    OpenGroup,
    SeekCoordinator,
    SendFetch,
    SendGroup,
    UseTopic,
)
from millstream._consumer.reading import ConsumerReading
from millstream._consumer.record import TopicPartition
from millstream._consumer.subscription import Change, RebalanceEvent
from millstream._group.commits import CommitTicket
from millstream._group.types import (
    Assigned,
    CloseStream,
    Failed,
    FindCoordinator,
    GroupState,
    Lost,
    OpenStream,
    Owned,
    Revoking,
    SendToGroup,
)


class ConsumerCore(ConsumerReading):
    """See the module."""

    # --- the application's steps ----------------------------------------------------------------

    def begin_step(self, now_ms: int) -> None:
        """The application asks for records: all that it got before is processed."""
        self.delivery.step()
        self.group.polled(now_ms, waiting=True)
        self.group.check_session(now_ms)
        self.auto_commit.step(self._is_member, now_ms)
        self._drain_group(now_ms)

    def breathe(self, now_ms: int) -> None:
        """Between two records of an iteration: is the session still alive?"""
        self.group.polled(now_ms, waiting=False)
        self.group.check_session(now_ms)
        self._drain_group(now_ms)

    def commit_processed(self, names: Iterable[TopicPartition], now_ms: int) -> CommitTicket | None:
        """Commit what is processed of these partitions, with auto-commit; None: nothing to do."""
        ticket = self.auto_commit.commit_now(names, self._is_member, now_ms)
        self._stirred = True
        return ticket

    def undo_step(self) -> None:
        """The application did not get what was handed out in this step: hand it out again."""
        self.delivery.undo()
        self._stirred = True

    def end_step(self, now_ms: int) -> None:
        """The application goes to work."""
        self.group.polled(now_ms, waiting=False)

    def next_event(self) -> RebalanceEvent | None:
        """The next change to tell the application; then call ``event_told``."""
        return self._announcements.next()

    def event_told(self, event: RebalanceEvent, now_ms: int) -> None:
        """The application knows; revoked partitions are committed and then given up."""
        if event.change is not Change.REVOKED:
            return
        names = [name for name in event.partitions if name in self.fetcher.partitions]
        ticket = self.auto_commit.commit_now(names, self._is_member, now_ms)
        if ticket is None or ticket.done:
            self._releasable.append(names)
        else:
            ticket.listeners.append(lambda _: self._releasable.append(names))
        self._stirred = True

    def failure(self) -> Exception | None:
        """What to raise when nothing was handed out; None: nothing is wrong."""
        return self.fatal or self.fetcher.first_failure()

    @property
    def has_events(self) -> bool:
        """True if there is a change to tell the application."""
        return bool(self._announcements)

    @property
    def has_news(self) -> bool:
        """True if a waiting application should look again."""
        return bool(
            self._announcements
            or self.delivery.has_ready
            or self.fatal
            or self.fetcher.first_failure() is not None
        )

    # --- the network ------------------------------------------------------------------------------

    def fetched(self, stream_id: int, response: object, now_ms: int) -> None:
        """A push arrived on a fetch stream."""
        session = self._fetch_streams.get(stream_id)
        if session is not None:
            self.fetcher.received(session, response, now_ms)

    def fetch_broken(self, stream_id: int, now_ms: int) -> None:
        """A fetch stream ended."""
        session = self._fetch_streams.pop(stream_id, None)
        if session is not None:
            self.fetcher.broken(session, now_ms)
            self._stirred = True

    def stir(self) -> None:
        """Something changed that the next ``take_effects`` has to look at."""
        self._stirred = True

    def tick(self, now_ms: int) -> None:
        """Do what is due."""
        self.group.tick(now_ms)
        if self.auto_commit.tick(self.group.polling, self._is_member, now_ms):
            # The application is at work: make it come back for the next record.
            self.delivery.withdraw()
        self._stirred = True

    def next_tick_ms(self) -> int | None:
        """When ``tick`` is due; None: not before something else happens."""
        times = (
            self.group.next_tick_ms(),
            self.lookups.next_tick_ms(),
            self.positions.next_tick_ms(),
            self.fetcher.next_retry_ms(),
            self.commits.next_tick_ms(),
            self.auto_commit.next_tick_ms(),
        )
        return min((time for time in times if time is not None), default=None)

    def take_effects(self, now_ms: int) -> list[Effect]:
        """What to do now, in order."""
        if self.stirred:
            self._stirred = self.fetcher.stirred = False
            self._settle(now_ms)
        for stream_id, session in self._fetch_streams.items():
            request = session.take_request()
            if request is not None:
                self._effects.append(SendFetch(stream_id, request))
        effects, self._effects = self._effects, []
        return effects

    @property
    def stirred(self) -> bool:
        """True if the time of the next tick may have changed."""
        return self._stirred or self.fetcher.stirred

    def _settle(self, now_ms: int) -> None:
        self._drain_group(now_ms)
        for partition, error in self.fetcher.take_out_of_range():
            self.positions.reset(partition, now_ms, error)
        for call in (
            self.positions.take(now_ms),
            self.lookups.take(now_ms),
            self.commits.take(now_ms),
        ):
            if call is not None:
                self._effects.append(call)
        self.fetcher.place(now_ms, self._find_source)
        for session in self.fetcher.unopened():
            self._stream_count += 1
            self.fetcher.opened(session, self._stream_count)
            self._fetch_streams[self._stream_count] = session
            address = self._cluster.nodes[session.node_id].address
            self._effects.append(OpenFetch(self._stream_count, address))
        for session in self.fetcher.idle_sessions(now_ms):
            if session.stream_id is not None:
                self._fetch_streams.pop(session.stream_id, None)
                self._effects.append(CloseFetch(session.stream_id))
                session.broken()

    # --- the group --------------------------------------------------------------------------------

    def _drain_group(self, now_ms: int) -> None:
        while True:
            releasable, self._releasable = self._releasable, []
            for names in releasable:
                self._end_partitions(names)
                self.group.released(names, now_ms)
            outputs = self.group.take()
            if not outputs and not self._releasable:
                return
            for output in outputs:
                match output:
                    case FindCoordinator():
                        timeout_ms = max(1000, self.config.session_timeout_ms // 2)
                        self._effects.append(SeekCoordinator(timeout_ms))
                    case OpenStream(stream_id):
                        self._effects.append(OpenGroup(stream_id))
                    case SendToGroup(stream_id, request):
                        self._effects.append(SendGroup(stream_id, request))
                    case CloseStream(stream_id):
                        self._effects.append(CloseGroup(stream_id))
                    case Assigned(partitions):
                        self._assigned(partitions, now_ms)
                    case Revoking(partitions):
                        self._revoking(list(partitions))
                    case Lost(partitions):
                        self._lost(list(partitions))
                    case Failed(error):
                        self.fatal = error
            self._stirred = True

    def _assigned(self, partitions: Owned, now_ms: int) -> None:
        for name, topic_id in partitions.items():
            partition = self.fetcher.assign(name, topic_id)
            self._effects.append(UseTopic(name.topic))
            self.positions.begin(partition, now_ms)
        self._announcements.assigned(partitions)

    def _revoking(self, names: list[TopicPartition]) -> None:
        self.delivery.withdraw(names)
        self.fetcher.leave(names)
        for name in names:
            self.positions.forget(name)
        untold = self._announcements.revoked(names)
        if untold:
            self._releasable.append(untold)

    def _lost(self, names: list[TopicPartition]) -> None:
        self._announcements.lost(names)
        self._end_partitions(names)

    @property
    def left(self) -> bool:
        """True if the group knows that this member is gone, or cannot be told."""
        return self.group.state in (GroupState.IDLE, GroupState.FAILED, GroupState.AWAY)
