"""Codecs of batch payloads, with decompression bounded by a hard cap on the output.

The codec libraries come with the ``compression`` extra and are loaded on first use; without them
only uncompressed
batches can be written or read, and the error says what to install.
"""

import sys
import threading
from typing import Any

NONE, LZ4, ZSTD = 0, 3, 4
CODEC_NUMBERS = {"none": NONE, "lz4": LZ4, "zstd": ZSTD}
CODEC_NAMES = {number: name for name, number in CODEC_NUMBERS.items()}

# No batch may decompress to more than this, whatever it claims (decompression bombs).
UNCOMPRESSED_BYTES_MAX = 16 * 1024 * 1024
_LZ4_SCRATCH_START_BYTES = 1024 * 1024
_ZSTD_LEVEL = 1

_thread = threading.local()


class UnsupportedCodecError(ValueError):
    """The codec is unknown, or the library for it is not installed."""


class DecompressionError(ValueError):
    """The payload is not valid for its codec, or decompresses to more than the cap."""


def _lz4() -> Any:
    try:
        import cramjam
    except ImportError:
        raise UnsupportedCodecError("lz4 needs: pip install 'millstream[compression]'") from None
    return cramjam.lz4


def _zstd() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise UnsupportedCodecError("zstd needs: pip install 'millstream[compression]'") from None
    return zstd


def require_codec(codec: int) -> None:
    """Raise UnsupportedCodecError unless batches of this codec can be written and read here."""
    if codec == LZ4:
        _lz4()
    elif codec == ZSTD:
        _zstd()
    elif codec != NONE:
        raise UnsupportedCodecError(f"unknown codec {codec}")


def compress(codec: int, data: bytes) -> bytes:
    """Compress a payload. Raises UnsupportedCodecError."""
    if codec == NONE:
        return data
    if codec == LZ4:
        return bytes(_lz4().compress(data))
    if codec == ZSTD:
        return bytes(_zstd().compress(data, _ZSTD_LEVEL))
    raise UnsupportedCodecError(f"unknown codec {codec}")


def decompress(codec: int, data: bytes, bytes_max: int = UNCOMPRESSED_BYTES_MAX) -> bytes:
    """Decompress a payload to at most ``bytes_max`` bytes.

    Raises UnsupportedCodecError, or DecompressionError if the payload is malformed or would grow
    beyond the cap.
    """
    if codec == NONE:
        if len(data) > bytes_max:
            raise DecompressionError(f"payload is larger than {bytes_max} bytes")
        return data
    if codec == LZ4:
        return _decompress_lz4(data, bytes_max)
    if codec == ZSTD:
        return _decompress_zstd(data, bytes_max)
    raise UnsupportedCodecError(f"unknown codec {codec}")


def _decompress_lz4(data: bytes, bytes_max: int) -> bytes:
    # The library can bound its output only by the size of a buffer, so one scratch buffer a thread
    # is kept, and grown
    # when a payload needs more. Its error for "does not fit" differs from that for malformed input
    # by text alone;
    # so the largest buffer decides.
    library = _lz4()
    scratch: bytearray = getattr(_thread, "scratch", None) or bytearray(_LZ4_SCRATCH_START_BYTES)
    while True:
        view = memoryview(scratch)[:bytes_max]
        try:
            size = library.decompress_into(data, view)
        except Exception as error:  # noqa: BLE001 - the library's error class is private to it
            if len(scratch) >= bytes_max or "whole buffer" not in str(error):
                raise DecompressionError(f"lz4: {error}") from None
            scratch = bytearray(min(bytes_max, 4 * len(scratch)))
            continue
        _thread.scratch = scratch
        return bytes(view[:size])


def _decompress_zstd(data: bytes, bytes_max: int) -> bytes:
    library = _zstd()
    decompressor = library.ZstdDecompressor()
    try:
        out: bytes = decompressor.decompress(data, max_length=bytes_max)
        if not decompressor.eof and len(out) == bytes_max:
            out += decompressor.decompress(b"", max_length=1)
    except library.ZstdError as error:
        raise DecompressionError(f"zstd: {error}") from None
    if not decompressor.eof or decompressor.unused_data or len(out) > bytes_max:
        raise DecompressionError(
            f"zstd: cut off, followed by rubbish, or larger than {bytes_max} bytes"
        )
    return out
