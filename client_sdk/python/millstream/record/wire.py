"""Raw twins: the generated messages with their bulky parts left as bytes.

On the wire an embedded message, a packed column of fixed-width numbers and a byte string look the
same: a tag, a
length, the bytes. So a copy of a descriptor in which those fields are declared as ``bytes`` reads
and writes exactly the
same encoding, without making an object per batch or a Python number per record. The copies are
derived from the
generated descriptors when this module is imported; the ``.proto`` files stay the only truth.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from millstream.v1 import broker_service_pb2, errors_pb2, record_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_COLUMN_TYPES = (_FIELD.TYPE_FIXED32, _FIELD.TYPE_SFIXED32)
_BATCH = ".millstream.v1.RecordBatch"


def _make_raw(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type_name == _BATCH:
            field.ClearField("type_name")
            field.type = _FIELD.TYPE_BYTES
        elif field.label == _FIELD.LABEL_REPEATED and field.type in _COLUMN_TYPES:
            field.label = _FIELD.LABEL_OPTIONAL
            field.type = _FIELD.TYPE_BYTES
            field.ClearField("options")


def _raw_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (errors_pb2, record_pb2, broker_service_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            _make_raw(message)
        pool.Add(file)
    return pool


_POOL = _raw_pool()


def _raw(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"millstream.v1.{name}"))


# `Records` and `HeaderColumns` with every column as little-endian bytes.
RawRecords = _raw("Records")
RawHeaderColumns = _raw("HeaderColumns")
# Requests and responses with every batch as bytes.
RawProduceRequest = _raw("ProduceRequest")
RawProducePartition = _raw("ProducePartition")
RawFetchResponse = _raw("FetchResponse")
RawFetchedPartition = _raw("FetchedPartition")
RawSegment = _raw("Segment")


def encode_varint(value: int) -> bytes:
    """Encode a non-negative integer as the shortest Protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    """Read a varint of at most 5 bytes; return (value, position after it).

    Raises ValueError if it is cut off, longer than 5 bytes or not the shortest form.
    """
    value = shift = 0
    for index in range(position, min(end, position + 5)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise ValueError("varint is not in its shortest form")
            return value, index + 1
        shift += 7
    raise ValueError("varint is cut off or too long")
