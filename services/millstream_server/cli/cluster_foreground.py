"""Runs a local cluster in the foreground: starts it, restarts nodes that die, stops it."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from millstream_server.cli.embedded import Announcement
from millstream_server.cli.failures import EXIT_OK, CommandError
from millstream_server.cli.output import Output
from millstream_server.local_cluster import ClusterStartError, LocalCluster

_WATCH_PERIOD_S = 0.5
# A node that dies again and again must not burn the machine.
_RESTART_PAUSE_S = 2.0


def run_cluster(cluster: LocalCluster, output: Output) -> int:
    """Run until SIGINT or SIGTERM; a second signal while stopping kills. Returns the exit code.
    Raises CommandError if the cluster does not start."""
    from millstream_server.node.data_folder import DataFolderError

    stopping = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            cluster.kill_all()
        stopping.set()

    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with output.progress("starting", len(cluster.plan.nodes), "nodes") as progress:
            cluster.start(progress=_until(stopping, lambda ready, total: progress.set(ready)))
        Announcement(output, cluster.bootstrap_servers, str(cluster.plan.folder)).make()
        _watch(cluster, output, stopping)
    except _Stopped:
        pass
    except (ClusterStartError, DataFolderError) as error:
        raise CommandError(str(error)) from None
    finally:
        if not stopping.is_set():
            stopping.set()
        output.note("stopping")
        cluster.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return EXIT_OK


class _Stopped(Exception):
    """A signal came while the cluster was starting."""


def _until(
    stopping: threading.Event, progress: Callable[[int, int], None]
) -> Callable[[int, int], None]:
    def step(ready: int, total: int) -> None:
        if stopping.is_set():
            raise _Stopped
        progress(ready, total)

    return step


def _watch(cluster: LocalCluster, output: Output, stopping: threading.Event) -> None:
    died_at: dict[str, float] = {}
    while not stopping.wait(_WATCH_PERIOD_S):
        for name in cluster.ended():
            now = time.monotonic()
            if name not in died_at:
                died_at[name] = now
                output.note(f"{name} ended; it is started again in {_RESTART_PAUSE_S:g} s")
            elif now - died_at[name] >= _RESTART_PAUSE_S:
                del died_at[name]
                cluster.restart(name)
