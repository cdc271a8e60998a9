"""One run of a command: the flags that every command has, and the clients that it opens.

``command`` registers a function whose first parameter is an ``Invocation``; the flags below are
added to the function's own, so they stand in the help of every command.
"""

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millstream_server.cli.failures import (
    EXIT_FAILED,
    CommandError,
    Finished,
    UsageError,
    exit_code_of,
    sentence_of,
)
from millstream_server.cli.moments import parse_duration_ms
from millstream_server.cli.output import FORMS, Output
from millstream_server.cli.properties import BOOTSTRAP, parse_assignments, read_properties_file

if TYPE_CHECKING:
    from millstream import Admin, Consumer, Producer

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"
DEFAULT_TIMEOUT_S = 15.0
_TRACEBACK_VERBOSITY = 2
_PANEL_OUTPUT = "Output"
_PANEL_CLUSTER = "Cluster"


@dataclass(frozen=True)
class Invocation:
    """What the common flags say."""

    output: Output
    # Dotted client keys from --config and -X, bootstrap.servers always among them.
    properties: Mapping[str, str] = field(default_factory=lambda: {BOOTSTRAP: DEFAULT_BOOTSTRAP})
    timeout_s: float = DEFAULT_TIMEOUT_S
    assume_yes: bool = False
    dry_run: bool = False

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the brokers."""
        return self.properties[BOOTSTRAP]

    def admin(self) -> "Admin":
        """A new admin client; a context manager."""
        from millstream import Admin

        return Admin.from_config({**self._request_limits(), **self.properties})

    def producer(self, extra: Mapping[str, Any]) -> "Producer":
        """A new producer; a context manager. -X and --config win over ``extra``."""
        from millstream import Producer

        return Producer.from_config({**extra, **self.properties})

    def consumer(self, extra: Mapping[str, Any]) -> "Consumer":
        """A new consumer; a context manager. -X and --config win over ``extra``."""
        from millstream import Consumer

        return Consumer.from_config({**self._request_limits(), **extra, **self.properties})

    def confirm(self, question: str) -> None:
        """Ask before something is lost; --yes answers. Raises CommandError if refused or if there
        is nobody to ask."""
        if self.assume_yes:
            return
        if not sys.stdin.isatty():
            raise CommandError(f"{question} Nobody is here to ask: pass --yes to do it")
        if not typer.confirm(question, err=True):
            raise CommandError("nothing was changed")

    def _request_limits(self) -> dict[str, Any]:
        # Room for retries within the whole; a single request never takes longer than the call.
        whole_ms = max(1, round(self.timeout_s * 1000))
        return {"default.api.timeout.ms": whole_ms, "request.timeout.ms": whole_ms}


_OUTPUT_FLAGS: dict[str, Any] = {
    "format_": Annotated[
        str,
        typer.Option(
            "--format", help="table, wide, json, yaml or jsonl.", rich_help_panel=_PANEL_OUTPUT
        ),
    ],
    "verbose": Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            help="Tell more on stderr; twice: with tracebacks.",
            rich_help_panel=_PANEL_OUTPUT,
        ),
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", help="Tell nothing but results.", rich_help_panel=_PANEL_OUTPUT
        ),
    ],
    "no_color": Annotated[
        bool, typer.Option("--no-color", help="No colours.", rich_help_panel=_PANEL_OUTPUT)
    ],
}
_CLUSTER_FLAGS: dict[str, Any] = {
    "bootstrap_servers": Annotated[
        list[str] | None,
        typer.Option(
            "-b",
            "--bootstrap-servers",
            metavar="HOST:PORT",
            help=f"Brokers, repeated or with commas. [env: MILLSTREAM_BOOTSTRAP_SERVERS; "
            f"default: {DEFAULT_BOOTSTRAP}]",
            rich_help_panel=_PANEL_CLUSTER,
        ),
    ],
    "properties": Annotated[
        list[str] | None,
        typer.Option(
            "-X",
            metavar="KEY=VALUE",
            help="A client property, Kafka's dotted name.",
            rich_help_panel=_PANEL_CLUSTER,
        ),
    ],
    "config": Annotated[
        str,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Client properties, as .properties or TOML.",
            rich_help_panel=_PANEL_CLUSTER,
        ),
    ],
    "timeout": Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="How long to wait for the cluster, such as 5s.",
            rich_help_panel=_PANEL_CLUSTER,
        ),
    ],
    "assume_yes": Annotated[
        bool,
        typer.Option(
            "-y", "--yes", help="Do not ask before something is lost.",
            rich_help_panel=_PANEL_CLUSTER,
        ),
    ],
    "dry_run": Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, change nothing.", rich_help_panel=_PANEL_CLUSTER
        ),
    ],
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "format_": "table",
    "verbose": 0,
    "quiet": False,
    "no_color": False,
    "bootstrap_servers": None,
    "properties": None,
    "config": "",
    "timeout": f"{DEFAULT_TIMEOUT_S:g}s",
    "assume_yes": False,
    "dry_run": False,
}


def command(
    group: typer.Typer, name: str, *, aliases: Sequence[str] = (), cluster: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command, under hidden aliases as well. ``cluster``: it talks to a
    cluster, and has the flags for that."""
    flags = {**_OUTPUT_FLAGS, **(_CLUSTER_FLAGS if cluster else {})}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        wrapped = _wrap(function, flags)
        group.command(name)(wrapped)
        for alias in aliases:
            group.command(alias, hidden=True)(wrapped)
        return function

    return register


