"""Since when a follower is behind, by what it reports."""

import pytest

from millstream_server.broker.replication.progress import NO_END, FollowerProgress, Followers

ELIGIBLE = {2: 20, 3: 30}


def report(
    followers: Followers, end: int, leader_end: int, now_ms: int, *, node_epoch: int = 20
) -> None:
    followers.report(2, (node_epoch, 0), (end, end), leader_end, now_ms)


def joiners(followers: Followers, leader_end: int, now_ms: int) -> frozenset[int]:
    return followers.about_to_join([2, 3], ELIGIBLE, leader_end, now_ms, 100)


def test_at_the_leaders_end_there_is_no_lag() -> None:
    followers = Followers()
    report(followers, 10, 10, 0)
    assert followers.lag_ms(2, 10, 5_000) == 0


def test_the_lag_counts_from_when_it_was_last_caught_up() -> None:
    followers = Followers()
    report(followers, 10, 10, 1_000)
    assert followers.lag_ms(2, 12, 1_500) == 500


def test_reaching_what_the_leader_had_at_the_last_report_is_being_caught_up_then() -> None:
    followers = Followers()
    report(followers, 0, 50, 1_000)
    assert followers.lag_ms(2, 50, 1_400) == 400
    report(followers, 49, 90, 2_000)  # not what the leader had at 1,000
    assert followers.lag_ms(2, 90, 2_000) == 1_000
    report(followers, 90, 120, 3_000)  # what it had at 2,000
    assert followers.lag_ms(2, 120, 3_000) == 1_000


@pytest.mark.parametrize(("interval_ms", "delay_ms"), [(1, 3), (1, 10), (5, 20), (10, 15)])
def test_a_steady_stream_leaves_nobody_further_behind_than_two_rounds(
    interval_ms: int, delay_ms: int
) -> None:
    """Each batch is reported after the delay: the next ones are on their way, and no report ever
    reaches what the leader had at the one before."""
    followers = Followers()
    worst_ms = 0
    for now_ms in range(1, 20_000):
        leader_end = now_ms // interval_ms
        if now_ms >= delay_ms and (now_ms - delay_ms) % interval_ms == 0:
            report(followers, (now_ms - delay_ms) // interval_ms, leader_end, now_ms)
        worst_ms = max(worst_ms, followers.lag_ms(2, leader_end, now_ms))
    assert delay_ms <= worst_ms <= 2 * delay_ms + interval_ms


def test_a_follower_that_falls_behind_lags_ever_more() -> None:
    followers = Followers()
    report(followers, 10, 10, 0)
    for now_ms in range(10, 10_000, 10):
        report(followers, 10 + now_ms // 2, 10 + now_ms, now_ms)  # half as fast as the leader
        assert now_ms // 2 - 20 <= followers.lag_ms(2, 10 + now_ms, now_ms)


def test_a_follower_that_is_silent_at_the_end_stays_caught_up_while_connected() -> None:
    followers = Followers()
    report(followers, 10, 10, 0)
    followers.look([2], 10, 5_000)
    assert followers.lag_ms(2, 11, 5_001) == 1
    followers.left(2)
    followers.look([2], 10, 9_000)
    assert followers.lag_ms(2, 11, 9_000) == 4_000


def test_a_follower_that_never_reported_lags_from_the_first_look() -> None:
    followers = Followers()
    assert followers.lag_ms(3, 10, 1_000) == 0
    followers.look([2, 3], 10, 1_000)
    assert followers.lag_ms(3, 10, 1_700) == 700


def test_only_synced_ends_count_where_that_is_asked() -> None:
    followers = Followers()
    followers.report(2, (20, 0), (10, 4), 10, 0)
    assert followers.ends == {2: 4}
    followers.count_synced(fsync=False)
    assert followers.ends == {2: 10}
    followers.count_synced(fsync=True)
    assert followers.ends == {2: 4}


def test_a_new_incarnation_may_have_less() -> None:
    followers = Followers()
    report(followers, 10, 10, 0)
    report(followers, 6, 10, 1, node_epoch=21)
    assert followers.ends == {2: 6}
    assert not followers.is_known(2, ELIGIBLE)


def test_rule_10_the_mark_waits_for_who_copies_closely() -> None:
    followers = Followers()
    report(followers, 5, 10, 0)
    assert joiners(followers, 10, 0) == frozenset()  # nothing shows yet that it keeps up
    report(followers, 10, 20, 50)
    assert joiners(followers, 20, 50) == {2}
    assert joiners(followers, 20, 151) == frozenset()  # it does not


def test_rule_10_the_mark_waits_for_nobody_who_left_or_registered_anew() -> None:
    followers = Followers()
    report(followers, 10, 10, 0)
    assert joiners(followers, 10, 0) == {2}
    assert followers.about_to_join([3], ELIGIBLE, 10, 0, 100) == frozenset()
    assert followers.about_to_join([2], {2: 21}, 10, 0, 100) == frozenset()
    assert followers.about_to_join([2], {}, 10, 0, 100) == frozenset()
    followers.left(2)
    assert joiners(followers, 10, 0) == frozenset()


def test_rule_9_another_leader_epoch_knows_nothing_of_the_followers() -> None:
    followers = Followers()
    report(followers, 10, 10, 0)
    followers.clear()
    assert (followers.ends, followers.node_epoch(2)) == ({}, 0)
    assert FollowerProgress(0).counting_end(fsync=True) == NO_END
