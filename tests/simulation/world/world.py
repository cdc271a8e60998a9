"""The simulated world of one seed: loop, network, quorum, machines, clients, and what they did."""

import gc
import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random
from typing import Any

import structlog

from tests.simulation.world.decisions import Decisions
from tests.simulation.world.loop import CURRENT, SimLoop
from tests.simulation.world.network import Network
from tests.simulation.world.nodes import BrokerMachine, Machine, MetadataMachine, Settings
from tests.simulation.world.process import Process
from tests.simulation.world.quorum import Quorum, QuorumFaults

METADATA_ID = 101


class World:
    """Everything of one seed. ``random`` of each part is its own, so that one part's draws do not
    change another's."""

    def __init__(
        self,
        seed: int,
        *,
        brokers: int = 3,
        voters: int = 3,
        quorum_faults: QuorumFaults | None = None,
        topic_configs: dict[str, str] | None = None,
        lag_ms: int = 10_000,
    ) -> None:
        self.seed = seed
        self.loop = SimLoop()
        self.network = Network(self.loop, self.part_random("network"))
        self.faults_random = self.part_random("faults")
        self.voters = tuple(
            (METADATA_ID + number, f"m{number + 1}:9092") for number in range(voters)
        )
        self.quorum = Quorum(
            self.loop,
            self.network,
            self.part_random("quorum"),
            [node_id for node_id, _ in self.voters],
            quorum_faults or QuorumFaults(),
        )
        self.decisions = Decisions()
        self.settings = Settings(self.voters, topic_configs or {}, lag_ms)
        self.brokers = [
            BrokerMachine(self, number, f"b{number}") for number in range(1, brokers + 1)
        ]
        self.metadata = [
            MetadataMachine(self, node_id, address.partition(":")[0])
            for node_id, address in self.voters
        ]
        self.processes: list[Process] = []
        # Processes that are no nodes.
        self.clients: list[Process] = []
        # Errors that production code logged: (event, exception, process).
        self.logged: list[tuple[str, BaseException | None, str]] = []
        self.broker_observers: list[Callable[[BrokerMachine], None]] = []
        # Counters of what happened, by name.
        self.counts: dict[str, int] = {}

    @property
    def machines(self) -> list[Machine]:
        """Brokers, then metadata nodes."""
        return [*self.brokers, *self.metadata]

    def running_broker(self, number: int) -> BrokerMachine | None:
        """One of the brokers that run, by its number modulo how many there are."""
        running = [machine for machine in self.brokers if machine.running]
        return running[number % len(running)] if running else None

    def part_random(self, part: str) -> Random:
        """Chance of one part of the world. Text seeds do not depend on the hash seed."""
        return Random(f"{self.seed}/{part}")

    def process(self, name: str, host: str, **clock: Any) -> Process:
        """A process that begins now."""
        process = Process(self.loop, name, host, self.part_random(name), **clock)
        process.on_death(lambda: self.network.process_died(process))
        self.processes.append(process)
        return process

    def count(self, what: str, by: int = 1) -> None:
        """Note that something happened."""
        self.counts[what] = self.counts.get(what, 0) + by

    def observe_broker(self, machine: BrokerMachine) -> None:
        """A broker is wired and about to serve."""
        for observer in self.broker_observers:
            observer(machine)

    def boot_all(self) -> None:
        """Start every node."""
        for machine in self.machines:
            machine.boot()

    def run_for(self, seconds: float) -> None:
        """Let the world go on."""
        self.loop.run_until(self.loop.now + seconds)

    def close(self) -> None:
        """Take everything apart."""
        hook = sys.unraisablehook
        sys.unraisablehook = lambda _: None
        try:
            for process in self.processes:
                process.bury()
            self.loop.close()
            gc.collect()
        finally:
            sys.unraisablehook = hook


@contextmanager
def simulation(make: Callable[[], World]) -> Generator[World, None, None]:
    """A world while it runs: errors that are logged go to ``world.logged``, and memory is freed at
    fixed moments only, since that may run code."""
    before = structlog.get_config()
    collecting = gc.isenabled()
    gc.disable()
    # What is left of the world before: when that was taken apart, its caller still knew it.
    gc.collect()
    # What was there before is not looked at again when the world is taken apart.
    gc.freeze()
    world = make()

    def keep(_: Any, __: str, event: dict[str, Any]) -> Any:
        error = event.get("exc_info")
        caught = sys.exc_info()[1] if error else None
        process = CURRENT.get()
        text = str(event.pop("event", ""))
        detail = event.get("error") or event.get("reason")
        world.logged.append(
            (
                f"{text}: {detail}" if detail else text,
                caught,
                process.name if process is not None else "simulator",
            )
        )
        raise structlog.DropEvent

    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    try:
        yield world
    finally:
        world.close()
        gc.unfreeze()
        structlog.configure(**before)
        if collecting:
            gc.enable()