def _wrap(function: Callable[..., None], flags: Mapping[str, Any]) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]

    def run(*arguments: Any, **values: Any) -> None:
        # A command of nodes has a --config of its own, so only the flags added here are taken.
        common = {**_DEFAULTS, **{name: values.pop(name) for name in flags if name in values}}
        _guarded(function, common, values)

    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[name], annotation=flag
        )
        for name, flag in flags.items()
    ]
    keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    run.__signature__ = inspect.Signature([*keyword_only, *added])  # type: ignore[attr-defined]
    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__annotations__ = {}
    return run


def _guarded(
    function: Callable[..., None], common: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Run the function; turn every error into one sentence and an exit code."""
    servers = DEFAULT_BOOTSTRAP
    try:
        invocation = build_invocation(common, os.environ)
        servers = invocation.bootstrap_servers
        _set_up_sdk_log(invocation.output.verbosity)
        function(invocation, **values)
    except (Finished, KeyboardInterrupt, BrokenPipeError, typer.Exit):
        raise
    except Exception as error:
        if common["verbose"] >= _TRACEBACK_VERBOSITY:
            traceback.print_exc()
        if isinstance(error, CommandError):
            raise
        # Imported here: a command that ends well may never have needed the SDK.
        from millstream import MillstreamError

        if isinstance(error, MillstreamError):
            raise CommandError(sentence_of(error, servers), exit_code_of(error)) from error
        if isinstance(error, OSError) and error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            raise CommandError(f"{where}{error.strerror}") from error
        raise CommandError(
            f"unexpected {type(error).__name__}: {error}; run again with -v -v for the traceback",
            EXIT_FAILED,
        ) from error


def _set_up_sdk_log(verbosity: int) -> None:
    """Keep the SDK's log to itself, unless asked for with -v: what fails is told anyway."""
    levels = (logging.ERROR, logging.INFO, logging.DEBUG)
    logger = logging.getLogger("millstream")
    logger.setLevel(levels[min(verbosity, len(levels) - 1)])
    if verbosity and not logger.handlers:
        logger.addHandler(logging.StreamHandler())


def build_invocation(common: Mapping[str, Any], environment: Mapping[str, str]) -> Invocation:
    """Merge flags, -X, --config and environment: flags win, then -X, the file, the environment.
    Raises UsageError."""
    form = common["format_"]
    if form not in FORMS:
        raise UsageError(f"--format {form} is unknown: there are {', '.join(FORMS)}")
    properties: dict[str, str] = {
        BOOTSTRAP: environment.get("MILLSTREAM_BOOTSTRAP_SERVERS") or DEFAULT_BOOTSTRAP
    }
    path = common["config"] or environment.get("MILLSTREAM_CONFIG", "")
    if path:
        properties.update(read_properties_file(path))
    properties.update(parse_assignments(common["properties"] or (), "-X"))
    if common["bootstrap_servers"]:
        properties[BOOTSTRAP] = ",".join(common["bootstrap_servers"])
    try:
        timeout_ms = parse_duration_ms(_with_unit(common["timeout"]))
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from None
    output = Output(
        form=form,
        color=not common["no_color"] and not environment.get("NO_COLOR"),
        quiet=common["quiet"],
        verbosity=common["verbose"],
    )
    return Invocation(
        output=output,
        properties=properties,
        timeout_s=timeout_ms / 1000,
        assume_yes=common["assume_yes"],
        dry_run=common["dry_run"],
    )


def _with_unit(text: str) -> str:
    return f"{text}s" if text.replace(".", "", 1).isdigit() else text
