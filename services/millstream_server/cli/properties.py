"""Client properties: ``-X key=value``, Kafka's ``.properties`` files and TOML, merged."""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from millstream_server.cli.failures import UsageError

BOOTSTRAP = "bootstrap.servers"


def parse_assignments(items: Iterable[str], flag: str) -> dict[str, str]:
    """Read ``key=value`` items. Raises UsageError that names the flag."""
    out: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{flag} {item}: write it as {flag} key=value")
        out[key.strip()] = value.strip()
    return out


def read_properties_file(path: str) -> dict[str, str]:
    """Read client properties from a TOML file (by its suffix) or a ``.properties`` file. Raises
    UsageError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"cannot read --config {path}: {error.strerror}") from None
    try:
        text = data.decode()
        return _from_toml(text) if path.endswith(".toml") else parse_properties(text)
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None


def parse_properties(text: str) -> dict[str, str]:
    """Read the lines of a ``.properties`` file: ``key=value`` or ``key: value``, ``#`` and ``!``
    begin comments, a backslash at the end continues a line. Raises ValueError."""
    out: dict[str, str] = {}
    joined = text.replace("\\\r\n", "").replace("\\\n", "")
    for number, line in enumerate(joined.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        ends = [at for at in (stripped.find("="), stripped.find(":")) if at >= 0]
        if not ends or min(ends) == 0:
            raise ValueError(f"line {number} is not key=value")
        out[stripped[: min(ends)].strip()] = stripped[min(ends) + 1 :].strip()
    return out


def _from_toml(text: str) -> dict[str, str]:
    return {key: _text(value) for key, value in _flatten(tomllib.loads(text), "")}


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    return str(value)
