"""Where configuration comes from: flags over environment over file over defaults."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from millstream_server.node.config import NodeConfig

ENVIRONMENT_PREFIX = "MILLSTREAM_"
# Read by the command line, not by nodes.
_CLIENT_VARIABLES = frozenset({"BOOTSTRAP_SERVERS", "DATA", "PROFILE", "CONFIG"})


class ConfigError(ValueError):
    """The configuration cannot be used; the message is one plain sentence for the operator."""


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and, for each key that is not at its default, where its value came from."""

    config: NodeConfig
    origins: Mapping[str, str]


def known_keys() -> dict[str, str]:
    """Every key with its description."""
    return {
        field.alias: field.description or ""
        for field in NodeConfig.model_fields.values()
        if field.alias is not None
    }


def load_config(
    file_path: str | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> LoadedConfig:
    """Merge the sources and check the result. ``flags`` are keyed by dotted names. Raises
    ConfigError."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    sources = (
        (f"file {file_path}", _read_file(file_path) if file_path else {}),
        ("environment", _read_environment(environment)),
        ("flag", flags),
    )
    for origin, source in sources:
        for key, value in source.items():
            if key not in known_keys():
                raise ConfigError(f"{origin}: unknown key {key!r}{_nearest(key)}")
            values[key] = value
            origins[key] = origin
    try:
        return LoadedConfig(NodeConfig.model_validate(values), origins)
    except ValidationError as error:
        raise ConfigError(_sentence(error, origins)) from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _read_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return _flatten(tomllib.load(file))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            out.update(_flatten(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def _read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    keys = {key.replace(".", "_").upper(): key for key in known_keys()}
    out: dict[str, str] = {}
    for name, value in environment.items():
        bare = name.removeprefix(ENVIRONMENT_PREFIX)
        if bare != name and bare not in _CLIENT_VARIABLES:
            # Both MILLSTREAM_NODE__ID and MILLSTREAM_NODE_ID name node.id.
            key = keys.get(bare.replace("__", "_"))
            out[key or bare.replace("__", ".").lower()] = value
    return out


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors()[0]
    text = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return text
    key = str(first["loc"][0])
    return f"{key} = {first['input']!r} (from {origins.get(key, 'default')}): {text}"
