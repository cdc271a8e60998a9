"""Free loopback ports that stay ours for as long as the cluster lives.

A node of a cluster must know the ports of the others before any of them runs, and a killed node
must find its own port free again. So each port is held by a socket that is bound but never
listens: with SO_REUSEADDR on both sides Linux lets the node bind and listen beside it, while
neither an outgoing connection nor another ``bind`` to port 0 is given that port.
"""

import socket
from collections.abc import Iterable
from types import TracebackType

LOOPBACK = "127.0.0.1"
_ATTEMPTS_MAX = 64


class PortsTakenError(OSError):
    """A port that was asked for belongs to another process."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} is taken by another process: stop it, or choose another port"
        )
        self.port = port


class ReservedPorts:
    """Holds ports until closed."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def take(self, port: int = 0) -> int:
        """Reserve a port, any free one for 0, and return it. Raises PortsTakenError."""
        if port:
            self._hold(port)
            return port
        for _ in range(_ATTEMPTS_MAX):
            # Ask without SO_REUSEADDR first: only then is the answer a port that nobody holds.
            with socket.socket() as probe:
                probe.bind((LOOPBACK, 0))
                free: int = probe.getsockname()[1]
            try:
                self._hold(free)
            except PortsTakenError:
                continue
            return free
        raise PortsTakenError(0)

    def take_all(self, ports: Iterable[int]) -> list[int]:
        """Reserve several ports; zeros stand for any free one. Raises PortsTakenError."""
        wanted = list(ports)
        # Those asked for by number first, or a free one might be among them.
        for port in wanted:
            if port:
                self.take(port)
        return [port or self.take() for port in wanted]

    def close(self) -> None:
        """Give all ports back."""
        for held in self._sockets.values():
            held.close()
        self._sockets.clear()

    def __enter__(self) -> "ReservedPorts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hold(self, port: int) -> None:
        held = socket.socket()
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((LOOPBACK, port))
        except OSError:
            held.close()
            raise PortsTakenError(port) from None
        self._sockets[port] = held
