"""raft-kill finds faults: each is planted into every voter of a real quorum."""

from pathlib import Path

import pytest

from tests.campaigns.mutant import (
    answer_reads_without_a_majority,
    mutant_command,
    write_the_journal_late,
)
from tests.campaigns.raft_kill import ALL, BRIEF, VOTER, Campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_stale_reads_of_a_resumed_leader_are_found(tmp_path: Path) -> None:
    command = mutant_command(answer_reads_without_a_majority)
    # It shows only where the others have a leader before the paused one runs again.
    for seed in range(1, 6):
        campaign = Campaign(tmp_path / str(seed), seed=seed, command=command)
        await campaign.run([BRIEF] * 4, [])
        if any("was paused told" in wrong for wrong in campaign.tally.wrong):
            return
    pytest.fail("not found")


async def test_acknowledged_writes_that_no_disk_holds_are_found(tmp_path: Path) -> None:
    command = mutant_command(write_the_journal_late)
    for seed in range(1, 4):
        campaign = Campaign(tmp_path / str(seed), seed=seed, command=command)
        # The first one gives the topics time to reach the disks.
        await campaign.run([VOTER] + [ALL] * 3, [])
        if campaign.tally.broken:
            return
    pytest.fail("not found")
