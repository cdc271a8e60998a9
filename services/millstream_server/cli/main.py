"""The entry point: argv in, exit code out, every failure as one sentence on stderr."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from millstream_server.cli import (
    broker_commands,
    cluster_commands,
    completion_command,
    config_command,
    consume_command,
    group_commands,
    health_command,
    log_commands,
    node_commands,
    partition_commands,
    produce_command,
    registration_commands,
    topic_commands,
    up_command,
)
from millstream_server.cli.failures import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    CommandError,
    Finished,
)

PROGRAM = "millstream"

# Commands that are nodes.
_NODES = (["serve"], ["up"])
app = typer.Typer(
    name=PROGRAM,
    help="Millstream: a durable, ordered log. Start one with `millstream up`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_MODULES = (
    up_command,
    produce_command,
    consume_command,
    topic_commands,
    group_commands,
    cluster_commands,
    broker_commands,
    partition_commands,
    health_command,
    node_commands,
    registration_commands,
    config_command,
    log_commands,
    completion_command,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(importlib.metadata.version("millstream"))
        raise Finished(EXIT_OK)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Millstream: a durable, ordered log. Start one with `millstream up`."""


for _module in _MODULES:
    _module.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and given[:1] not in _NODES:
        # gRPC's C core writes to stderr by itself; what matters to a client comes as an error too.
        # A node needs these lines: they alone tell of TLS handshakes that failed, and why. Who
        # calls this function keeps its environment, which its children get.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code: Any = app(given, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except Finished as finished:
        return finished.exit_code
    except CommandError as error:
        _complain(error.message)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our pipe has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - what typer raises has no public base class
        return _report_usage(error)
    return code if isinstance(code, int) else EXIT_OK


def _report_usage(error: Exception) -> int:
    """The exit code of an error of typer's parser; anything else is unforeseen."""
    if isinstance(error, typer.Abort):
        return EXIT_INTERRUPTED
    describe = getattr(error, "format_message", None)
    if describe is None:
        _complain(f"unexpected {type(error).__name__}: {error}")
        return EXIT_FAILED
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(describe(), file=sys.stderr)
        return EXIT_USAGE
    path = PROGRAM if context is None else context.command_path
    message = " ".join(describe().split()).rstrip(".?")
    _complain(f"{message[:1].lower()}{message[1:]}; see `{path} --help`")
    return int(getattr(error, "exit_code", EXIT_FAILED))


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)
