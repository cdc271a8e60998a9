"""A real metadata quorum under load is killed, stopped and damaged; short forms of raft-kill."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.campaigns.quorum_damage import Damage, Fate, flip_bit, truncate
from tests.campaigns.raft_kill import ALL, BRIEF, LEADER, PAUSE, Campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def run(
    folder: Path, rounds: Sequence[str], damages: Sequence[Damage], both: Sequence[Damage] = ()
) -> Campaign:
    campaign = Campaign(folder, seed=1)
    await campaign.run(rounds, damages, both)
    assert campaign.tally.lost == []
    assert campaign.tally.violations == []
    assert campaign.tally.wrong == []
    assert campaign.tally.undecided == 0
    assert campaign.record.acknowledged > 100
    assert campaign.record.repeated > 0
    return campaign


async def test_killed_and_stopped_voters_lose_nothing_and_tell_no_old_story(tmp_path: Path) -> None:
    campaign = await run(tmp_path, [LEADER, ALL, PAUSE, BRIEF], [])
    assert campaign.tally.kills == 4
    assert campaign.record.retried > 0
    assert campaign.tally.answered_paused > 0


async def test_a_damaged_voter_refuses_or_comes_back_right(tmp_path: Path) -> None:
    damages = [Damage("metadata/vote", flip_bit), Damage("metadata/journal", truncate)]
    both = [Damage("metadata/snapshot", flip_bit)]
    campaign = await run(tmp_path, [], damages, both)
    assert campaign.tally.fates["flip_bit of metadata/vote"] == {Fate.REFUSED: 1}
    assert campaign.tally.fates["truncate of metadata/journal"].total() == 1
    assert campaign.tally.fates_of_two["flip_bit of metadata/snapshot"] == {Fate.REFUSED: 2}
