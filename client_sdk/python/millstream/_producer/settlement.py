"""What becomes of batches that were sent: answers, broken streams, time-outs, give-ups.

The half of the producer's decisions that settles; ``_sender`` is the half that sends, and has the
rules. Pure: time comes in as milliseconds; not locked.
"""

from collections.abc import Callable

from millstream._client.config import ProducerConfig
from millstream._client.retry import Backoff, Chance
from millstream._errors import MillstreamError, PurgedError, TimedOutError
from millstream._errors.status import from_reason
from millstream._producer.accumulator import Accumulator
from millstream._producer.batch import Batch, Durability
from millstream._producer.batch_split import split_batch
from millstream._producer.call import ProduceCall
from millstream._producer.outcome import Outcome, outcome_of
from millstream._producer.partition_queue import PartitionQueue
from millstream.v1 import broker_service_pb2, errors_pb2

_OK = errors_pb2.ERROR_REASON_UNSPECIFIED
_DUPLICATE = errors_pb2.ERROR_REASON_DUPLICATE_SEQUENCE


class Settlement:
    """Settles the fate of the batches of one producer."""

    def __init__(self, config: ProducerConfig, accumulator: Accumulator, chance: Chance) -> None:
        self._config = config
        self._accumulator = accumulator
        self._chance = chance
        # Requests whose answer is awaited, by correlation id, oldest first.
        self._calls: dict[int, ProduceCall] = {}
        # A new producer epoch is due, see ``_sender``.
        self.epoch_is_spent = False
        # The producer cannot go on.
        self.fatal: MillstreamError | None = None
        # Told about every batch that left the sender, its fate settled.
        self.on_done: Callable[[Batch], None] = accumulator.release

    # ---- answers

    def on_written(self, call: ProduceCall) -> None:
        """A request with acks=0 was handed to the network: nobody will answer it."""
        self._calls.pop(call.correlation_id, None)
        for queue, batch in call.waiting.values():
            self._answered(queue, batch)
            self._finish(queue, batch)

    def on_response(self, response: broker_service_pb2.ProduceResponse, now_ms: int) -> None:
        """Take in an answer; late ones, for attempts already given up, are dropped."""
        for result in response.results:
            call = self._calls.get(result.correlation_id)
            if call is None:
                continue
            entry = call.waiting.pop((result.topic_id, result.partition), None)
            if not call.waiting:
                del self._calls[result.correlation_id]
            if entry is None:
                continue
            queue, batch = entry
            self._answered(queue, batch)
            if result.error in (_OK, _DUPLICATE):
                self._succeed(queue, batch, result)
            else:
                error = from_reason(
                    result.error,
                    result.message,
                    indeterminate=result.indeterminate,
                    retry_after_ms=result.retry_after_ms,
                )
                self._attempt_failed(queue, batch, error, now_ms)

    def on_broken(self, node_id: int, error: MillstreamError, now_ms: int) -> None:
        """The stream to a node ended: its unanswered batches may have been appended or not."""
        for call in [call for call in self._calls.values() if call.node_id == node_id]:
            del self._calls[call.correlation_id]
            for queue, batch in call.waiting.values():
                self._answered(queue, batch)
                self._attempt_failed(queue, batch, error, now_ms)

    def _answered(self, queue: PartitionQueue, batch: Batch) -> None:
        batch.outstanding = False
        queue.outstanding -= 1

    def _succeed(
        self, queue: PartitionQueue, batch: Batch, result: broker_service_pb2.ProduceResult
    ) -> None:
        offset = result.base_offset if result.HasField("base_offset") else None
        appended_ms = result.append_timestamp_ms if queue.topic.info.log_append_time else None
        try:
            durability = Durability(result.durability)
        except ValueError:  # a newer broker's
            durability = Durability.UNSPECIFIED
        self._finish(queue, batch, None, offset, appended_ms, durability)

    def _finish(
        self,
        queue: PartitionQueue,
        batch: Batch,
        error: MillstreamError | None = None,
        base_offset: int | None = None,
        append_timestamp_ms: int | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> None:
        """The batch leaves the sender."""
        if batch in queue.in_flight:
            queue.in_flight.remove(batch)
        if queue.idle:
            self._accumulator.active.pop(queue, None)
        batch.complete(error, base_offset, append_timestamp_ms, durability)
        self.on_done(batch)

    def _attempt_failed(
        self, queue: PartitionQueue, batch: Batch, error: MillstreamError, now_ms: int
    ) -> None:
        batch.indeterminate = batch.indeterminate or error.indeterminate
        batch.last_failure = error
        earlier = queue.in_flight[: queue.in_flight.index(batch)]
        outcome = outcome_of(
            batch,
            error,
            earlier=earlier,
            idempotent=self._config.idempotent,
            retries_max=self._config.retries,
        )
        if outcome is Outcome.RETRY:
            self._retry(queue, batch, error, now_ms)
        elif outcome is Outcome.HOLD:
            batch.held = True
            self.epoch_is_spent = True
        elif outcome is Outcome.SPLIT:
            place = len(earlier)
            queue.in_flight[place : place + 1] = split_batch(batch)
            queue.retrying = True
            queue.retry_at_ms = now_ms
        elif outcome is Outcome.FATAL:
            self.fail_all(error)
        else:
            self._give_up(queue, batch, error)

    def _retry(
        self, queue: PartitionQueue, batch: Batch, error: MillstreamError, now_ms: int
    ) -> None:
        config = self._config
        backoff = Backoff(config.retry_backoff_ms, config.retry_backoff_max_ms, self._chance)
        backoff.failures = max(0, batch.attempts - 1)
        moment_ms = now_ms + max(backoff.next_ms(), error.retry_after_ms)
        queue.retry_at_ms = max(queue.retry_at_ms, moment_ms) if queue.retrying else moment_ms
        queue.retrying = True

    def _give_up(self, queue: PartitionQueue, batch: Batch, error: MillstreamError) -> None:
        """Fail a batch. If others were numbered after it, their numbers now have a gap."""
        last = bool(queue.in_flight) and queue.in_flight[-1] is batch
        if self._config.idempotent and batch.base_sequence >= 0:
            if last and not batch.indeterminate:
                queue.next_sequence = batch.base_sequence
            else:
                self.epoch_is_spent = True
        own = type(error)(error.message, indeterminate=batch.indeterminate, details=error.details)
        self._finish(queue, batch, own)

    # ---- limits

    def expire(self, now_ms: int) -> list[int]:
        """Fail batches older than delivery.timeout.ms; returns nodes that answer too late.

        The owner breaks the streams to those nodes. Call it now and then while records wait.
        """
        limit_ms = now_ms - self._config.delivery_timeout_ms
        for queue in list(self._accumulator.active):
            for batch in queue.batches():
                if batch.created_ms > limit_ms:
                    break
                self.abandon(queue, batch, _expired(batch))
        late_ms = now_ms - self._config.request_timeout_ms
        return list({call.node_id for call in self._calls.values() if call.sent_ms <= late_ms})

    def abandon(self, queue: PartitionQueue, batch: Batch, error: MillstreamError) -> None:
        """Tell the application that a batch failed. If its answer is awaited, it stays in its
        place until that has come, since only then it is known what the sequences mean."""
        if batch is queue.open:
            self._accumulator.seal(queue)
        if batch in queue.sealed:
            queue.sealed.remove(batch)
            error.indeterminate = False
            self._finish(queue, batch, error)
        elif batch.outstanding:
            error.indeterminate = True
            batch.abandoned = True
            batch.complete(error)
        elif batch in queue.in_flight:
            self._give_up(queue, batch, error)

    def abandon_all(self, *, queued: bool = True, in_flight: bool = True) -> None:
        """Drop everything that waits; see ``Producer.purge``."""
        for queue in list(self._accumulator.active):
            for batch in queue.batches():
                sent = batch in queue.in_flight
                if in_flight if sent else queued:
                    self.abandon(queue, batch, PurgedError("dropped before its acknowledgement"))

    def fail_all(self, error: MillstreamError) -> None:
        """The producer cannot go on: everything that waits fails, and so will every send."""
        self.fatal = error
        for queue in list(self._accumulator.active):
            self.fail_queue(queue, error)

    def fail_queue(self, queue: PartitionQueue, error: MillstreamError) -> None:
        """Fail all batches of a partition for one reason, each with an error of its own."""
        for call in list(self._calls.values()):
            for key in [key for key, entry in call.waiting.items() if entry[0] is queue]:
                del call.waiting[key]
            if not call.waiting:
                del self._calls[call.correlation_id]
        self._accumulator.seal(queue)
        for batch in queue.batches():
            unsure = batch.indeterminate or batch.outstanding
            self._finish(queue, batch, type(error)(error.message, indeterminate=unsure))
        queue.sealed.clear()
        queue.outstanding = 0
        queue.retrying = False

    def pending(self) -> list[Batch]:
        """All batches whose fate the application does not know yet."""
        return [
            batch
            for queue in self._accumulator.active
            for batch in queue.batches()
            if not batch.done
        ]


def _expired(batch: Batch) -> MillstreamError:
    """What to tell of a batch whose time is over: the broker's own reason, where all attempts were
    refused for sure, says more than that time passed."""
    text, last = "delivery.timeout.ms passed before the acknowledgement", batch.last_failure
    if last is None:
        return TimedOutError(text)
    if batch.indeterminate:
        return TimedOutError(f"{text}; the last attempt failed with {last}")
    return type(last)(f"{last.message} ({text})", details=last.details)
