"""Imports the server for the commands that run it, with one sentence when it is not installed."""

import importlib.util
from typing import TYPE_CHECKING, Any

from millstream_server.cli.failures import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from millstream_server.node.config_sources import LoadedConfig


_LIBRARIES = ("structlog", "pydantic_settings", "pysyncobj", "prometheus_client", "grpc_health")


def require_server() -> None:
    """Raise CommandError if the server's libraries are missing."""
    for name in _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise CommandError(
                f"the server needs {name}: install it with pip install 'millstream[server]'"
            )


def load_node_config(
    path: str, environment: "Mapping[str, str]", flags: "Mapping[str, Any]"
) -> "LoadedConfig":
    """Load a node's configuration. Raises UsageError with the loader's sentence."""
    require_server()
    from millstream_server.node.config_sources import ConfigError, load_config

    try:
        return load_config(path or None, environment, flags)
    except ConfigError as error:
        raise UsageError(str(error)) from None
