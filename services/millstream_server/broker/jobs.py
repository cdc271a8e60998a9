"""Awaiting a job of an executor, for the rare paths where a future per job does not matter."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from millstream_server.runtime.ports import T


class Submits(Protocol):
    """What runs jobs: an ``Executor``, or several behind one face."""

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """See ``Executor``."""


async def run_job(executor: Submits, job: Callable[[], T]) -> T:
    """Run a job and wait for its result; raises what it raises."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: T | None, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    executor.submit(job, done)
    return await future
