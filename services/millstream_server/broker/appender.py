"""The one way into the logs: checks a request for one partition, then appends it.

`Produce`, `Publish` and everything else that writes comes through ``Appender.submit``. Payloads
that are slow to check are checked on a thread; what comes later for the same partition queues
behind, so that order holds (invariant 20).
"""

from functools import partial

from millstream.record.batch import ATTRIBUTE_CONTROL
from millstream_raft.image import OFFSETS_TOPIC
from millstream_server.broker.append_request import AppendRequest
from millstream_server.broker.config import BrokerConfig
from millstream_server.broker.counters import BrokerCounters
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.limits import ByteBudget
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.validation import (
    any_slow_to_check,
    check_headers,
    check_payloads,
    parse_batches,
)


class Appender:
    """Checks and appends. Everything runs on the event loop but the checking of payloads."""

    def __init__(self, hosted: HostedPartitions) -> None:
        self._hosted = hosted
        self.budget = ByteBudget(hosted.config.inflight_bytes_max, "broker")
        self._closed = False
        self.unanswered = 0

    @property
    def config(self) -> BrokerConfig:
        """The broker's settings."""
        return self._hosted.config

    @property
    def counters(self) -> BrokerCounters:
        """What the broker counts."""
        return self._hosted.counters

    def close(self) -> None:
        """Refuse everything from now on; what was taken in goes on."""
        self._closed = True

    def check_open(self) -> None:
        """Refuse when the broker is stopping."""
        if self._closed:
            raise Refusal("NODE_SHUTTING_DOWN", "the broker is stopping")

    def newest_epoch(self, topic_id: bytes, partition: int) -> int:
        """Newest leader epoch known here."""
        return self._hosted.newest_epoch(topic_id, partition)

    def submit(self, request: AppendRequest) -> None:
        """Check and append; ``request.done`` is called once, with a Refusal on failure."""
        try:
            replica = self._check(request)
            if replica.checking == 0 and not any_slow_to_check(request.batches):
                check_payloads(request.batches, replica.settings.max_message_bytes)
                self._append(replica, request)
                return
        except Refusal as refusal:
            request.done(request, refusal)
            return
        replica.checking += 1
        job = partial(check_payloads, request.batches, replica.settings.max_message_bytes)
        self._hosted.checks.submit(job, partial(self._checked, replica, request))

    def _check(self, request: AppendRequest) -> Replica:
        self.check_open()  # a publish may have waited for its leader since it was taken in
        replica = self._hosted.find(request.topic_id, request.partition)
        replica.state.check_produce(request.leader_epoch, request.acks_all)
        request.batches = parse_batches(request.encoded)
        request.encoded = ()
        check_headers(request.batches, control_allowed=replica.internal, acks_all=request.acks_all)
        if replica.internal:
            self._check_internal(replica, request)
        return replica

    def _check_internal(self, replica: Replica, request: AppendRequest) -> None:
        """Only the owner of a shard writes its partition (invariant 28); which epoch is the
        newest, the log itself says. The producer id alone proves nothing: whoever reads the topic
        sees it."""
        if not request.from_node:
            raise Refusal("INTERNAL_TOPIC", f"{replica.state.topic} is written by nodes only")
        shards = self._hosted.cluster.image.shards
        number = replica.state.number
        permanent = None
        if replica.state.topic == OFFSETS_TOPIC and number < len(shards):
            permanent = shards[number].producer_id
        known = replica.log.producers.get(permanent) if permanent is not None else None
        newest = known.epoch if known is not None else -1
        for _, header in request.batches:
            if permanent is None or header.producer_id != permanent:
                raise Refusal(
                    "INTERNAL_TOPIC",
                    f"partition {number} of {replica.state.topic} is written by its owner only",
                )
            is_fence = header.attributes & ATTRIBUTE_CONTROL
            if header.producer_epoch > newest and not is_fence:
                raise Refusal(
                    "INVALID_PRODUCER_EPOCH",
                    f"epoch {header.producer_epoch} of the shard has written no fence yet",
                )
            if is_fence and header.base_sequence:
                raise Refusal("INVALID_REQUEST", "base_sequence: a fence has sequence zero")
            newest = max(newest, header.producer_epoch)

    def _checked(
        self, replica: Replica, request: AppendRequest, _: None, error: BaseException | None
    ) -> None:
        replica.checking -= 1
        try:
            if isinstance(error, Refusal):
                raise error
            if error is not None:
                raise Refusal("INTERNAL", f"{type(error).__name__}: {error}")
            replica.check_readable()
            self._append(replica, request)
        except Refusal as refusal:
            request.done(request, refusal)

    def _append(self, replica: Replica, request: AppendRequest) -> None:
        begin_s = self._hosted.loop_time()
        stages = self._hosted.counters.stages
        stages["queue"].observe(begin_s - request.received_at_s)
        replica.append(request)
        stages["append"].observe(self._hosted.loop_time() - begin_s)
