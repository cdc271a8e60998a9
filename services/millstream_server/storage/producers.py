"""What the log knows of idempotent producers, and the verdict on their next batch.

Pure. The state is a function of the batches appended (invariant 22): every batch of a producer
goes through ``apply``, live, on followers and at recovery. ``check`` only answers (invariant 21)::

    exact (first, last) sequence of one of the last five batches  → DUPLICATE_HIT with its offset
    follows the last batch, modulo 2^31                           → APPEND
    below the last five batches                                   → DUPLICATE, a success
    unknown producer: sequence 0 → APPEND, other                  → UNKNOWN_PRODUCER
    lower epoch                                                   → INVALID_EPOCH
    higher epoch: sequence 0 → APPEND, other                      → OUT_OF_ORDER
    anything else                                                 → OUT_OF_ORDER

Sequences wrap at 2^31; "below" is what lies nearer to the front of the window than to its end.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from millstream.record import BatchHeader

SEQUENCE_MODULUS = 1 << 31
BATCHES_KEPT = 5


class Decision(Enum):
    """What is to be done with a batch."""

    APPEND = "append"
    DUPLICATE_HIT = "duplicate hit"
    DUPLICATE = "duplicate"
    UNKNOWN_PRODUCER = "unknown producer"
    OUT_OF_ORDER = "out of order"
    INVALID_EPOCH = "invalid epoch"


class Verdict(NamedTuple):
    """The answer to a batch. The offsets and the time are those of the first append for a
    DUPLICATE_HIT, and None for every other decision."""

    decision: Decision
    base_offset: int | None = None
    last_offset: int | None = None
    append_timestamp_ms: int | None = None


class AppendedBatch(NamedTuple):
    """A batch in the window of its producer."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    append_timestamp_ms: int


class ProducerState(NamedTuple):
    """One producer: its epoch and its last batches, oldest first, at least one."""

    epoch: int
    batches: tuple[AppendedBatch, ...]

    @property
    def last_offset(self) -> int:
        """Offset of its last record."""
        return self.batches[-1].last_offset


_APPEND = Verdict(Decision.APPEND)
_DUPLICATE = Verdict(Decision.DUPLICATE)
_UNKNOWN_PRODUCER = Verdict(Decision.UNKNOWN_PRODUCER)
_OUT_OF_ORDER = Verdict(Decision.OUT_OF_ORDER)
_INVALID_EPOCH = Verdict(Decision.INVALID_EPOCH)


def _follows(state: ProducerState, first_sequence: int) -> bool:
    return first_sequence == (state.batches[-1].last_sequence + 1) % SEQUENCE_MODULUS


def decide(state: ProducerState | None, header: BatchHeader, *, expired: bool = False) -> Verdict:
    """The verdict on a batch of a producer in this state; ``expired`` hides the state but for its
    epoch."""
    sequence = header.base_sequence
    if state is not None and header.producer_epoch < state.epoch:
        return _INVALID_EPOCH
    if state is None or (expired and header.producer_epoch == state.epoch):
        return _APPEND if sequence == 0 else _UNKNOWN_PRODUCER
    if header.producer_epoch > state.epoch:
        return _APPEND if sequence == 0 else _OUT_OF_ORDER
    if _follows(state, sequence):
        return _APPEND
    last = header.last_sequence
    for batch in state.batches:
        if batch.first_sequence == sequence and batch.last_sequence == last:
            return Verdict(Decision.DUPLICATE_HIT, *batch[2:])
    # Below the window or ahead of it: whichever is nearer on the circle.
    behind = (state.batches[0].first_sequence - last) % SEQUENCE_MODULUS
    ahead = (sequence - state.batches[-1].last_sequence) % SEQUENCE_MODULUS
    complete = len(state.batches) < BATCHES_KEPT and state.batches[0].first_sequence == 0
    if 0 < behind < ahead and not complete:  # nothing is below the first batch of all
        return _DUPLICATE
    return _OUT_OF_ORDER


def advance(
    state: ProducerState | None,
    header: BatchHeader,
    base_offset: int,
    append_timestamp_ms: int,
) -> ProducerState:
    """The state after a batch was appended at ``base_offset``.

    A batch that does not follow on starts a new window: what is in the log is what counts.
    """
    batch = AppendedBatch(
        header.base_sequence,
        header.last_sequence,
        base_offset,
        base_offset + header.last_offset_delta,
        append_timestamp_ms,
    )
    if (
        state is None
        or state.epoch != header.producer_epoch
        or not _follows(state, header.base_sequence)
    ):
        return ProducerState(header.producer_epoch, (batch,))
    return ProducerState(state.epoch, (*state.batches[1 - BATCHES_KEPT :], batch))


class ProducerTable:
    """The producers of one log by their id. States are immutable, so copies are cheap."""

    def __init__(self, states: Mapping[int, ProducerState] | None = None) -> None:
        self._states = dict(states or {})

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[tuple[int, ProducerState]]:
        return iter(sorted(self._states.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProducerTable) and self._states == other._states

    __hash__ = None  # type: ignore[assignment]

    def get(self, producer_id: int) -> ProducerState | None:
        """The state of a producer; None if it is unknown."""
        return self._states.get(producer_id)

    def put(self, producer_id: int, state: ProducerState) -> None:
        """Replace the state of a producer by one that ``advance`` made."""
        self._states[producer_id] = state

    def check(self, header: BatchHeader, *, expired: bool = False) -> Verdict:
        """The verdict on one batch; APPEND for a producer that is not idempotent (id 0)."""
        if header.producer_id == 0:
            return _APPEND
        return decide(self._states.get(header.producer_id), header, expired=expired)

    def check_all(
        self, headers: Sequence[BatchHeader], expired: Iterable[int] = ()
    ) -> list[Verdict]:
        """The verdicts on batches that would be appended one after another. Changes nothing."""
        expired_ids = set(expired)
        ahead: dict[int, ProducerState] = {}
        verdicts = []
        for header in headers:
            producer_id = header.producer_id
            state = ahead.get(producer_id)
            if producer_id == 0:
                verdict = _APPEND
            elif state is not None:
                verdict = decide(state, header)
            else:
                verdict = self.check(header, expired=producer_id in expired_ids)
            if verdict.decision is Decision.APPEND and producer_id:
                ahead[producer_id] = advance(state or self.get(producer_id), header, 0, 0)
            verdicts.append(verdict)
        return verdicts

    def apply(self, header: BatchHeader) -> None:
        """Take in a batch as it stands in the log (offsets and time in its header)."""
        if header.producer_id:
            self._states[header.producer_id] = advance(
                self._states.get(header.producer_id),
                header,
                header.base_offset,
                header.append_timestamp_ms,
            )

    def forget_below(self, start_offset: int, silence_ms: int) -> list[int]:
        """Drop producers whose last record was deleted, and which appended nothing for so long
        before the newest append of theirs; return their ids. A producer that is heard of still may
        be repeating what was deleted (KIP-360). What is forgotten depends on when this is called;
        whom it concerns, every leader takes for unknown anyway."""
        newest_ms = max(
            (one.batches[-1].append_timestamp_ms for one in self._states.values()), default=0
        )
        gone = [
            producer_id
            for producer_id, state in self._states.items()
            if state.last_offset < start_offset
            and state.batches[-1].append_timestamp_ms < newest_ms - silence_ms
        ]
        for producer_id in gone:
            del self._states[producer_id]
        return gone

    def copy(self) -> "ProducerTable":
        """A table that changes on its own."""
        return ProducerTable(self._states)
