"""From a record's key to its partition, as the Kafka clients do it, so that keys stay where they
are when a topic moves over.

``consistent_random`` is librdkafka's default: CRC-32 of the key; a null or empty key has no
partition of its own. ``murmur2_random`` is the Java client's: murmur2 of the key, an empty one
included; only a null key has none. Keys without a partition stick to one for a batch.
"""

import zlib
from collections.abc import Callable

# The partition of a key among `count`; None: any partition will do.
Partitioner = Callable[[bytes, int], int | None]

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2 with Kafka's seed, as an unsigned 32-bit number."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length & 3:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def consistent_random(key: bytes, count: int) -> int | None:
    """CRC-32 of the key; None for an empty key."""
    return zlib.crc32(key) % count if key else None


def murmur2_random(key: bytes, count: int) -> int | None:
    """Murmur2 of the key, made positive as the Java client does it."""
    return (murmur2(key) & 0x7FFFFFFF) % count


PARTITIONERS: dict[str, Partitioner] = {
    "consistent_random": consistent_random,
    "murmur2_random": murmur2_random,
}
