"""Random lives of one partition: who may lead cleanly holds everything acknowledged.

Every rule of invariants 4 to 8 that the quorum decides takes part; each kind of step and of
election has to have happened, or the runs show nothing.
"""

from collections import Counter

import pytest

from millstream_raft.delta import ELECTION_KINDS
from tests.fakes.replica_model import ReplicaModel

SEEDS = 60
STEPS = 150


@pytest.mark.parametrize("flush_mode", ["fsync", "page_cache"])
@pytest.mark.parametrize(("replicas", "min_isr"), [(1, 1), (3, 2)])
def test_a_clean_leader_holds_everything_acknowledged(
    flush_mode: str, replicas: int, min_isr: int
) -> None:
    taken: Counter[str] = Counter()
    elections: Counter[str] = Counter()
    for seed in range(SEEDS):
        model = ReplicaModel(seed, flush_mode=flush_mode, replicas=replicas, min_isr=min_isr)
        try:
            for _ in range(STEPS):
                model.step()
        except AssertionError as error:
            error.add_note(f"seed {seed}, step {len(model.path)}: {' '.join(model.path[-30:])}")
            raise
        taken.update(model.taken)
        elections.update(model.elections)
    assert set(elections) == set(ELECTION_KINDS)
    assert all(taken[name] for name in model.steps), taken
