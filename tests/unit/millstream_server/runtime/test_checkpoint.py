"""Checkpoints are replaced as a whole, whatever happens in between."""

import errno
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream_server.runtime.checkpoint import (
    CorruptCheckpointError,
    decode_checkpoint,
    encode_checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from tests.fakes.memory_files import Fault, MemoryFiles

PATH = "/data/point"


def files_with(payload: bytes) -> MemoryFiles:
    files = MemoryFiles()
    files.make_directory("/data")
    write_checkpoint(files, PATH, payload)
    return files


@given(st.binary(max_size=200))
def test_a_payload_comes_back(payload: bytes) -> None:
    assert decode_checkpoint(encode_checkpoint(payload)) == payload


def test_a_missing_checkpoint_is_none() -> None:
    files = MemoryFiles()
    files.make_directory("/data")
    assert read_checkpoint(files, PATH) is None


def test_every_cut_and_every_flipped_byte_is_found() -> None:
    data = encode_checkpoint(b'{"epoch": 7}')
    for size in range(len(data)):
        with pytest.raises(CorruptCheckpointError):
            decode_checkpoint(data[:size])
    for position in range(len(data)):
        spoilt = bytearray(data)
        spoilt[position] ^= 0x20
        with pytest.raises(CorruptCheckpointError):
            decode_checkpoint(bytes(spoilt))


def test_a_write_survives_power_loss() -> None:
    files = files_with(b"one")
    write_checkpoint(files, PATH, b"two")
    files.power_loss()
    assert read_checkpoint(files, PATH) == b"two"


def test_a_failure_or_power_loss_at_every_step_leaves_one_payload_whole() -> None:
    for name in ("open", "truncate", "write", "sync", "rename", "sync_directory"):
        for seed in range(10):
            files = files_with(b"the old payload")
            files.faults = [Fault(name, error=errno.EIO, short_bytes=20)]
            with pytest.raises(OSError, match=r"Input/output"):
                write_checkpoint(files, PATH, b"the new, longer payload")
            files.faults = []
            files.power_loss(Random(seed), keep=0.5)
            assert read_checkpoint(files, PATH) in (b"the old payload", b"the new, longer payload")


def test_removal_is_durable() -> None:
    files = files_with(b"one")
    remove_checkpoint(files, PATH)
    remove_checkpoint(files, PATH)
    files.power_loss()
    assert read_checkpoint(files, PATH) is None
