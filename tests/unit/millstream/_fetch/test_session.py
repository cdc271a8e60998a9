"""Credit: what a broker may push and what is held never exceed the window, and nothing leaks."""

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from millstream._consumer.record import TopicPartition
from millstream._errors.status import from_reason
from millstream._fetch.fetcher import Fetcher
from millstream._fetch.nearest import Source
from millstream._fetch.partition import Mark, Phase
from millstream._fetch.session import FetchLimits, FetchSession, pushed_bytes
from millstream.record.batch import frame
from millstream.record.wire import RawFetchedPartition, RawFetchResponse
from tests.fakes.fetch_broker import reason, stored_batch

WINDOW = 2_000
TOPIC = b"t" * 16


def limits(window: int = WINDOW) -> FetchLimits:
    return FetchLimits(window_bytes=window)


def open_session(window: int = WINDOW) -> FetchSession:
    session = FetchSession(1, limits(window))
    session.opened(1)
    session.add((TOPIC, 0), 1, 0, None, 1)
    return session


def test_the_first_request_carries_settings_positions_and_the_whole_window() -> None:
    session = open_session()
    request = session.take_request()
    assert request is not None
    assert request.credit_bytes == WINDOW
    assert request.settings.max_partition_bytes == 1024 * 1024
    assert [(p.token, p.offset) for p in request.positions] == [(1, 0)]
    assert session.take_request() is None


def test_settings_travel_once_per_stream() -> None:
    session = open_session()
    session.take_request()
    session.add((TOPIC, 0), 2, 5, 3, 4)
    request = session.take_request()
    assert request is not None
    assert not request.HasField("settings")
    assert (request.positions[0].last_epoch, request.positions[0].leader_epoch) == (3, 4)
    session.broken()
    session.opened(2)
    session.add((TOPIC, 0), 3, 5, None, None)
    again = session.take_request()
    assert again is not None
    assert again.HasField("settings")
    assert not again.positions[0].HasField("last_epoch")


def test_credit_is_granted_again_as_it_is_consumed() -> None:
    session = open_session()
    session.take_request()
    session.received(1_500)
    assert session.take_request() is None
    session.released(1_500)
    request = session.take_request()
    assert request is not None
    assert request.credit_bytes == 1_500


