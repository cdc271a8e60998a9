"""Runs one node until a signal ends it."""

import asyncio
import signal

import structlog

from millstream_server.node.config import NodeConfig
from millstream_server.node.data_folder import DataFolderError
from millstream_server.node.node import Node, NodeStartError
from millstream_server.runtime.logs import configure_logging
from millstream_server.runtime.memory import keep_big_blocks_on_the_heap
from millstream_server.runtime.system import SystemClock, SystemFiles

EXIT_OK, EXIT_FAILED = 0, 1
_log = structlog.get_logger()


def run_node(config: NodeConfig) -> int:
    """Run the node in the foreground; return the exit code of the process."""
    configure_logging(config.log_format, config.log_level)
    keep_big_blocks_on_the_heap()
    return asyncio.run(_run(config))


async def _run(config: NodeConfig) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    node = Node(config, clock=SystemClock(), files=SystemFiles())
    try:
        await node.start()
        # A node that cannot register or reach the quorum goes on trying, but still ends at once.
        ready = asyncio.ensure_future(node.become_ready())
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait((ready, stop), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            await stop
        else:
            ready.cancel()
    except (DataFolderError, NodeStartError) as error:
        _log.error("the node cannot run", reason=str(error))
        return EXIT_FAILED
    finally:
        await node.stop()
    return EXIT_OK
