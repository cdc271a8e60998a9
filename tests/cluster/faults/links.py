"""A TCP proxy before every node, with a rule per directed link.

Nodes know one another by the proxies' addresses only. Which link a connection belongs to is told by
the process at its other end: so production code needs no hook, and a restarted process is known
again.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.cluster.faults.connection_owner import owner_of_connection

LOOPBACK = "127.0.0.1"
CLIENT = "client"
_CHUNK_BYTES = 64 * 1024
# How soon a proxy notices that its node ended, or started.
_WATCH_S = 0.02
# How much a stalled direction holds back before it reads no more.
_HELD_CHUNKS_MAX = 64

Link = tuple[str, str]


@dataclass(frozen=True, slots=True)
class LinkRule:
    """What happens to bytes on their way from one node to another."""

    # Nothing passes; it is neither lost nor answered, as on a network without a route.
    cut: bool = False
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    # 0: without limit.
    bytes_per_second: int = 0
    # How often a chunk has one bit turned …
    corruption: float = 0.0
    # … within the bytes that follow this, if it is in the chunk; empty: anywhere. Without TLS only
    # what a checksum of ours covers may be spoilt: TCP's own caught the rest already.
    corrupted_after: bytes = b""


_CLEAR = LinkRule()


class _Direction:
    """One direction of one connection: reads, holds for as long as its rule says, writes."""

    def __init__(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        proxies: "LinkProxies",
    ) -> None:
        self.link = link
        self._reader = reader
        self._writer = writer
        self._proxies = proxies
        self._held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD_CHUNKS_MAX)

    async def run(self) -> None:
        sending = asyncio.create_task(self._send())
        try:
            while data := await self._reader.read(_CHUNK_BYTES):
                rule = self._proxies.rule(self.link)
                delay_ms = rule.delay_ms + rule.jitter_ms * self._proxies.random.random()
                due_s = asyncio.get_running_loop().time() + delay_ms / 1000
                await self._held.put((due_s, data))
            await self._held.put((0.0, b""))
            await sending
        finally:
            sending.cancel()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, data = await self._held.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            while (rule := self._proxies.rule(self.link)).cut:
                await self._proxies.rules_changed()
            if not data:
                self._writer.write_eof()
                return
            if rule.corruption and self._proxies.random.random() < rule.corruption:
                data = self._proxies.corrupted(data, rule.corrupted_after)
            if rule.bytes_per_second:
                await self._proxies.rules_unchanged(len(data) / rule.bytes_per_second)
            self._writer.write(data)
            await self._writer.drain()
            self._proxies.bytes_passed += len(data)


class LinkProxies:
    """The proxies of all nodes, in a thread of their own; every method may be called from any."""

    def __init__(self, random: Random, pids: Callable[[], Mapping[int, str]]) -> None:
        """``pids`` gives the node of each process that runs now; others are clients."""
        self.random = random
        self.bytes_passed = 0
        self.chunks_corrupted = 0
        self._pids = pids
        self._rules: dict[Link, LinkRule] = {}
        self._changed = asyncio.Event()
        self._connections: dict[asyncio.Task[None], Link] = {}
        # Node → what starts its proxy; and the proxies that listen.
        self._doors: dict[str, Callable[[], Coroutine[Any, Any, asyncio.Server]]] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._watching: Future[None] | None = None

    # From any thread

    def add(self, node: str, front_port: int, host: str, port: int) -> None:
        """Stand before a node: connections to the front port go to host:port. While the node does
        not run they are refused, as they would be without a proxy."""

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._relay(node, (host, port), reader, writer)

        def listen() -> Coroutine[Any, Any, asyncio.Server]:
            return asyncio.start_server(accepted, LOOPBACK, front_port)

        self._doors[node] = listen
        if self._watching is None:
            self._watching = asyncio.run_coroutine_threadsafe(self._watch(), self._loop)

    def set_rules(self, rules: Mapping[Link, LinkRule]) -> None:
        """Change the rules of some directed links."""
        self._call(self._set_rules(dict(rules)))

    def clear(self) -> None:
        """Let everything pass."""
        self._call(self._set_rules(dict.fromkeys(self._rules, _CLEAR)))

    def reset(self, source: str, destination: str) -> int:
        """Break the connections that one node opened to another; how many there were."""
        return int(self._call(self._reset((source, destination))))

    def close(self) -> None:
        """End everything."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # On the proxies' own loop

    def rule(self, link: Link) -> LinkRule:
        """The rule of a directed link."""
        return self._rules.get(link, _CLEAR)

    async def rules_changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def rules_unchanged(self, seconds: float) -> None:
        """Wait for so long, but not beyond the next change."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.rules_changed(), seconds)

    def corrupted(self, data: bytes, after: bytes) -> bytes:
        """The bytes with one bit turned; unchanged if they do not hold ``after``."""
        begin = data.find(after) + len(after)
        if begin < len(after) or begin == len(data):
            return data
        self.chunks_corrupted += 1
        spoilt = bytearray(data)
        end = begin + 1 if after else len(spoilt)
        spoilt[self.random.randrange(begin, end)] ^= 1 << self.random.randrange(8)
        return bytes(spoilt)

    async def _set_rules(self, rules: dict[Link, LinkRule]) -> None:
        self._rules.update(rules)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _reset(self, link: Link) -> int:
        chosen = [task for task, one in self._connections.items() if one == link]
        for task in chosen:
            task.cancel()
        return len(chosen)

    async def _watch(self) -> None:
        while True:
            running = set(self._pids().values())
            for node, listen in list(self._doors.items()):
                if node in running and node not in self._servers:
                    self._servers[node] = await listen()
                elif node not in running and node in self._servers:
                    self._servers.pop(node).close()
            await asyncio.sleep(_WATCH_S)

    async def _relay(
        self,
        node: str,
        address: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        source = self._source_of(writer)
        link, back = (source, node), (node, source)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = link
        behind: asyncio.StreamWriter | None = None
        try:
            while self.rule(link).cut or self.rule(back).cut:
                await self.rules_changed()
            behind_reader, behind = await asyncio.open_connection(*address)
            await asyncio.gather(
                _Direction(link, reader, behind, self).run(),
                _Direction(back, behind_reader, writer, self).run(),
            )
        except (OSError, asyncio.CancelledError):
            for one in (writer, behind):
                if one is not None:
                    one.transport.abort()
        finally:
            del self._connections[task]
            for one in (writer, behind):
                if one is not None:
                    with contextlib.suppress(OSError):
                        one.close()

    def _source_of(self, writer: asyncio.StreamWriter) -> str:
        # Seen from the other process, whose local address is the peer's here.
        local = writer.get_extra_info("peername")
        remote = writer.get_extra_info("sockname")
        pid = owner_of_connection(local, remote, list(self._pids()))
        return self._pids().get(pid, CLIENT) if pid is not None else CLIENT

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for server in self._servers.values():
            server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