def test_small_grants_are_saved_up_in_a_large_window() -> None:
    window = 64 * 1024 * 1024
    session = open_session(window)
    session.take_request()
    session.received(1_000)
    session.released(1_000)
    assert session.take_request() is None
    session.received(window // 4)
    session.released(window // 4)
    request = session.take_request()
    assert request is not None
    assert request.credit_bytes == window // 4 + 1_000


def test_one_oversized_batch_is_counted_whole() -> None:
    session = open_session()
    session.take_request()
    session.received(3 * WINDOW)
    assert session.outstanding == -2 * WINDOW
    assert session.take_request() is None
    session.released(3 * WINDOW)
    request = session.take_request()
    assert request is not None
    assert request.credit_bytes == 3 * WINDOW
    assert session.outstanding == WINDOW


def test_what_is_held_over_a_broken_stream_is_not_granted_twice() -> None:
    session = open_session()
    session.take_request()
    session.received(600)
    session.broken()
    session.opened(2)
    session.add((TOPIC, 0), 2, 9, None, None)
    request = session.take_request()
    assert request is not None
    assert request.credit_bytes == WINDOW - 600


def test_a_removed_partition_is_named_once_and_not_if_added_again() -> None:
    session = open_session()
    session.take_request()
    session.remove((TOPIC, 0))
    request = session.take_request()
    assert request is not None
    assert [removal.partition for removal in request.removals] == [0]
    session.add((TOPIC, 0), 2, 0, None, None)
    session.remove((TOPIC, 0))
    session.add((TOPIC, 0), 3, 0, None, None)
    request = session.take_request()
    assert request is not None
    assert (len(request.removals), len(request.positions)) == (0, 1)


def test_a_push_costs_what_its_frames_take_in_the_file() -> None:
    for size in (1, 126, 127, 128, 16_383, 16_384, 300_000):
        batch = bytes(size)
        assert pushed_bytes([batch]) == len(frame(batch))


class ModelBroker:
    """Follows the rules for credit and tokens to the letter; pushes when told to."""

    def __init__(self) -> None:
        self.credit = 0
        self.full = 0
        self.reading: dict[int, list[int]] = {}

    def take(self, request: Any) -> None:
        self.credit += request.credit_bytes
        self.full = max(self.full, self.credit)
        for position in request.positions:
            self.reading[position.partition] = [position.token, position.offset]
        for removal in request.removals:
            self.reading.pop(removal.partition, None)

    def push(self, partition: int, value_bytes: int) -> Any | None:
        state = self.reading.get(partition)
        if state is None:
            return None
        batch = stored_batch([bytes(value_bytes)], base_offset=state[1])
        cost = len(frame(batch))
        if cost > self.credit and not self.credit >= self.full > 0:
            return None
        self.credit -= cost
        state[1] += 1
        entry = RawFetchedPartition(
            topic_id=TOPIC, partition=partition, token=state[0], batches=[batch], leader_epoch=1
        )
        return RawFetchResponse(partitions=[entry])

    def fail(self, partition: int, name: str) -> Any | None:
        state = self.reading.pop(partition, None)
        if state is None:
            return None
        entry = RawFetchedPartition(
            topic_id=TOPIC, partition=partition, token=state[0], error=reason(name)
        )
        return RawFetchResponse(partitions=[entry])


class World:
    """A fetcher, a broker, and messages on their way in both directions."""

    def __init__(self) -> None:
        self.fetcher = Fetcher(limits(), from_reason)
        self.broker = ModelBroker()
        self.now_ms = 0
        self.stream_id = 0
        self.to_broker: deque[Any] = deque()
        self.to_client: deque[Any] = deque()
        self.names = [TopicPartition("t", number) for number in range(3)]
        for name in self.names:
            self.fetcher.seek(self.fetcher.assign(name, TOPIC), Mark(0))

    @property
    def session(self) -> FetchSession | None:
        return self.fetcher.sessions.get(1)

    def pump(self) -> None:
        self.fetcher.place(self.now_ms, lambda *_: Source(1, 1))
        for session in self.fetcher.unopened():
            self.stream_id += 1
            self.fetcher.opened(session, self.stream_id)
            self.broker = ModelBroker()
            self.to_broker.clear()
            self.to_client.clear()
        if self.session is not None:
            request = self.session.take_request()
            if request is not None:
                self.to_broker.append(request)

    def deliver_to_broker(self) -> None:
        if self.to_broker:
            self.broker.take(self.to_broker.popleft())

    def deliver_to_client(self) -> None:
        session = self.session
        if self.to_client and session is not None and session.is_open:
            self.fetcher.received(session, self.to_client.popleft(), self.now_ms)

    def do(self, action: str, number: int, size: int) -> None:
        partition = self.fetcher.partitions[self.names[number]]
        if action == "push":
            message = self.broker.push(number, size)
            if message is not None:
                self.to_client.append(message)
        elif action in ("NOT_LEADER", "OFFSET_OUT_OF_RANGE", "OFFSET_NOT_AVAILABLE"):
            message = self.broker.fail(number, action)
            if message is not None:
                self.to_client.append(message)
        elif action == "deliver":
            self.deliver_to_client()
        elif action == "request":
            self.deliver_to_broker()
        elif action == "consume":
            chunk = self.fetcher.next_chunk()
            if chunk is not None:
                chunk.partition.position = chunk.next_mark
        elif action == "seek":
            self.fetcher.seek(partition, Mark(size))
        elif action == "pause" and not partition.paused:
            self.fetcher.pause(partition)
        elif action == "resume":
            self.fetcher.resume(partition)
        elif action == "break" and self.session is not None and self.session.is_open:
            self.fetcher.broken(self.session, self.now_ms)
        self.now_ms += 50
        for reset, _ in self.fetcher.take_out_of_range():
            self.fetcher.seek(reset, Mark(0))

    def check(self) -> None:
        session = self.session
        if session is None or not session.is_open:
            return
        on_the_way_out = sum(request.credit_bytes for request in self.to_broker)
        on_the_way_in = sum(
            pushed_bytes(entry.batches)
            for message in self.to_client
            for entry in message.partitions
        )
        assert session.outstanding == self.broker.credit + on_the_way_out + on_the_way_in
        buffered = sum(p.buffered_bytes() for p in self.fetcher.partitions.values())
        assert session.held == buffered
        assert session.outstanding + session.held <= WINDOW

    def settle(self) -> None:
        """Let everything arrive and be consumed."""
        for partition in self.fetcher.partitions.values():
            self.fetcher.resume(partition)
        for _ in range(200):
            self.now_ms += 2_000
            self.pump()
            self.deliver_to_broker()
            self.deliver_to_client()
            self.do("consume", 0, 0)


ACTIONS = (
    "push", "push", "push", "deliver", "deliver", "request", "consume", "consume", "seek",
    "pause", "resume", "break", "NOT_LEADER", "OFFSET_OUT_OF_RANGE", "OFFSET_NOT_AVAILABLE",
)  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), st.integers(1, 900)), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_credit_is_conserved_over_any_sequence_of_events(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    world.pump()
    for action, number, size in steps:
        world.do(action, number, size)
        world.pump()
        world.check()
    world.settle()
    world.check()
    assert world.session is not None
    assert world.session.held == 0
    assert world.broker.credit == WINDOW
    assert all(p.phase is Phase.FETCHING for p in world.fetcher.partitions.values())
    assert set(world.broker.reading) == {0, 1, 2}


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_offsets_handed_out_have_no_gap_and_no_repeat(steps: list[tuple[str, int, int]]) -> None:
    world = World()
    world.pump()
    expected = dict.fromkeys(world.names, 0)
    for action, number, size in steps:
        if action == "consume":
            chunk = world.fetcher.next_chunk()
            if chunk is not None:
                name = chunk.partition.name
                assert [record.offset for record in chunk.records] == [expected[name]]
                expected[name] = chunk.next_mark.offset
                chunk.partition.position = chunk.next_mark
        elif action == "seek":
            world.do(action, number, size)
            expected[world.names[number]] = size
        elif action != "OFFSET_OUT_OF_RANGE":
            world.do(action, number, size)
        world.pump()


def test_a_push_with_an_old_token_is_dropped_and_its_credit_returned() -> None:
    world = World()
    world.do("seek", 0, 700)
    world.pump()
    world.deliver_to_broker()
    world.do("push", 0, 100)
    world.do("seek", 0, 5)
    world.pump()
    world.deliver_to_client()
    assert world.fetcher.next_chunk() is None
    assert world.session is not None
    assert world.session.held == 0
    world.check()
    world.deliver_to_broker()
    world.do("push", 0, 100)
    world.deliver_to_client()
    chunk = world.fetcher.next_chunk()
    assert chunk is not None
    assert chunk.records[0].offset == 5


def test_an_error_with_an_old_token_does_not_stop_the_new_position() -> None:
    world = World()
    world.pump()
    world.deliver_to_broker()
    world.do("OFFSET_OUT_OF_RANGE", 0, 0)
    world.do("seek", 0, 5)
    world.pump()
    world.deliver_to_client()
    assert world.fetcher.partitions[world.names[0]].session is not None
    assert world.fetcher.take_out_of_range() == []
