"""Partitioners against known answers of the Kafka clients."""

import pytest

from millstream._producer.partitioner import consistent_random, murmur2, murmur2_random


# From org.apache.kafka.common.utils.UtilsTest.
@pytest.mark.parametrize(
    ("key", "want"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(key: bytes, want: int) -> None:
    found = murmur2(key)
    assert (found - (1 << 32) if found >> 31 else found) == want


def test_murmur2_random_takes_the_positive_part() -> None:
    # librdkafka's unit test of the partitioner has the same answers.
    assert murmur2(b"kafka") == 0xD067CF64
    assert murmur2_random(b"kafka", 1000) == (0xD067CF64 & 0x7FFFFFFF) % 1000
    assert murmur2(b"") == 0x106E08D9
    assert murmur2_random(b"", 1000) == 0x106E08D9 % 1000


def test_crc32_is_the_standard_one() -> None:
    assert consistent_random(b"123456789", 1 << 32) == 0xCBF43926
    assert consistent_random(b"123456789", 7) == 0xCBF43926 % 7


def test_an_empty_key_has_no_partition_of_its_own_with_crc32() -> None:
    assert consistent_random(b"", 10) is None
