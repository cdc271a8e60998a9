"""A watch that is left because the filter has grown."""

import asyncio
import contextlib
import gc
from typing import Any

from millstream._client.async_io import AsyncClient
from millstream._client.config import ClientConfig


class FailingCall:
    """A call whose read fails just when it is given up."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    async def read(self) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await self._ended.wait()
        raise ConnectionError("the broker died")

    def cancel(self) -> None:
        """Nothing more is read."""
        self._ended.set()


class FailingChannel:
    """Makes such calls."""

    def unary_stream(self, path: str, **serializers: Any) -> Any:
        """A multicallable."""
        return lambda request: FailingCall()


async def test_a_read_that_fails_when_it_is_left_is_not_told_to_the_user() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    channel: Any = FailingChannel()
    client = AsyncClient(
        ClientConfig.resolve(None, bootstrap_servers="b1:9092"),
        open_channel=lambda address, options: channel,
    )
    starting = asyncio.create_task(client.start())
    for _ in range(5):
        await asyncio.sleep(0)
    client._grown.set()
    for _ in range(5):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await client.close()
    await asyncio.sleep(0)
    gc.collect()
    assert told == []
