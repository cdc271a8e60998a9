"""Indexes are hints: whatever happens to them, reads are right (invariant 35)."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream_server.storage import LogConfig
from millstream_server.storage.index_file import IndexDamagedError
from millstream_server.storage.offset_index import OffsetEntry, OffsetIndex
from tests.fakes.memory_files import MemoryFiles
from tests.fakes.storage import Appender, make_batch

CONFIG = LogConfig(preallocate_bytes=0, segment_bytes=4000, index_interval_bytes=250)


def filled() -> Appender:
    appender = Appender(config=CONFIG)
    for number in range(80):
        appender.append(make_batch((b"value %d" % number,), timestamp_ms=1000 + number))
    appender.log.flush()
    return appender


def index_of(keys: list[int], flushed: int) -> OffsetIndex:
    files = MemoryFiles()
    files.make_directory("/d")
    index = OffsetIndex(files, "/d/x.index", 7)
    for number, key in enumerate(keys):
        if number == flushed:
            index.flush()
        index.add(OffsetEntry(key, 10 * key))
    return index


@given(st.sets(st.integers(0, 100)), st.integers(0, 20), st.integers(0, 110))
def test_the_last_entry_at_or_below_a_key(keys: set[int], flushed: int, key: int) -> None:
    ordered = sorted(keys)
    index = index_of(ordered, flushed)
    below = [one for one in ordered if one <= key]
    assert index.last_at_or_below(key) == ((below[-1], 10 * below[-1]) if below else None)
    index.truncate(key)
    assert [entry.offset for entry in index.entries()] == [one for one in ordered if one < key]


def test_an_entry_of_another_segment_or_with_a_flipped_bit_is_refused() -> None:
    index = index_of([1, 2, 3], 0)
    index.flush()
    files = index._files
    assert isinstance(files, MemoryFiles)
    with pytest.raises(IndexDamagedError):
        OffsetIndex(files, index.path, 8).entries()
    content = bytearray(files.content(index.path))
    content[20] ^= 1
    files.damage(index.path, bytes(content))
    with pytest.raises(IndexDamagedError):
        OffsetIndex(files, index.path, 7).entries()


def spoil(files: MemoryFiles, path: str, how: str, random: Random) -> None:
    content = bytearray(files.content(path))
    if how == "missing":
        files.remove(path)
    elif how == "empty":
        files.damage(path, b"")
    elif how == "short":
        files.damage(path, bytes(content[: random.randrange(len(content) + 1)]))
    elif how == "flipped" and content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        files.damage(path, bytes(content))
    elif how == "rubbish":
        files.damage(path, random.randbytes(len(content)))
    elif how == "reordered":  # as whole blocks that changed places, each entry right in itself
        width = 28 if path.endswith("timeindex") else 16
        half = len(content) // width // 2 * width
        files.damage(path, bytes(content[half:] + content[:half]))
    elif how == "longer":
        files.damage(path, bytes(content) + random.randbytes(100))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["missing", "empty", "short", "flipped", "rubbish", "longer", "reordered", "swapped"]
    ),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_reads_are_right_whatever_the_indexes_hold(how: str, clean: bool, seed: int) -> None:
    random = Random(seed)
    appender = filled()
    expected = appender.read_all()
    folder = appender.folder
    if clean:
        appender.directory.close()
    files = appender.files.copy()
    paths = [f"{folder}/{name}" for name in files.list_directory(folder) if name.endswith("index")]
    contents = [files.content(path) for path in paths]
    for number, path in enumerate(paths):
        if how == "swapped":
            files.damage(path, contents[number - 2])
        else:
            spoil(files, path, how, random)
    again = Appender(files, CONFIG)
    assert again.log.failure is None
    assert again.read_all() == expected
    for _ in range(10):
        number = random.randrange(80)
        assert again.log.find_offset(1000 + number, 80) == (number, 1000 + number)
    again.append(make_batch())
    assert again.log.retain(10**15, 81) > 0
    third = Appender(files, CONFIG)
    assert third.log.failure is None


@pytest.mark.parametrize("how", ["missing", "rubbish"])
def test_a_closed_segment_gets_its_indexes_back_on_first_use(how: str) -> None:
    config = LogConfig(preallocate_bytes=0, segment_bytes=200_000, index_interval_bytes=250)
    appender = Appender(config=config)
    batches = [make_batch((b"%d" % number,), timestamp_ms=number) for number in range(1600)]
    for first in range(0, 1600, 100):
        appender.append(*batches[first : first + 100])
    appender.directory.close()
    files = appender.files
    paths = [f"{appender.folder}/{0:020d}.index", f"{appender.folder}/{0:020d}.timeindex"]
    for path in paths:
        spoil(files, path, how, Random(1))
    again = Appender(files, config)
    again.log.read(1200, 100, 1600)
    files.bytes_read = 0
    again.log.read(1300, 100, 1600)
    assert files.bytes_read < 70_000
    assert again.log.find_offset(700, 1600) == (700, 700)
    for path in paths:
        assert len(files.content(path)) > 100
