"""A group member against a scripted coordinator, with a clock moved by hand."""

import pytest

from millstream._errors import MillstreamError
from millstream._errors.status import from_code
from millstream._group.ownership import by_topic
from millstream._group.types import (
    TRANSITIONS,
    Assigned,
    CloseStream,
    Failed,
    FindCoordinator,
    GroupState,
    Lost,
    Revoking,
    SendToGroup,
)
from millstream.v1 import group_coordinator_service_pb2 as pb
from tests.fakes.group_script import (
    HEARTBEAT_MS,
    ID,
    POLL_MS,
    SESSION_MS,
    A,
    B,
    C,
    Script,
    joined,
    owned_in,
)

# --- joining ----------------------------------------------------------------------------------


def test_a_new_member_joins_with_its_whole_subscription() -> None:
    script = Script(instance_id="i1", rack="r", client_id="c")
    script.session.subscribe({"b", "a"}, "x.*", 0)
    join = script.join()
    assert (join.group_id, join.member_id, join.member_epoch) == ("g", "", 0)
    assert (list(join.topics), join.topic_pattern) == (["a", "b"], "x.*")
    assert (join.instance_id, join.rack, join.client_id) == ("i1", "r", "c")
    assert join.rebalance_timeout_ms == POLL_MS
    assert script.session.state is GroupState.JOINED


def test_an_assignment_is_owned_and_reported_at_once() -> None:
    script = Script()
    script.session.subscribe({"logs"}, "", 0)
    script.join()
    script.take()
    script.assign((A, B), epoch=5)
    outputs = script.take()
    assert Assigned({A: ID, B: ID}) in outputs
    (heartbeat,) = [one.request for one in outputs if isinstance(one, SendToGroup)]
    assert (owned_in(heartbeat), heartbeat.heartbeat.member_epoch) == ([0, 1], 5)


@pytest.mark.parametrize(
    "code", ["FENCED_INSTANCE", "GROUP_FULL", "INVALID_GROUP_ID", "UNSUPPORTED_ASSIGNOR"]
)
def test_a_refusal_for_good_fails_the_member(code: str) -> None:
    script = joined()
    script.break_stream(code)
    outputs = script.take()
    assert [type(output) for output in outputs] == [Lost, Failed]
    assert script.session.state is GroupState.FAILED
    script.after(100_000)
    assert script.take() == []


@pytest.mark.parametrize(
    "code", ["NOT_COORDINATOR", "COORDINATOR_LOADING", "UNAVAILABLE", "UNRELEASED_INSTANCE"]
)
def test_a_passing_refusal_is_tried_again_and_costs_nothing(code: str) -> None:
    script = joined()
    script.break_stream(code)
    script.after(200)
    join = script.join()
    assert (join.member_id, join.member_epoch) == ("m1", 2)
    assert [number for entry in join.owned for number in entry.partitions] == [0, 1]
    assert script.session.owned == {A: ID, B: ID}
    assert not any(isinstance(output, Lost) for output in script.log)


@pytest.mark.parametrize("code", ["UNKNOWN_MEMBER", "FENCED_MEMBER_EPOCH"])
def test_a_fenced_member_loses_everything_and_joins_as_a_new_one(code: str) -> None:
    script = joined()
    script.break_stream(code)
    (lost,) = script.take()
    assert isinstance(lost, Lost)
    assert lost.partitions == {A: ID, B: ID}
    script.after(0)
    join = script.join("m2")
    assert (join.member_id, join.member_epoch, list(join.owned)) == ("", 0, [])


def test_tries_get_rarer_until_one_works() -> None:
    script = Script()
    script.session.subscribe({"logs"}, "", 0)
    times = []
    for _ in range(8):
        script.take()
        script.session.not_found(from_code("COORDINATOR_LOADING"), script.now_ms)
        due_ms = script.session.next_tick_ms()
        assert due_ms is not None
        times.append(due_ms - script.now_ms)
        script.after(times[-1])
    assert times == [100, 200, 250, 250, 250, 250, 250, 250]


# --- heartbeats and the session ---------------------------------------------------------------


def test_heartbeats_go_out_at_the_interval() -> None:
    script = joined()
    sent = []
    for _ in range(50):
        script.after(100)
        for request in script.sent("heartbeat"):
            sent.append(script.now_ms)
            script.ack(request)
    assert sent == [1000, 2000, 3000, 4000, 5000]


