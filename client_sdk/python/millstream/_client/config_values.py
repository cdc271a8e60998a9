"""Configuration values: how a key is declared, how text becomes its type, which keys are foreign.

Values may come from keywords (typed), from mappings with Kafka's keys, or from text files, where
everything is a string; all three are converted and checked here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, field
from typing import Any

from millstream._errors import InvalidConfigError

_TRUE = frozenset(("true", "1", "yes", "on"))
_FALSE = frozenset(("false", "0", "no", "off"))
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


def key(
    default: Any,
    documentation: str,
    *,
    minimum: float | None = None,
    choices: tuple[str, ...] = (),
    values: Mapping[str, Any] | None = None,
    upper: bool = False,
    lower: bool = False,
) -> Any:
    """Declare a configuration key as a dataclass field."""
    return field(
        default=default,
        metadata={
            "documentation": documentation,
            "minimum": minimum,
            "choices": choices,
            "values": values,
            "fold": str.upper if upper else str.lower if lower else None,
            "callable": False,
        },
    )


def callable_key(documentation: str) -> dict[str, Any]:
    """The metadata of a configuration key that takes a function, or None."""
    return {"documentation": documentation, "callable": True}


_SASL = "{} has no meaning here: there is no SASL; use security.protocol=SSL with ssl.* keys"
_TRANSACTIONS = "{} is not supported: Millstream has no transactions yet"
_JKS = "{} has no meaning here: give PEM files with ssl.ca.location, ssl.certificate.location"
_FOREIGN: tuple[tuple[str, str], ...] = (
    ("api.version.request", "{} has no meaning here: the protocol needs no version probing"),
    ("api.version.", "{} has no meaning here: the protocol needs no version probing"),
    ("api.version", "{} has no meaning here: the protocol needs no version probing"),
    ("broker.version.fallback", "{} has no meaning here: the protocol needs no version probing"),
    ("security.providers", _SASL),
    ("sasl.", _SASL),
    ("transaction", _TRANSACTIONS),
    ("ssl.truststore.", _JKS),
    ("ssl.keystore.", _JKS),
    ("ssl.key.password", "{} is not supported: give the key without a password"),
    ("key.serializer.class", "{} has no meaning here: pass a callable as key_serializer"),
    ("value.serializer.class", "{} has no meaning here: pass a callable as value_serializer"),
    ("interceptor.classes", "{} has no meaning here: wrap the calls instead"),
    ("group.protocol", "{} has no meaning here: groups are always assigned by the coordinator"),
    ("group.remote.assignor", "use partition.assignment.strategy instead of {}"),
    ("queue.buffering.max.messages", "use buffer.memory (bytes) instead of {}"),
    ("queue.buffering.max.kbytes", "use buffer.memory (bytes) instead of {}"),
    ("batch.num.messages", "use batch.size (bytes) instead of {}"),
    ("queued.max.messages.kbytes", "use fetch.max.bytes (bytes) instead of {}"),
    (
        "allow.auto.create.topics",
        "{} has no meaning here: the cluster's auto.create.topics decides",
    ),
    ("socket.", "{} has no meaning here: gRPC owns the sockets"),
    ("send.buffer.bytes", "{} has no meaning here: gRPC owns the sockets"),
    ("receive.buffer.bytes", "{} has no meaning here: gRPC owns the sockets"),
    ("metrics.", "{} has no meaning here: there is no JMX"),
    ("metric.reporters", "{} has no meaning here: there is no JMX"),
    ("schema.registry.", "{} has no meaning here: there is no schema registry"),
    ("statistics.interval.ms", "{} is not supported"),
    ("debug", "{} has no meaning here: set the level of the logger 'millstream'"),
    ("log_level", "{} has no meaning here: set the level of the logger 'millstream'"),
)


def foreign_key(dotted_name: str) -> str | None:
    """Why a Kafka key has no meaning here; None if the key is not Kafka's either."""
    for prefix, reason in _FOREIGN:
        if dotted_name == prefix or (
            dotted_name.startswith(prefix) and (prefix.endswith(".") or prefix == "transaction")
        ):
            return reason.format(dotted_name)
    return None


def convert(target: Field[Any], value: Any) -> Any:
    """The value as the field's type. Raises InvalidConfigError that names the key."""
    rules = target.metadata
    name = target.name.replace("_", ".")
    if rules["callable"]:
        return _callable(name, value)
    if rules["values"] is not None:
        return _listed(name, rules["values"], value)
    if target.name == "bootstrap_servers":
        return _addresses(value)
    default = target.default
    if isinstance(default, bool) or default is None:
        return _boolean(name, value)
    if isinstance(default, int | float):
        return _number(name, value, type(default), rules["minimum"])
    return _text(name, value, rules["choices"], rules["fold"])


def _callable(name: str, value: Any) -> Callable[[Any], bytes] | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    raise InvalidConfigError(f"{name} must be callable, not {value!r}")


def _listed(name: str, values: Mapping[str, Any], value: Any) -> Any:
    text = str(value).lower()
    if text not in values:
        raise InvalidConfigError(f"{name} must be one of {', '.join(values)}, not {value!r}")
    return values[text]


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidConfigError(f"{name} must be true or false, not {value!r}")


def _number(name: str, value: Any, kind: type, minimum: float | None) -> Any:
    try:
        number = kind(value)
        if isinstance(value, bool) or (isinstance(value, float) and number != value):
            raise ValueError
    except (TypeError, ValueError):
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidConfigError(f"{name} must be {wanted}, not {value!r}") from None
    if not (minimum is None or number >= minimum) or number == float("inf"):
        raise InvalidConfigError(f"{name} must be at least {minimum}, not {value!r}")
    return number


def _text(
    name: str, value: Any, choices: tuple[str, ...], fold: Callable[[str], str] | None
) -> str:
    if not isinstance(value, str):
        raise InvalidConfigError(f"{name} must be text, not {value!r}")
    text = fold(value) if fold else value
    if choices and text not in choices:
        raise InvalidConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return text


def _addresses(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    found = tuple(str(part).strip() for part in parts if str(part).strip())
    for address in found:
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[2]) < 65_536:
            raise InvalidConfigError(f"bootstrap.servers needs host:port, not {address!r}")
    return found
