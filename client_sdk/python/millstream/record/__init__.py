"""The batch codec: what a producer encodes, a broker stores and a consumer decodes.

Shared by the SDK and the services; knows nothing of networks, files or clocks.
"""

from millstream.record.batch import (
    BatchHeader,
    CorruptBatchError,
    build_batch,
    iterate_frames,
    parse_header,
    verify_batch,
    verify_crc,
)
from millstream.record.columns import (
    Columns,
    CorruptRecordsError,
    decode_records,
    encode_records,
    parse_records,
)
from millstream.record.compression import (
    CODEC_NAMES,
    CODEC_NUMBERS,
    UNCOMPRESSED_BYTES_MAX,
    DecompressionError,
    UnsupportedCodecError,
    compress,
    decompress,
)

__all__ = [
    "CODEC_NAMES",
    "CODEC_NUMBERS",
    "UNCOMPRESSED_BYTES_MAX",
    "BatchHeader",
    "Columns",
    "CorruptBatchError",
    "CorruptRecordsError",
    "DecompressionError",
    "UnsupportedCodecError",
    "build_batch",
    "compress",
    "decode_records",
    "decompress",
    "encode_records",
    "iterate_frames",
    "parse_header",
    "parse_records",
    "verify_batch",
    "verify_crc",
]
