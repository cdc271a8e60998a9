"""Ships log lines through a keyed producer and follows their acknowledgements."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from millstream import MillstreamError, Producer
from tests.cluster.demo.ledger import SentRecords
from tests.cluster.demo.log_lines import (
    HEADER_ID,
    HEADER_LINE,
    HEADER_SOURCE,
    LogLine,
    fingerprint,
)

# Receipts kept; beyond it the oldest is waited for.
_PENDING_MAX = 50_000


class Shipping:
    """Sends records one after another; ``sent`` tells what became of them."""

    def __init__(
        self, bootstrap: str, topic: str, gate: Callable[[int], None], stopped: threading.Event
    ) -> None:
        """``gate`` is called with the number of records sent before each; it may wait."""
        self.sent = SentRecords()
        self.acknowledged = 0
        self.failures: list[str] = []
        # Longest time without an acknowledgement while one was waited for, seconds.
        self.ack_gap_s_max = 0.0
        self._acknowledged_at_s = 0.0
        self._topic = topic
        self._gate = gate
        self._stopped = stopped
        self._config: Mapping[str, Any] = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "linger.ms": 5,
            "client.id": "demo-producer",
        }

    def run(self, lines: Iterable[LogLine]) -> None:
        """Send all lines, each with its source line number in a header, and wait for all answers;
        end early when ``stopped`` is set."""
        pending: deque[tuple[int, float, Any]] = deque()
        with Producer.from_config(dict(self._config)) as producer:
            for line in lines:
                if self._stopped.is_set():
                    return
                self._gate(len(self.sent))
                number = str(line.number).encode()
                record_id = self.sent.add(fingerprint(line.key, line.text, number))
                headers = (
                    (HEADER_ID, str(record_id).encode()),
                    (HEADER_SOURCE, line.source.encode()),
                    (HEADER_LINE, number),
                )
                receipt = producer.send(self._topic, value=line.text, key=line.key, headers=headers)
                pending.append((record_id, time.monotonic(), receipt))
                self._settle(pending, _PENDING_MAX)
            self._settle(pending, 0)

    def _settle(self, pending: deque[tuple[int, float, Any]], pending_max: int) -> None:
        while pending and (len(pending) > pending_max or pending[0][2].done()):
            record_id, sent_at_s, receipt = pending.popleft()
            try:
                place = receipt.result()
            except MillstreamError as error:
                self.failures.append(f"record {record_id}: {error}")
                continue
            self.sent.acknowledge(record_id, place.partition, place.offset)
            self.acknowledged += 1
            now_s = time.monotonic()
            gap_s = now_s - max(sent_at_s, self._acknowledged_at_s)
            self.ack_gap_s_max = max(self.ack_gap_s_max, gap_s)
            self._acknowledged_at_s = now_s
