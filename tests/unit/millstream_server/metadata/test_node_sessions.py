"""Sessions by a clock that is told to move."""

from millstream_raft.image import RequestSession
from millstream_server.metadata.idle_sessions import IdleSessions
from millstream_server.metadata.node_sessions import NodeSessions
from tests.fakes.manual_clock import ManualClock

TIMEOUT_MS = 3_000


def test_silence_for_the_time_out_expires_a_session_and_heartbeats_prevent_it() -> None:
    clock, sessions = ManualClock(), NodeSessions()
    sessions.open(1, 10, TIMEOUT_MS, clock.monotonic_ms())
    sessions.open(2, 11, TIMEOUT_MS, clock.monotonic_ms())
    clock.advance(TIMEOUT_MS - 1)
    assert sessions.expired(clock.monotonic_ms()) == []
    sessions.renew(1, 10, clock.monotonic_ms())
    clock.advance(1)
    assert sessions.expired(clock.monotonic_ms()) == [(2, 11)]
    assert sessions.next_deadline_ms() == clock.monotonic_ms()


def test_heartbeats_of_an_older_epoch_renew_nothing() -> None:
    clock, sessions = ManualClock(), NodeSessions()
    sessions.open(1, 10, TIMEOUT_MS, clock.monotonic_ms())
    clock.advance(TIMEOUT_MS)
    sessions.renew(1, 9, clock.monotonic_ms())
    assert sessions.expired(clock.monotonic_ms()) == [(1, 10)]
    sessions.end(1, 9)
    assert sessions.expired(clock.monotonic_ms()) == [(1, 10)]
    sessions.end(1, 10)
    assert sessions.expired(clock.monotonic_ms()) == []


def test_a_new_controller_gives_everybody_the_whole_time_out_and_suspects_nobody() -> None:
    clock, sessions = ManualClock(), NodeSessions()
    sessions.open(1, 10, TIMEOUT_MS, clock.monotonic_ms())
    sessions.suspect(1, 10)
    clock.advance(TIMEOUT_MS - 1)
    sessions.restart([(1, 10, TIMEOUT_MS), (2, 11, TIMEOUT_MS)], clock.monotonic_ms())
    assert not sessions.is_suspected(1, 10)
    clock.advance(TIMEOUT_MS - 1)
    assert sessions.expired(clock.monotonic_ms()) == []
    clock.advance(1)
    assert sorted(sessions.expired(clock.monotonic_ms())) == [(1, 10), (2, 11)]


def test_early_fencing_needs_a_suspicion_and_fewer_than_half_suspected() -> None:
    clock, sessions = ManualClock(), NodeSessions()
    for node_id in (1, 2, 3, 4):
        sessions.open(node_id, node_id, TIMEOUT_MS, clock.monotonic_ms())
    assert not sessions.may_fence_early(1, 1)
    sessions.suspect(1, 1)
    assert sessions.may_fence_early(1, 1)
    sessions.suspect(2, 2)
    assert not sessions.may_fence_early(1, 1)
    sessions.open(2, 2, TIMEOUT_MS, clock.monotonic_ms())
    assert sessions.may_fence_early(1, 1)
    assert not sessions.may_fence_early(1, 7)


def test_a_node_alone_is_never_fenced_early() -> None:
    clock, sessions = ManualClock(), NodeSessions()
    sessions.open(1, 1, TIMEOUT_MS, clock.monotonic_ms())
    sessions.suspect(1, 1)
    assert not sessions.may_fence_early(1, 1)


def test_request_sessions_are_idle_after_their_time_without_use() -> None:
    clock, idle = ManualClock(), IdleSessions(1_000)
    sessions = {1: RequestSession(1, used_version=5), 2: RequestSession(2, used_version=6)}
    assert idle.idle(sessions, clock.monotonic_ms()) == []
    clock.advance(999)
    assert idle.idle(sessions, clock.monotonic_ms()) == []
    sessions[2] = RequestSession(2, used_version=9)
    clock.advance(1)
    assert idle.idle(sessions, clock.monotonic_ms()) == [1]
    idle.clear()
    assert idle.idle(sessions, clock.monotonic_ms()) == []
