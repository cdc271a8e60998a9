"""The thread that a voter lives on: it may wait for the disk, which the event loop must not."""

import queue
import threading
from collections.abc import Callable

from millstream_raft.ports import FailStop
from millstream_raft.raft_driver import Event, MessageArrived, Outcome, RaftDriver

#: Messages that may wait for the thread; beyond, new ones are dropped, which Raft repairs.
_INBOX_MESSAGES_MAX = 20_000


class _Stop:
    """Asks the thread to end."""


class _Wake:
    """Asks the thread to look at its proposals."""


_Item = Event | _Stop | _Wake


class RaftThread:
    """Runs a driver. ``post`` and ``opened`` are called on the thread."""

    def __init__(
        self,
        name: str,
        open_driver: Callable[[], RaftDriver],
        opened: Callable[[RaftDriver | None, BaseException | None], None],
        post: Callable[[RaftDriver, list[Outcome]], None],
        fail_stop: FailStop,
    ) -> None:
        self._open_driver = open_driver
        self._opened = opened
        self._post = post
        self._fail_stop = fail_stop
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Open the driver, then run it until ``stop``."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand an event over."""
        if isinstance(event, MessageArrived) and self._inbox.qsize() > _INBOX_MESSAGES_MAX:
            return
        self._inbox.put(event)

    def wake(self) -> None:
        """Make the thread look at its proposals."""
        self._inbox.put(_Wake())

    def stop(self) -> None:
        """Make the thread close its driver and end."""
        self._inbox.put(_Stop())

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        try:
            driver = self._open_driver()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the start
            self._opened(None, error)
            return
        self._opened(driver, None)
        try:
            self._serve(driver)
        except SystemExit:
            return  # a fail-stop that ends this thread instead of the process
        except Exception as error:  # noqa: BLE001 - without this thread the node is a zombie
            self._fail_stop(f"the raft thread failed: {error!r}")

    def _serve(self, driver: RaftDriver) -> None:
        while True:
            events, stopping = self._take(driver.wait_ms())
            if stopping:
                self._post(driver, driver.close())
                return
            outcomes = driver.step(events)
            self._post(driver, outcomes)

    def _take(self, wait_ms: int) -> tuple[list[Event], bool]:
        """Everything that is there, after waiting for the first."""
        events: list[Event] = []
        try:
            item = self._inbox.get(timeout=wait_ms / 1000) if wait_ms else self._inbox.get_nowait()
            while True:
                if isinstance(item, _Stop):
                    return events, True
                if not isinstance(item, _Wake):
                    events.append(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return events, False
