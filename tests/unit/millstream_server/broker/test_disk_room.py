"""Appends are refused before the disk is full, and taken again when there is room."""

import pytest

from millstream_server.broker.disk_room import DiskRoom
from millstream_server.broker.refusal import Refusal

GIB = 1 << 30


def room() -> DiskRoom:
    return DiskRoom(reserve_bytes=1000, retry_ms=100, look_after_bytes=500)


def refused(subject: DiskRoom, now_ms: int = 0, *, essential: bool = False) -> bool:
    try:
        subject.check(now_ms, essential=essential)
    except Refusal as refusal:
        return refusal.reason == "DISK_FULL" and not refusal.indeterminate
    return False


def test_the_reserve_is_for_essential_appends() -> None:
    subject = room()
    assert not refused(subject)
    assert subject.note_usage(GIB, 999)
    assert refused(subject)
    assert not refused(subject, essential=True)
    assert not subject.note_usage(GIB, 10)
    assert subject.note_usage(GIB, 1000)
    assert not refused(subject)


def test_a_small_disk_keeps_a_small_reserve() -> None:
    subject = room()
    subject.note_usage(10_000, 600)
    assert not refused(subject)
    subject.note_usage(10_000, 499)
    assert refused(subject)


def test_a_full_disk_is_tried_again_after_a_while() -> None:
    subject = room()
    assert subject.note_full("no space", 1000)
    assert not subject.note_full("no space", 1050)
    assert refused(subject, 1149)
    assert refused(subject, 1149, essential=True)
    assert not refused(subject, 1150)


@pytest.mark.parametrize("pieces", [(500,), (499, 1), (250, 250)])
def test_the_usage_is_looked_at_after_so_many_bytes(pieces: tuple[int, ...]) -> None:
    subject = room()
    assert [subject.note_append(piece) for piece in pieces][-1]
    subject.note_usage(GIB, GIB)
    assert not subject.note_append(499)


def test_a_disk_refuses_while_there_is_no_room_or_no_right_and_a_while_longer() -> None:
    subject = room()
    assert not subject.refuses(0)
    subject.note_usage(GIB, 999)
    assert subject.refuses(10**9)
    subject.note_usage(GIB, GIB)
    assert not subject.refuses(10**9)
    subject.note_full("full", 1000)
    assert subject.refuses(5_999)
    assert not subject.refuses(6_000)
    subject.note_refused(10_000)
    assert subject.refuses(14_999)
    assert not subject.refuses(15_000)
