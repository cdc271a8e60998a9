"""The script ``millstream``: says in one sentence what to install when the command line's own
libraries are missing, as they are in a base install."""

import sys

_LIBRARIES = ("typer", "rich", "yaml")


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from millstream_server.cli.main import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        print(
            f"millstream: the command line needs {error.name}: "
            "install it with pip install 'millstream[server,cli]'",
            file=sys.stderr,
        )
        return 1
    return run()
