"""Waiting for what the tasks of the loop bring about."""

import asyncio
from collections.abc import Callable

_LIMIT_S = 10


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until the condition holds. Raises TimeoutError after ten seconds."""
    async with asyncio.timeout(_LIMIT_S):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
