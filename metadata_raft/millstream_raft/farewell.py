"""What a leader that stops says, so that the others need not wait for its silence.

The voter that holds most stands for election at once; the others, told first, may vote for it at
once. Whatever of that gets lost costs an election time-out and nothing else: to stand early and to
vote early is always safe, which is also why the words of a former leader need no proof.
"""

from collections.abc import Mapping

from millstream_raft.raft_messages import LeaderLeaves


def farewells(match_indexes: Mapping[int, int]) -> list[tuple[int, LeaderLeaves]]:
    """The messages of a leader that stops, in order, to the voters connected, of which it knows how
    far their logs match its own. Pure."""
    if not match_indexes:
        return []
    heir = max(match_indexes, key=lambda voter: (match_indexes[voter], -voter))
    others = [
        (voter, LeaderLeaves(stand=False)) for voter in sorted(match_indexes) if voter != heir
    ]
    return [*others, (heir, LeaderLeaves(stand=True))]
