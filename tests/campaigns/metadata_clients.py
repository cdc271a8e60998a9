"""Clients that write and read the metadata, and write down what they did.

Registers: the configuration of a topic (``AlterConfigs``), and whether a topic exists and which
(``CreateTopic`` and ``DeleteTopic`` by id, which are compare-and-sets). Every value is unique.
"""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from millstream import MillstreamError
from millstream.v1 import metadata_service_pb2 as pb
from tests.campaigns.metadata_calls import LINEARIZABLE, MetadataCalls, Outcome
from tests.linearizability.history import (
    Action,
    CompareAndSet,
    Operation,
    Read,
    Value,
    Write,
)

REGISTERS = 3
LIVES = 2
_KEY = "retention.ms"
_FIRST_VALUE = 1_000_000
_DEADLINE_S = 20.0
_SESSION_DEADLINE_S = 60.0
_PATIENCE = 0.85
_REPEATED = 0.2


@dataclass
class Record:
    """What all clients did."""

    histories: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    # Topics created and never deleted, whose creation was acknowledged; and those deleted.
    kept: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    # Ids of topics by the value that they were created with.
    topic_ids: dict[Value, bytes] = field(default_factory=dict)
    acknowledged: int = 0
    # Acknowledged at a second or later try of the same request id.
    retried: int = 0
    # Sent again after the answer was there.
    repeated: int = 0
    unknown: int = 0
    reads: int = 0
    # Repeats that were answered otherwise, and other answers that cannot be.
    wrong: list[str] = field(default_factory=list)
    # Moments of acknowledged writes of the probe, seconds.
    probe_s: list[float] = field(default_factory=list)
    # The last value that they wrote, larger than those before, and the version that holds it.
    probed_value: int = 0
    probed_version: int = 0
    # Set at each of them.
    probed: asyncio.Event = field(default_factory=asyncio.Event)
    # Which registers are in use: a long history of one is costly to judge.
    generation: int = 0
    values: "itertools.count[int]" = field(default_factory=lambda: itertools.count(_FIRST_VALUE))

    @property
    def probed_s(self) -> float:
        """The last of those moments; 0 before the first."""
        return self.probe_s[-1] if self.probe_s else 0.0

    def note(self, key: str, operation: Operation) -> None:
        """Add to the history of a register."""
        self.histories[key].append(operation)

    def register(self, number: int) -> str:
        """Name of a topic that always exists in this generation."""
        return f"register-{self.generation}-{number}"

    def standing(self, generation: int) -> list[str]:
        """Names of the topics that always exist in a generation."""
        numbers = range(REGISTERS)
        return [*(f"register-{generation}-{one}" for one in numbers), f"probe-{generation}"]

    @property
    def probe_name(self) -> str:
        """Name of the probe's topic."""
        return f"probe-{self.generation}"

    def life(self, number: int) -> str:
        """Name of a topic that comes and goes."""
        return f"life-{self.generation}-{number}"


