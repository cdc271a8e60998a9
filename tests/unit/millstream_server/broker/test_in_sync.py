"""Who counts for the high watermark while proposals are under way (KIP-497)."""

from millstream_server.broker.in_sync import InSyncSet, high_watermark, may_join


def in_sync(*members: int, min_size: int = 2, epoch: int = 5) -> InSyncSet:
    found = InSyncSet()
    found.committed_change(members, epoch, min_size)
    return found


def test_rule_10_a_joiner_counts_at_once_and_a_leaver_until_the_image_has_it() -> None:
    found = in_sync(1, 2)
    assert found.propose((1, 3)) == 5
    assert found.maximal == {1, 2, 3}
    found.committed_change((1, 3), 6, 2)
    assert found.maximal == {1, 3}


def test_rule_10_an_accepted_answer_alone_changes_nothing() -> None:
    found = in_sync(1, 2, 3)
    found.propose((1, 2))
    assert found.proposed
    assert found.maximal == {1, 2, 3}  # whatever was answered: the image decides


def test_rule_10_a_definite_refusal_withdraws() -> None:
    found = in_sync(1, 2)
    found.withdraw(found.propose((1, 2, 3)))
    assert found.maximal == {1, 2}
    assert not found.proposed


def test_rule_10_a_proposal_in_doubt_stands_whatever_becomes_of_later_ones() -> None:
    found = in_sync(1, 2)
    found.doubt(found.propose((1, 2, 3)))
    # The first one may be what made the second one fail.
    found.withdraw(found.propose((1, 2)))
    assert found.maximal == {1, 2, 3}
    found.committed_change((1, 2), 6, 2)
    assert found.maximal == {1, 2}
    assert not found.in_doubt


def test_an_answer_to_a_proposal_that_the_image_passed_changes_nothing() -> None:
    found = in_sync(1, 2)
    epoch = found.propose((1, 2, 3))
    found.committed_change((1,), 6, 2)
    found.propose((1, 3))
    found.withdraw(epoch)
    found.doubt(epoch)
    assert found.maximal == {1, 3}
    assert not found.in_doubt


def test_an_older_image_changes_nothing() -> None:
    found = in_sync(1, 2)
    assert not found.committed_change((1,), 4, 1)
    assert found.committed == {1, 2}


def test_the_same_image_again_keeps_what_is_proposed() -> None:
    found = in_sync(1, 2)
    found.propose((1, 2, 3))
    found.committed_change((1, 2), 5, 2)
    assert found.maximal == {1, 2, 3}


def test_rule_10_the_mark_waits_for_those_about_to_join() -> None:
    found = in_sync(1, 2)
    found.set_joiners(frozenset({3}))
    assert high_watermark(0, {1: 9, 2: 8, 3: 4}, found) == 4
    found.set_joiners(frozenset())
    assert high_watermark(4, {1: 9, 2: 8, 3: 4}, found) == 8


def test_rule_10_the_mark_is_the_least_end_and_never_goes_back() -> None:
    found = in_sync(1, 2)
    assert high_watermark(5, {1: 9, 2: 7, 3: 1}, found) == 7
    assert high_watermark(8, {1: 9, 2: 7}, found) == 8
    assert high_watermark(5, {1: 9}, found) == 5  # a member that said nothing


def test_rule_10_below_the_minimum_the_mark_stands() -> None:
    found = in_sync(1)
    found.propose((1, 2))  # the committed set counts, not the proposed one
    assert high_watermark(5, {1: 9, 2: 9}, found) == 5


def test_rule_12_a_joiner_needs_the_mark_and_the_start_of_the_epoch() -> None:
    assert may_join(10, 10, 10)
    assert not may_join(9, 10, 0)
    assert not may_join(9, 0, 10)
