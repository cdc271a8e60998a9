"""Long seeded lives of a group, with the weights of a real one: mostly traffic, some trouble.

The stateful test next door finds short examples; these go deep: hundreds of deliveries between two
troubles, so that grants, revocations and crashes meet in every order.
"""

from random import Random

import pytest

from millstream_server.coordinator.group import GroupState
from millstream_server.coordinator.record_codec import decode_record
from millstream_server.coordinator.records import Record
from tests.fakes.group_rules import contents, replayed
from tests.fakes.group_world import GROUP, Client, GroupWorld

TOPICS = [("a",), ("b",), ("a", "b")]
SEEDS = 40
STEPS = 250


class Life:
    """One life."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.world = GroupWorld({"a": 3, "b": 2})
        for _ in range(self._random.randint(1, 3)):
            self.world.add(("a", "b"), self._random.choice(["", "i1"]))
        self.world.settle(4)
        self._actions = [
            (30, lambda: self.world.serve_one(self._client())),
            (30, self.world.store_one),
            (30, lambda: self.world.receive_one(self._client())),
            (10, lambda: self.world.drain(self._client())),
            (10, lambda: self.world.heartbeat(self._client())),
            (8, lambda: self.world.release(self._client())),
            (12, lambda: self.world.pass_time(self._random.choice([1, 20, 60]))),
            (2, lambda: self.world.pass_time(self._random.choice([300, 700, 1_500]))),
            (2, self._heartbeat_all),
            (3, self._rejoin),
            (1, lambda: self.world.break_stream(self._client())),
            (1, self._add),
            (1, lambda: self.world.leave(self._client(), temporary=self._random.random() < 0.5)),
            (1, lambda: self.world.heartbeat(self._client(), self._random.choice(TOPICS))),
            (0.5, self._change_topics),
            (0.5, self.world.crash),
        ]
        self._weights = [weight for weight, _ in self._actions]

    def step(self) -> None:
        """One thing happens."""
        _, action = self._random.choices(self._actions, self._weights)[0]
        action()
        self.world.check()

    def _client(self) -> Client:
        return self._random.choice(self.world.clients)

    def _heartbeat_all(self) -> None:
        for client in self.world.clients:
            self.world.heartbeat(client)
            self.world.drain(client)

    def _rejoin(self) -> None:
        away = [one for one in self.world.clients if one.stream is None]
        if away:
            self.world.join(self._random.choice(away))

    def _add(self) -> None:
        if len(self.world.clients) < 4:
            self.world.add(self._random.choice(TOPICS), self._random.choice(["", "", "i1", "i2"]))

    def _change_topics(self) -> None:
        counts = dict(self.world.topic_counts)
        name = self._random.choice("ab")
        if name in counts and self._random.random() < 0.3:
            del counts[name]
        else:
            counts[name] = min(6, counts.get(name, 0) + 1)
        self.world.change_topics(counts)


def compacted(log: list[tuple[bytes, bytes | None]]) -> list[Record]:
    """The newest record of each key, where it stands in the log."""
    newest = {key: index for index, (key, _) in enumerate(log)}
    return [decode_record(*log[index]) for index in sorted(newest.values())]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_the_rules_hold_and_the_group_becomes_stable(seed: int) -> None:
    life = Life(seed)
    for _ in range(STEPS):
        life.step()
    world = life.world
    world.settle()
    world.check()
    group = world.core.state.group(GROUP)
    here = [client for client in world.clients if client.joined]
    if here:
        assert group is not None
        assert group.state is GroupState.STABLE
        for client in here:
            assert client.using == group.target(client.member_id)
    assert contents(replayed(compacted(world.log))) == contents(world.core.state)


def test_the_same_seed_lives_the_same_life_twice() -> None:
    logs = []
    for _ in range(2):
        life = Life(7)
        for _ in range(100):
            life.step()
        logs.append(life.world.log)
    assert logs[0] == logs[1]
