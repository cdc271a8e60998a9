"""Ctrl-C ends every blocking call at once, and the program with it."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.broker import FakeCluster, Fault

ROOT = Path(__file__).parents[3]
_WAITS = {
    "result": "p.send('t', b'x').result()",
    "flush": "p.send('t', b'x'); p.flush()",
    "room": "[p.send('t', b'x' * 1000) for _ in range(100)]",
    "poll": "p.produce('t', b'x', on_delivery=print); p.poll(100)",
    "loop": "import itertools; [p.send('t', b'x') for _ in itertools.count() if not p.poll()]",
}
_PROGRAM = """
import sys
import threading
from millstream import Producer
try:
    with Producer(bootstrap_servers=sys.argv[1], buffer_memory=16384, batch_size=4096) as p:
        p.partitions_for('t')
        print('ready', flush=True)
        {call}
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(1) as running:
        running.create_topic("t")
        # Nothing is ever answered.
        running.always = Fault(hold=threading.Event())
        yield running


@pytest.mark.parametrize("wait", sorted(_WAITS))
def test_ctrl_c_ends_a_blocking_call(cluster: FakeCluster, wait: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(call=_WAITS[wait]), cluster.bootstrap],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        time.sleep(0.3)  # let it get into the wait; the assertion holds either way
        program.send_signal(signal.SIGINT)
        # By itself it would wait for a minute and longer.
        assert program.wait(timeout=30) == 130
    finally:
        program.kill()
        program.communicate()


def test_a_program_that_forgets_to_close_still_ends(cluster: FakeCluster) -> None:
    code = (
        "import sys; from millstream import Producer;"
        "p = Producer(bootstrap_servers=sys.argv[1]); p.send('t', b'x'); print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, cluster.bootstrap], capture_output=True, timeout=20, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, b"end\n")
