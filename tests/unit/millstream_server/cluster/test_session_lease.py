"""A session counts from the send of an answered heartbeat, once the image is as new as that."""

from millstream_server.cluster.session_lease import SessionLease


def test_a_grant_takes_effect_when_the_image_has_its_version() -> None:
    lease = SessionLease()
    assert not lease.is_held(10, 0)
    lease.grant(11, 3_000)
    assert not lease.is_held(10, 100)
    assert lease.is_held(11, 100)
    assert lease.is_held(11, 2_999)
    assert not lease.is_held(11, 3_000)


def test_answers_under_an_old_image_do_not_prolong_a_session() -> None:
    lease = SessionLease()
    lease.grant(10, 3_000)
    for beat in range(1, 20):
        lease.grant(11 + beat // 2, 3_000 + 500 * beat)
    assert lease.is_held(10, 2_999)
    assert not lease.is_held(10, 3_000)
    assert lease.is_held(30, 9_000)


def test_grants_of_one_version_count_by_the_latest() -> None:
    lease = SessionLease()
    for beat in range(1_000):
        lease.grant(10, 3_000 + beat)
    lease.grant(10, 1_000)
    assert lease.is_held(10, 3_998)
    assert not lease.is_held(10, 3_999)


def test_the_grants_that_wait_are_bounded_and_the_newest_are_kept() -> None:
    lease = SessionLease()
    for version in range(1_000):
        lease.grant(version, version)
    assert lease.is_held(999, 998)
    assert not lease.is_held(0, 999)


def test_a_lost_session_grants_nothing_any_more() -> None:
    lease = SessionLease()
    assert not lease.lose()
    lease.grant(10, 3_000)
    lease.grant(20, 4_000)
    assert lease.is_held(10, 0)
    assert lease.lose()
    assert not lease.is_held(20, 0)
