"""Runs the embedded node of ``millstream up`` and says when it can be used."""

import threading
from dataclasses import dataclass

from millstream_server.cli.failures import CommandError
from millstream_server.cli.output import Output
from millstream_server.local_cluster.formatting import format_data_folder
from millstream_server.local_cluster.readiness import is_ready
from millstream_server.node.config import NodeConfig, split_address
from millstream_server.node.data_folder import DataFolderError
from millstream_server.node.format import AlreadyFormattedError

DEFAULT_ADDRESS = "127.0.0.1:9092"
_POLL_S = 0.05


@dataclass(frozen=True)
class Announcement:
    """The one line that tells where to connect and what to try next."""

    output: Output
    address: str
    folder: str

    def make(self) -> None:
        """Write it to stdout."""
        if not self.output.for_people:
            self.output.show({"bootstrapServers": self.address, "dataDir": self.folder})
            return
        # One address is enough to find the others.
        first = self.address.split(",")[0]
        flag = "" if first == DEFAULT_ADDRESS else f" -b {first}"
        print(
            f"Millstream is up at {self.address}, data in {self.folder}. Try: "
            f"echo hello | millstream produce{flag} greetings; "
            f"millstream consume{flag} greetings -o start -e. Ctrl-C stops it.",
            file=self.output.stdout,
            flush=True,
        )


def run_embedded(config: NodeConfig, announcement: Announcement) -> int:
    """Format the folder at the first start, run the node until a signal ends it, and return its
    exit code. Raises CommandError."""
    from millstream_server.node.run import run_node

    try:
        format_data_folder(config)
    except AlreadyFormattedError:
        pass
    except DataFolderError as error:
        raise CommandError(str(error)) from None
    ended = threading.Event()
    if config.admin_listener:
        threading.Thread(
            target=_announce_when_ready, args=(config, announcement, ended), daemon=True
        ).start()
    try:
        return run_node(config)
    finally:
        ended.set()


def _announce_when_ready(
    config: NodeConfig, announcement: Announcement, ended: threading.Event
) -> None:
    host, port = split_address(config.admin_listener)
    while not ended.wait(_POLL_S):
        if is_ready(host, port):
            announcement.make()
            return
