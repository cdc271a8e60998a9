"""Turns what the SDK answers into documents: plain values under the JSON names of the protos."""

import base64
import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any


def document(value: Any) -> Any:
    """The value as numbers, text, lists and dictionaries: names in camelCase, ids in base64, enum
    values by name."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {camel(name): document(item) for name, item in fields.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {camel(name): document(getattr(value, name)) for name in value._fields}
    if isinstance(value, Mapping):
        return {str(document(key)): document(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(document(item) for item in value)
    return [document(item) for item in value]


def camel(name: str) -> str:
    """``log_start_offset`` as ``logStartOffset``."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)
