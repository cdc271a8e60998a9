"""Tell clients that the process forked under them.

gRPC's threads and connections do not survive a fork; a child that went on using them would hang.
So every client made before the fork refuses its work in the child, with an error that says why.
"""

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """Something that holds connections or threads."""

    def on_fork(self) -> None:
        """Called in the child: refuse everything from now on; touch no lock and no connection."""


_clients: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()


def watch_forks(client: ForkAware) -> None:
    """Call ``client.on_fork()`` in children forked from now on, for as long as it is alive."""
    _clients.add(client)


def _in_child() -> None:
    for client in list(_clients):
        client.on_fork()


os.register_at_fork(after_in_child=_in_child)
