"""The controller's bench for the tests beside."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.controller_bench import ControllerBench


@pytest.fixture
async def bench() -> AsyncIterator[ControllerBench]:
    """An active controller without nodes."""
    made = ControllerBench()
    await made.app.start()
    await made.active()
    yield made
    await made.app.stop()
