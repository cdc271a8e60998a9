"""Records as bytes and back; keys that compaction can compare."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream_server.coordinator.record_codec import (
    UnknownRecordError,
    decode_record,
    encode_record,
)
from millstream_server.coordinator.records import (
    CommittedPosition,
    CurrentAssignment,
    CurrentAssignmentRecord,
    GroupMetadata,
    GroupMetadataRecord,
    MemberMetadata,
    MemberMetadataRecord,
    PositionRecord,
    Record,
    TargetAssignmentRecord,
)

TEXT = st.text(max_size=5)
EPOCH = st.integers(0, 2**32 - 1)
OFFSET = st.integers(0, 2**63 - 1)
TOPIC_ID = st.binary(min_size=16, max_size=16)
PARTITIONS = st.frozensets(st.tuples(TOPIC_ID, st.integers(0, 9)), max_size=5)


def optional(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


RECORDS = st.one_of(
    st.builds(
        GroupMetadataRecord,
        TEXT,
        optional(st.builds(GroupMetadata, EPOCH, EPOCH, TEXT, st.integers(0, 2**64 - 1), OFFSET)),
    ),
    st.builds(
        MemberMetadataRecord,
        TEXT,
        TEXT,
        optional(
            st.builds(
                MemberMetadata,
                *[TEXT] * 4,
                st.lists(TEXT, max_size=3).map(tuple),
                TEXT,
                TEXT,
                EPOCH,
                EPOCH,
            )
        ),
    ),
    st.builds(TargetAssignmentRecord, TEXT, TEXT, optional(PARTITIONS)),
    st.builds(
        CurrentAssignmentRecord,
        TEXT,
        TEXT,
        optional(st.builds(CurrentAssignment, EPOCH, EPOCH, PARTITIONS, PARTITIONS, st.booleans())),
    ),
    st.builds(
        PositionRecord,
        TEXT,
        TOPIC_ID,
        st.integers(0, 2**32 - 1),
        optional(
            st.builds(
                CommittedPosition,
                OFFSET,
                st.none() | EPOCH,
                TEXT,
                OFFSET,
                EPOCH,
                st.lists(st.tuples(OFFSET, OFFSET), max_size=3).map(tuple),
            )
        ),
    ),
)


@given(RECORDS)
def test_every_record_comes_back(record: Record) -> None:
    assert decode_record(*encode_record(record)) == record


@given(RECORDS, RECORDS)
def test_keys_are_equal_for_the_same_thing_only(one: Record, other: Record) -> None:
    def about(record: Record) -> tuple[object, ...]:
        names = [name for name in record.__slots__ if name != "value"]
        return type(record), *(getattr(record, name) for name in names)

    assert (encode_record(one)[0] == encode_record(other)[0]) == (about(one) == about(other))


def test_a_position_is_a_set_of_ranges_on_disk() -> None:
    # Bytes that must stay readable for ever.
    position = CommittedPosition(3, 1, "m", 5, 2, ((7, 9),))
    key, value = encode_record(PositionRecord("g", b"t" * 16, 4, position))
    assert key.hex() == "2a17" + "0a0167" + "1210" + "74" * 16 + "1804"
    assert value is not None
    assert value.hex() == "0803" + "1001" + "1a016d" + "2005" + "2802" + "3204" + "08071009"


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"\x7a\x00"])
def test_unknown_keys_are_told_apart(key: bytes | None) -> None:
    with pytest.raises(UnknownRecordError):
        decode_record(key, b"")
