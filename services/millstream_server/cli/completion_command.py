"""``millstream completion``: the script that teaches a shell to complete the command line."""

from typing import Annotated

import typer

from millstream_server.cli.failures import UsageError
from millstream_server.cli.invocation import Invocation, command

SHELLS = ("bash", "zsh", "fish")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "completion", cluster=False)
    def completion(
        invocation: Invocation,
        shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
    ) -> None:
        """Print a completion script, for example: eval "$(millstream completion bash)"."""
        from typer.completion import get_completion_script  # type: ignore[attr-defined]

        if shell not in SHELLS:
            raise UsageError(f"no completion for {shell}: there are {', '.join(SHELLS)}")
        script = get_completion_script(
            prog_name="millstream", complete_var="_MILLSTREAM_COMPLETE", shell=shell
        )
        print(script, file=invocation.output.stdout)
