"""Whether anything listens where a node said that it does."""

import asyncio
from typing import Protocol


class ReconnectProbe(Protocol):
    """A direct try to reach a node whose session broke."""

    async def is_refused(self, host: str, port: int, timeout_ms: int) -> bool:
        """True only if the host answered that nobody listens there: the process is gone. Silence
        and other errors prove nothing (invariant 38)."""


class TcpReconnectProbe:
    """Opens a TCP connection and closes it."""

    async def is_refused(self, host: str, port: int, timeout_ms: int) -> bool:
        """See ``ReconnectProbe``."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        writer.close()
        return False
