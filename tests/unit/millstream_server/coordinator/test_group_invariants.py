"""Random lives of a group; after every step the properties of KIP-848's TLA+ model hold."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from millstream_server.coordinator.group import GroupState
from tests.fakes.group_world import GROUP, Client, GroupWorld

CLIENTS_MAX = 4
TOPICS = st.sampled_from([("a",), ("b",), ("a", "b")])
INDEX = st.integers(0, CLIENTS_MAX - 1)


class GroupMachine(RuleBasedStateMachine):
    """Everything that may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = GroupWorld({"a": 3, "b": 2})

    def client(self, index: int) -> Client:
        return self.world.clients[index % len(self.world.clients)]

    @precondition(lambda self: len(self.world.clients) < CLIENTS_MAX)
    @rule(topics=TOPICS, instance_id=st.sampled_from(["", "", "i1", "i2"]))
    def add(self, topics: tuple[str, ...], instance_id: str) -> None:
        self.world.add(topics, instance_id)

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX)
    def serve(self, index: int) -> None:
        self.world.serve_one(self.client(index))

    @rule(count=st.integers(1, 5))
    def store(self, count: int) -> None:
        for _ in range(count):
            self.world.store_one()

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX, count=st.integers(1, 3))
    def receive(self, index: int, count: int) -> None:
        for _ in range(count):
            self.world.receive_one(self.client(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX)
    def heartbeat(self, index: int) -> None:
        self.world.heartbeat(self.client(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX)
    def release(self, index: int) -> None:
        self.world.release(self.client(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX)
    def exchange(self, index: int) -> None:
        self.world.drain(self.client(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX, topics=TOPICS)
    def subscribe(self, index: int, topics: tuple[str, ...]) -> None:
        self.world.heartbeat(self.client(index), topics)

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX)
    def break_stream(self, index: int) -> None:
        self.world.break_stream(self.client(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX)
    def join(self, index: int) -> None:
        self.world.join(self.client(index))

    @precondition(lambda self: self.world.clients)
    @rule(index=INDEX, temporary=st.booleans())
    def leave(self, index: int, temporary: bool) -> None:
        self.world.leave(self.client(index), temporary=temporary)

    @rule(milliseconds=st.sampled_from([1, 60, 60, 300, 700, 1_500, 3_100]))
    def pass_time(self, milliseconds: int) -> None:
        self.world.pass_time(milliseconds)

    @rule(a=st.integers(0, 3), b=st.integers(0, 3))
    def change_topics(self, a: int, b: int) -> None:
        before = self.world.topic_counts
        counts = {name: n for name, n in (("a", a), ("b", b)) if n}
        grown = {name: max(n, before.get(name, 0)) for name, n in counts.items()}
        self.world.change_topics(grown)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @invariant()
    def everything_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """Left alone, the group becomes stable and everybody uses exactly the target."""
        world = self.world
        world.settle()
        world.check()
        group = world.core.state.group(GROUP)
        here = [client for client in world.clients if client.joined]
        if not here:
            return
        assert group is not None
        assert group.state is GroupState.STABLE
        for client in here:
            assert client.using == group.target(client.member_id)
        wanted = {
            (topic_id, number)
            for client in here
            for topic_id in world.core.topics.subscribed(group.members[client.member_id])
            for number in range(world.core.topics.by_id[topic_id].partition_count)
        }
        assert set().union(*(client.using for client in here)) == wanted


TestGroupInvariants = GroupMachine.TestCase
TestGroupInvariants.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
