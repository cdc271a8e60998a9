"""Commits of a group member: in order, across epochs and streams, with a deadline."""

from typing import Any

from millstream._consumer.record import OffsetAndMetadata
from millstream._errors import TimedOutError, UnknownMemberError
from tests.fakes.group_script import HEARTBEAT_MS, ID, A, B, C, commit, joined


def test_commits_are_answered_one_after_another() -> None:
    script = joined()
    first, second = commit(script, A, 10), commit(script, A, 20)
    (request,) = script.sent("commit")
    assert (request.commit.offsets[0].offset, request.commit.member_epoch) == (10, 2)
    script.commit_result(request, "")
    assert first.done  # type: ignore[attr-defined]
    (request,) = script.sent("commit")
    assert request.commit.offsets[0].offset == 20
    script.commit_result(request, "")
    assert second.done  # type: ignore[attr-defined]
    assert second.errors == {}  # type: ignore[attr-defined]


def test_a_commit_that_nobody_answered_yet_did_not_succeed() -> None:
    script = joined()
    ticket: Any = commit(script, A, 10)
    error = ticket.first_error()
    assert isinstance(error, TimedOutError)
    assert error.indeterminate
    (request,) = script.sent("commit")
    script.commit_result(request, "")
    assert ticket.first_error() is None


def test_a_stale_commit_goes_again_with_the_new_epoch_and_before_later_ones() -> None:
    script = joined()
    first, second = commit(script, A, 10), commit(script, A, 20)
    (request,) = script.sent("commit")
    script.assign((A, B, C), epoch=3)
    script.commit_result(request, "STALE_MEMBER_EPOCH")
    (request,) = script.sent("commit")
    assert (request.commit.offsets[0].offset, request.commit.member_epoch) == (10, 3)
    script.commit_result(request, "")
    (request,) = script.sent("commit")
    assert request.commit.offsets[0].offset == 20
    assert first.done  # type: ignore[attr-defined]
    assert not second.done  # type: ignore[attr-defined]


def test_a_stale_commit_of_a_partition_that_is_gone_fails() -> None:
    script = joined()
    ticket = commit(script, C, 10)
    (request,) = script.sent("commit")
    script.commit_result(request, "STALE_MEMBER_EPOCH")
    assert ticket.errors[C].code == "STALE_MEMBER_EPOCH"  # type: ignore[attr-defined]


def test_an_unanswered_commit_goes_again_on_the_next_stream() -> None:
    script = joined()
    ticket = commit(script, A, 10)
    script.sent("commit")
    script.break_stream()
    script.after(200)
    script.join()
    (request,) = script.sent("commit")
    assert request.commit.offsets[0].offset == 10
    script.commit_result(request, "")
    assert ticket.done  # type: ignore[attr-defined]


def test_commits_fail_when_the_partitions_are_lost() -> None:
    script = joined()
    ticket = commit(script, A, 10)
    script.break_stream("UNKNOWN_MEMBER")
    assert isinstance(ticket.errors[A], UnknownMemberError)  # type: ignore[attr-defined]


def test_a_commit_has_a_deadline() -> None:
    script = joined()
    ticket = commit(script, A, 10)
    for _ in range(31):
        script.after(HEARTBEAT_MS)
        for request in script.sent("heartbeat"):
            script.ack(request)
    assert ticket.errors[A].code == "TIMED_OUT"  # type: ignore[attr-defined]


def test_results_are_kept_apart_by_partition() -> None:
    script = joined()
    offsets = {name: (ID, OffsetAndMetadata(5)) for name in (A, B)}
    ticket = script.session.commit(offsets, script.now_ms, script.now_ms + 30_000)
    (request,) = script.sent("commit")
    script.commit_result(request, "", "INVALID_COMMIT_OFFSET")
    assert ticket.done
    assert {name: error.code for name, error in ticket.errors.items()} == {
        B: "INVALID_COMMIT_OFFSET"
    }


def test_a_commit_for_a_deleted_topic_fails_at_once() -> None:
    script = joined()
    ticket: Any = commit(script, A, 5)
    (request,) = script.sent("commit")
    script.commit_result(request, "UNKNOWN_TOPIC")
    assert ticket.done
    assert ticket.errors[A].code == "UNKNOWN_TOPIC"