class MetadataClient:
    """One process of the histories: does one thing at a time."""

    def __init__(
        self, process: int, addresses: Sequence[str], record: Record, chance: random.Random
    ) -> None:
        self._process = process
        self._record = record
        self._chance = chance
        self.calls = MetadataCalls(addresses, chance)

    async def run(self, stop: asyncio.Event) -> None:
        """Write and read by chance until told to stop."""
        await self.calls.open_session(_SESSION_DEADLINE_S)
        acts: list[tuple[int, Callable[[], object]]] = [
            (40, self.set_register),
            (30, self._read_register),
            (12, self._create_or_delete),
            (12, self._read_life),
            (3, self._keep),
        ]
        weights = [weight for weight, _ in acts]
        while not stop.is_set():
            await self._chance.choices(acts, weights)[0][1]()  # type: ignore[misc]
            await asyncio.sleep(self._chance.uniform(0, 0.05))

    async def probe(self, stop: asyncio.Event) -> None:
        """Write to a register of its own, one after another, and note when each was answered."""
        await self.calls.open_session(_SESSION_DEADLINE_S)
        while not stop.is_set():
            value, outcome = await self._set(self._record.probe_name, patience=1.0)
            if outcome.answer is not None:
                self._record.probed_value = value
                self._record.probed_version = outcome.answer.version
                self._record.probe_s.append(time.monotonic())
                self._record.probed.set()
            await asyncio.sleep(0.01)

    async def open_generation(self) -> None:
        """Create the topics of the next generation and let all clients turn to them. Raises
        RuntimeError."""
        record = self._record
        await self.calls.open_session(_SESSION_DEADLINE_S)
        for name in record.standing(record.generation + 1):
            outcome = await self._create(name, next(record.values))
            if outcome.answer is None:
                raise RuntimeError(f"{name} could not be created: {outcome.refusal}")
        record.generation += 1

    async def read_all(self) -> None:
        """Read every register of every generation once, at this client's own node, though it loses
        touch with the others meanwhile. Raises MillstreamError."""
        for name in [one for one in self._record.histories if not one.startswith("kept")]:
            await self._read(name, self.calls.read_patiently)

    async def set_register(self) -> None:
        """Write to some register, and write down what came of it."""
        await self._set(self._record.register(self._chance.randrange(REGISTERS)), _PATIENCE)

    async def topics(self) -> dict[str, bytes]:
        """All topics by name, each as the client's own node describes it. Raises
        MillstreamError."""
        found: dict[str, bytes] = {}
        request = pb.ListTopicsRequest(consistency=LINEARIZABLE)
        while True:
            page = await self.calls.read_patiently("ListTopics", request)
            found.update(
                (one.name, one.SerializeToString(deterministic=True)) for one in page.topics
            )
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def _set(self, name: str, patience: float) -> tuple[int, Outcome]:
        value = next(self._record.values)
        request = pb.AlterConfigsRequest(topic=name, set={_KEY: str(value)})
        return value, await self._send(name, Write(value), "AlterConfigs", request, patience)

    async def _create_or_delete(self) -> None:
        name = self._record.life(self._chance.randrange(LIVES))
        known = [
            one.action.value
            for one in self._record.histories[name]
            if isinstance(one.action, Read | CompareAndSet)
            and one.action.value in self._record.topic_ids
        ]
        if not known or self._chance.random() < 0.5:
            await self._create(name, next(self._record.values))
            return
        # Mostly the newest, at times one that may be gone, which must not delete its successor.
        value = known[-1] if self._chance.random() < 0.8 else self._chance.choice(known)
        request = pb.DeleteTopicRequest(topic_id=self._record.topic_ids[value])
        await self._write(name, CompareAndSet(value, None), "DeleteTopic", request, _PATIENCE)

    async def _create(self, name: str, value: int) -> Outcome:
        request = pb.CreateTopicRequest(name=name, partition_count=1, configs={_KEY: str(value)})
        outcome = await self._send(name, CompareAndSet(None, value), "CreateTopic", request, 0.9)
        if outcome.answer is not None:
            self._record.topic_ids[value] = outcome.answer.topic.topic_id
        return outcome

    async def _keep(self) -> None:
        value = next(self._record.values)
        name = f"kept-{value}"
        outcome = await self._create(name, value)
        if outcome.answer is None:
            return
        if self._chance.random() < 0.5:
            self._record.kept.add(name)
            return
        request = pb.DeleteTopicRequest(topic_id=outcome.answer.topic.topic_id)
        action = CompareAndSet(value, None)
        if await self._write(name, action, "DeleteTopic", request, 1.0):
            self._record.deleted.add(name)

    async def _write(
        self, name: str, action: Action, method: str, request: object, patience: float
    ) -> bool:
        return (await self._send(name, action, method, request, patience)).answer is not None

    async def _send(
        self, name: str, action: Action, method: str, request: object, patience: float
    ) -> Outcome:
        record = self._record
        request.request_id.CopyFrom(self.calls.next_request_id())  # type: ignore[attr-defined]
        call = time.monotonic()
        outcome = await self.calls.write(method, request, _DEADLINE_S, patience=patience)
        end = time.monotonic()
        if outcome.answer is not None:
            record.acknowledged += 1
            record.retried += outcome.tries > 1
            record.note(name, Operation(self._process, action, call, end))
            if self._chance.random() < _REPEATED:
                await self._repeat(method, request, outcome)
        elif outcome.is_unknown:
            record.unknown += 1
            record.note(name, Operation(self._process, action, call, None))
        elif outcome.refusal is not None and _is_lost_race(action, outcome.refusal):
            lost = CompareAndSet(action.expected, action.value, succeeded=False)
            record.note(name, Operation(self._process, lost, call, end))
        elif outcome.refusal is not None and outcome.refusal.code == "UNKNOWN_SESSION":
            record.wrong.append(f"the session of process {self._process} is gone")
        return outcome

    async def _repeat(self, method: str, request: object, first: Outcome) -> None:
        """Send a request again whose answer is there: it must have no effect and the same answer.
        That it has no effect is judged by the histories."""
        await asyncio.sleep(self._chance.uniform(0, 0.3))
        again = await self.calls.write(method, request, _DEADLINE_S, patience=1.0)
        if again.refusal is not None and again.refusal.code != "UNSPECIFIED":
            self._record.wrong.append(f"a repeated {method} was refused: {again.refusal}")
        elif again.answer is not None:
            self._record.repeated += 1
            if again.answer.version != first.answer.version:
                self._record.wrong.append(
                    f"a repeated {method} took effect in version {again.answer.version}, "
                    f"the first in {first.answer.version}"
                )

    async def _read_register(self) -> None:
        await self._try_read(self._record.register(self._chance.randrange(REGISTERS)))

    async def _read_life(self) -> None:
        await self._try_read(self._record.life(self._chance.randrange(LIVES)))

    async def _try_read(self, name: str) -> None:
        try:
            await self.read(name, timeout_s=3.0)
        except MillstreamError:
            # A read that failed tells nothing; wait, as the node may be down.
            await asyncio.sleep(0.1)

    async def read(self, name: str, timeout_s: float) -> Value:
        """Read a register at this client's own node, in one try, and write down what it said.
        Raises MillstreamError."""
        return await self._read(name, partial(self.calls.read, timeout_s=timeout_s))

    async def _read(self, name: str, reading: Callable[[str, Any], Awaitable[Any]]) -> Value:
        request = pb.DescribeTopicsRequest(names=[name], consistency=LINEARIZABLE)
        call = time.monotonic()
        value: Value = None
        try:
            answer = await reading("DescribeTopics", request)
        except MillstreamError as error:
            if error.code != "UNKNOWN_TOPIC":
                raise
        else:
            value = int(answer.topics[0].configs[_KEY])
            if name.startswith("life"):
                self._record.topic_ids[value] = answer.topics[0].topic_id
        self._record.reads += 1
        self._record.note(name, Operation(self._process, Read(value), call, time.monotonic()))
        return value


def _is_lost_race(action: Action, refusal: MillstreamError) -> bool:
    return isinstance(action, CompareAndSet) and refusal.code in {
        "TOPIC_ALREADY_EXISTS",
        "UNKNOWN_TOPIC",
    }
