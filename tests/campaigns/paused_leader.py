"""Asks a leader that is stopped, so that it finds the questions when it goes on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from millstream import MillstreamError
from millstream_server.v1 import controller_service_pb2 as controller
from millstream_server.v1 import controller_service_pb2_grpc as controller_grpc
from tests.campaigns.metadata_clients import MetadataClient

CALL_S = 20.0
_QUESTIONS = 20
#: Enough for what is on its way over loopback.
_SENT_S = 0.03


@dataclass(frozen=True, slots=True)
class Known:
    """What others were told before the questions: the last write of the probe."""

    value: int
    version: int


class PausedLeader:
    """The questions to one leader, with connections that were open before it stopped."""

    def __init__(self, address: str, client: MetadataClient) -> None:
        """``client`` talks to that address only."""
        self._client = client
        self._channel = grpc.aio.insecure_channel(address)
        self._controller = controller_grpc.ControllerServiceStub(self._channel)
        self._asked: list[asyncio.Task[int]] = []
        self._written: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """To be called while it runs."""
        await self._client.calls.open_session(CALL_S)
        await self._controller.ReadBarrier(controller.ReadBarrierRequest(), timeout=CALL_S)

    async def ask(self, register: str) -> None:
        """Barriers and barrier reads, and a write; returns when all of it has been sent."""
        loop = asyncio.get_running_loop()
        for _ in range(_QUESTIONS):
            self._asked.append(loop.create_task(self._barrier()))
            self._asked.append(loop.create_task(self._read(register)))
        self._written = loop.create_task(self._client.set_register())
        await asyncio.sleep(_SENT_S)

    async def answers(self, known: Known) -> tuple[int, list[str]]:
        """How many questions were answered, and which of the answers were of an older state than
        others knew before. That of the write is in the histories."""
        told = await asyncio.gather(*self._asked, return_exceptions=True)
        if self._written is not None:
            await self._written
        await self._channel.close()
        return len([one for one in told if isinstance(one, int)]), self._stale(told, known)

    def _stale(self, told: Sequence[int | BaseException], known: Known) -> list[str]:
        stale = []
        for number, answer in enumerate(told):
            limit = (known.version, known.value)[number % 2]
            if isinstance(answer, int) and answer < limit:
                stale.append(f"a leader that was paused told {answer} after {limit}")
            elif not isinstance(answer, int | MillstreamError | grpc.aio.AioRpcError):
                raise RuntimeError(f"a leader that was paused answered {answer!r}")
        return stale

    async def _barrier(self) -> int:
        request = controller.ReadBarrierRequest()
        answer = await self._controller.ReadBarrier(request, timeout=CALL_S)
        return int(answer.version)

    async def _read(self, register: str) -> int:
        value = await self._client.read(register, CALL_S)
        assert isinstance(value, int)
        return value
