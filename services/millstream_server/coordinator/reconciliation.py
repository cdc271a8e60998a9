"""How one member gets from what it owns to what it should own (KIP-848, invariants 25 and 26).

A member first gives up what it should not own and, while it may still use any of it, keeps its
epoch. Only then does it move to the target's epoch and take what is free; what others still hold
it gets at the same epoch, when they let go.
"""

from collections.abc import Callable
from dataclasses import replace

from millstream_server.coordinator.records import CurrentAssignment, Partition, Partitions
from millstream_server.coordinator.refusal import Refusal


def next_assignment(
    current: CurrentAssignment,
    *,
    target: Partitions,
    target_epoch: int,
    owned: Partitions,
    heard_epoch: int,
    is_free: Callable[[Partition], bool],
) -> CurrentAssignment:
    """The next step of a member, ``current`` itself if there is none.

    ``owned`` is what the member reported last, after it heard of ``current``; ``heard_epoch`` the
    newest epoch that it is known to have heard of; ``is_free`` tells whether nobody else holds a
    partition.
    """
    still_used = current.revoking & owned
    if still_used:
        return current if still_used == current.revoking else replace(current, revoking=still_used)
    kept = current.assigned & target
    leaving = (current.assigned - kept) & owned
    if leaving:
        return replace(current, assigned=kept, revoking=leaving)
    granted = frozenset(filter(is_free, target - kept))
    assigned = kept | granted
    epoch_moves = target_epoch != current.member_epoch
    following = CurrentAssignment(
        member_epoch=target_epoch,
        previous_epoch=heard_epoch if epoch_moves else current.previous_epoch,
        # The same object where it is the same set makes comparing cheap.
        assigned=target if len(assigned) == len(target) else assigned,
        away=current.away,
    )
    return current if following == current else following


def check_member_epoch(
    current: CurrentAssignment, epoch: int, owned: Partitions, heard_epoch: int | None
) -> None:
    """Check what a member says of itself (invariant 26). Raises Refusal FENCED_MEMBER_EPOCH.

    An older epoch is accepted if the member may not have heard of a newer one: pushes can be lost
    or under way, several in a row. ``heard_epoch``: newest one known to be heard on this stream.
    Whatever its epoch, a member that uses partitions which it does not hold is fenced.
    """
    if epoch > current.member_epoch:
        raise Refusal(
            "FENCED_MEMBER_EPOCH",
            f"member epoch {epoch} is ahead of {current.member_epoch}, the newest one given out",
        )
    oldest = current.previous_epoch
    if heard_epoch is not None:
        oldest = min(oldest, heard_epoch)
    if epoch < current.member_epoch and epoch < oldest:
        raise Refusal(
            "FENCED_MEMBER_EPOCH",
            f"member epoch {epoch} is behind {oldest}; the member is at {current.member_epoch}",
        )
    if not owned <= current.held:
        raise Refusal(
            "FENCED_MEMBER_EPOCH",
            f"the member uses {len(owned - current.held)} partitions that it was not given",
        )
