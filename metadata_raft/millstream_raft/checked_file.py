"""Small files that are replaced as a whole: header with CRC, then the content.

::

    magic 8 bytes | format version u32 | content length u64 | crc32 u32 | content
                    '---------------- covered by the crc ---------'   plus content

Written as a temporary file, synced, renamed, and the directory synced (invariant 35): after a
crash the file is the old one or the new one, never a mixture.
"""

import os.path
import struct
import zlib

from millstream_raft.directory_errors import DirectoryDamaged, NewerFormat
from millstream_raft.ports import Files

FORMAT_VERSION = 1
TEMPORARY_SUFFIX = ".tmp"
_COVERED = struct.Struct("<IQ")
_HEADER = struct.Struct("<8sIQI")


def encode_checked(magic: bytes, content: bytes) -> bytes:
    """The bytes of a file with this content."""
    covered = _COVERED.pack(FORMAT_VERSION, len(content))
    crc = zlib.crc32(content, zlib.crc32(covered))
    return _HEADER.pack(magic, FORMAT_VERSION, len(content), crc) + content


def decode_checked(magic: bytes, data: bytes, name: str) -> bytes:
    """The content of a file's bytes. Raises DirectoryDamaged or NewerFormat, naming ``name``."""
    if len(data) < _HEADER.size:
        raise DirectoryDamaged(f"{name} is cut short: {len(data)} bytes")
    found, version, length, crc = _HEADER.unpack_from(data)
    if found != magic:
        raise DirectoryDamaged(f"{name} is not what its name says: it begins with {found!r}")
    content = data[_HEADER.size :]
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"{name} has format {version}; this version of the software reads up to "
            f"{FORMAT_VERSION}"
        )
    if len(content) != length:
        raise DirectoryDamaged(f"{name} holds {len(content)} bytes instead of {length}")
    if zlib.crc32(content, zlib.crc32(data[8 : 8 + _COVERED.size])) != crc:
        raise DirectoryDamaged(f"{name} has a wrong checksum")
    return content


def replace_file(files: Files, path: str, pieces: list[bytes]) -> None:
    """Durably make the file hold these pieces, in one step. May raise OSError."""
    temporary = path + TEMPORARY_SUFFIX
    file = files.open(temporary, create=True)
    try:
        file.truncate(0)
        file.write(0, pieces)
        file.sync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(os.path.dirname(path))


def read_from_disk(files: Files, path: str) -> bytes:
    """What the disk holds, which after a crash may differ from what the page cache shows
    (invariant 34). May raise OSError."""
    file = files.open(path)
    try:
        file.sync()
        files.sync_directory(os.path.dirname(path))
        file.drop_cache()
        return file.read(0, file.size())
    finally:
        file.close()