def test_the_session_ends_counted_from_the_send_of_the_last_answered_heartbeat() -> None:
    script = joined()
    script.after(HEARTBEAT_MS)
    (request,) = script.sent("heartbeat")
    script.after(700)
    script.ack(request)
    assert script.session.session_end_ms == HEARTBEAT_MS + SESSION_MS
    script.mute = True  # type: ignore[attr-defined]
    script.after(SESSION_MS - 701)
    assert script.session.owned == {A: ID, B: ID}
    script.after(1)
    assert script.session.owned == {}
    assert any(isinstance(output, Lost) for output in script.take())


def test_a_process_that_slept_through_its_session_loses_before_it_sends() -> None:
    script = joined()
    script.now_ms += SESSION_MS + 5_000
    script.session.tick(script.now_ms)
    outputs = script.take()
    assert isinstance(outputs[0], Lost)
    assert not any(
        isinstance(one, SendToGroup) and one.request.HasField("heartbeat") for one in outputs
    )


def test_a_coordinator_that_falls_silent_is_looked_up_again_before_the_session_ends() -> None:
    script = joined()
    script.after(HEARTBEAT_MS + SESSION_MS // 2)
    outputs = script.take()
    assert any(isinstance(output, CloseStream) for output in outputs)
    assert isinstance(outputs[-1], FindCoordinator)
    assert script.session.owned == {A: ID, B: ID}


def test_after_the_session_the_same_member_comes_back_without_partitions() -> None:
    script = joined()
    script.break_stream()
    script.after(SESSION_MS)
    script.take()
    script.session.found(script.now_ms)
    (request,) = script.sent("join")
    assert (request.join.member_id, list(request.join.owned)) == ("m1", [])


def test_messages_of_an_old_stream_are_ignored() -> None:
    script = joined()
    old = script.stream_id
    script.break_stream()
    script.after(200)
    script.join()
    message = pb.SessionResponse(assignment=pb.Assignment(member_epoch=9))
    script.session.received(old, message, script.now_ms)
    script.session.broken(old, from_code("UNKNOWN_MEMBER"), script.now_ms)
    assert script.session.owned == {A: ID, B: ID}
    assert script.session.member_epoch == 1


# --- revocation -------------------------------------------------------------------------------


def test_a_revoked_partition_is_reported_until_it_is_released() -> None:
    script = joined()
    script.assign((A,), epoch=3)
    assert Revoking({B: ID}) in script.take()
    script.after(HEARTBEAT_MS)
    (request,) = script.sent("heartbeat")
    assert owned_in(request) == [0, 1]
    script.session.released([B], script.now_ms)
    (request,) = script.sent("heartbeat")
    assert (owned_in(request), request.heartbeat.member_epoch) == ([0], 3)


def test_an_exchange_gives_up_and_takes_over_in_one_assignment() -> None:
    script = joined()
    script.assign((A, C), epoch=3)
    outputs = script.take()
    assert Revoking({B: ID}) in outputs
    assert Assigned({C: ID}) in outputs
    script.session.released([B], script.now_ms)
    (request,) = script.sent("heartbeat")
    assert owned_in(request) == [0, 2]


def test_a_partition_granted_again_while_it_is_given_up_was_never_left_out() -> None:
    script = joined()
    script.assign((A,), epoch=3)
    script.assign((A, B), epoch=4)
    script.take()
    script.session.released([B], script.now_ms)
    outputs = script.take()
    assert Assigned({B: ID}) in outputs
    for output in outputs:
        if isinstance(output, SendToGroup):
            assert owned_in(output.request) == [0, 1]


def test_a_topic_made_again_is_given_up_before_it_is_taken() -> None:
    script = joined()
    other = b"o" * 16
    assignment = pb.Assignment(member_epoch=3, partitions=by_topic({A: other, B: ID}))
    script.answer(assignment=assignment)
    outputs = script.take()
    assert Revoking({A: ID}) in outputs
    assert not any(isinstance(output, Assigned) for output in outputs)
    script.session.released([A], script.now_ms)
    assert Assigned({A: other}) in script.take()


def test_the_same_assignment_again_changes_nothing() -> None:
    script = joined()
    script.assign((A, B), epoch=2)
    assert script.take() == []


# --- polls ------------------------------------------------------------------------------------


def test_a_member_that_does_not_poll_leaves_and_returns_with_the_next_poll() -> None:
    script = joined()
    script.session.polled(script.now_ms, waiting=False)
    end_ms = script.now_ms + POLL_MS
    while script.now_ms < end_ms:
        script.after(HEARTBEAT_MS)
        for request in script.sent("heartbeat"):
            script.ack(request)
    assert script.session.state is GroupState.AWAY
    kinds = [
        output.request.WhichOneof("kind") if isinstance(output, SendToGroup) else type(output)
        for output in script.log
    ]
    assert kinds[-3:] == ["leave", CloseStream, Lost]
    script.after(POLL_MS)
    assert script.take() == []
    script.session.polled(script.now_ms, waiting=True)
    assert script.join("m2").member_id == ""


def test_a_member_that_waits_in_a_poll_is_never_silent() -> None:
    script = joined()
    for _ in range(100):
        script.after(HEARTBEAT_MS)
        for request in script.sent("heartbeat"):
            script.ack(request)
    assert script.session.state is GroupState.JOINED


# --- leaving ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("instance_id", "temporary"), [("", False), ("i1", True)])
def test_leaving_is_said_at_once(instance_id: str, temporary: bool) -> None:
    script = joined(instance_id=instance_id)
    script.session.leave(script.now_ms, for_good=False)
    (request,) = script.sent("leave")
    assert (request.leave.member_id, request.leave.temporary) == ("m1", temporary)
    script.answer(request.correlation_id, left=pb.Left())
    assert script.session.state is GroupState.IDLE
    assert script.session.owned == {}


@pytest.mark.parametrize(("instance_id", "temporary"), [("", False), ("i1", True)])
def test_a_member_that_leaves_while_it_joins_leaves_as_soon_as_it_knows_its_id(
    instance_id: str, temporary: bool
) -> None:
    script = Script(instance_id=instance_id)
    script.session.subscribe({"logs"}, "", 0)
    script.take()
    script.session.found(0)
    (join,) = script.sent("join")
    script.session.leave(0, for_good=False)
    assert script.sent("leave") == []
    script.answer(join.correlation_id, joined=pb.Joined(member_id="m7", member_epoch=1))
    (request,) = script.sent("leave")
    assert (request.leave.member_id, request.leave.temporary) == ("m7", temporary)
    script.answer(request.correlation_id, left=pb.Left())
    assert script.session.state is GroupState.IDLE


def test_a_member_that_subscribes_while_it_leaves_joins_as_a_new_one() -> None:
    script = joined()
    script.session.leave(script.now_ms, for_good=True)
    script.session.subscribe({"more"}, "", script.now_ms)
    join = script.join("m2")
    assert (join.member_id, list(join.topics)) == ("", ["more"])
    (left, *_) = [one for one in script.log if isinstance(one, CloseStream)]
    assert left.stream_id < script.stream_id


def test_leaving_does_not_wait_for_ever() -> None:
    script = joined()
    script.session.leave(script.now_ms, for_good=True)
    script.after(SESSION_MS)
    assert script.session.state is GroupState.IDLE


def test_a_changed_topic_list_travels_with_a_heartbeat() -> None:
    script = joined()
    script.session.subscribe({"logs", "more"}, "", script.now_ms)
    (request,) = script.sent("heartbeat")
    assert list(request.heartbeat.topics) == ["logs", "more"]


def test_a_changed_pattern_travels_with_a_new_join_that_keeps_the_assignment() -> None:
    script = joined()
    script.session.subscribe(set(), "l.*", script.now_ms)
    script.after(0)
    join = script.join()
    assert (list(join.topics), join.topic_pattern, join.member_id) == ([], "l.*", "m1")
    assert script.session.owned == {A: ID, B: ID}


# --- the table --------------------------------------------------------------------------------


def test_every_state_can_be_left_and_reached() -> None:
    assert {state for state, _ in TRANSITIONS} == set(GroupState)
    assert set(TRANSITIONS.values()) == set(GroupState)


def test_an_impossible_event_raises_and_changes_nothing() -> None:
    session = Script().session
    with pytest.raises(AssertionError):
        session._go(next(event for state, event in TRANSITIONS if state is GroupState.JOINED))
    assert session.state is GroupState.IDLE


def test_errors_of_a_failed_member_are_the_coordinators_own() -> None:
    script = joined()
    script.break_stream("FENCED_INSTANCE")
    (failed,) = [output for output in script.take() if isinstance(output, Failed)]
    assert isinstance(failed.error, MillstreamError)
    assert failed.error.fatal
