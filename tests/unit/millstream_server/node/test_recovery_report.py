"""What is logged during recovery."""

from structlog.testing import capture_logs

from millstream_server.node.recovery_report import RecoveryReport
from millstream_server.storage.directory import RecoveryProgress
from tests.fakes.manual_clock import ManualClock


def test_many_logs_are_told_now_and_then_and_once_in_the_end() -> None:
    clock = ManualClock()
    with capture_logs() as lines:
        report = RecoveryReport(clock)
        for done in range(1, 1_001):
            clock.advance(5)
            report(RecoveryProgress(logs_done=done, logs_total=1_000, scanned_bytes=done * 10))
    assert [(line["event"], line["logs_done"]) for line in lines] == [
        ("recovering logs", 400),
        ("recovering logs", 800),
        ("logs recovered", 1_000),
    ]
    assert (lines[-1]["scanned_bytes"], lines[-1]["duration_ms"]) == (10_000, 5_000)
