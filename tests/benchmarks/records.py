"""The records that benchmarks send: JSON log lines with 1,000 keys, as services write them."""

import json
import random

KEYS = [f"service-{number:04d}".encode() for number in range(1000)]


def make_records(count: int, size_bytes: int, seed: int = 1) -> tuple[list[bytes], list[bytes]]:
    """``count`` (keys, values) of about ``size_bytes`` each; the same for the same seed."""
    rng = random.Random(seed)
    keys = [KEYS[rng.randrange(len(KEYS))] for _ in range(count)]
    pool = [_line(rng, size_bytes) for _ in range(min(count, 5000))]
    return keys, [pool[index % len(pool)] for index in range(count)]


def _line(rng: random.Random, size_bytes: int) -> bytes:
    line = json.dumps(
        {"level": rng.choice(["info", "warn"]), "ms": rng.randrange(10_000), "path": "/orders"}
    ).encode()
    filler = bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz ", k=max(0, size_bytes - len(line))))
    return line + filler
