"""The script ``millstream`` where the libraries of the command line may be missing."""

import subprocess
import sys

# Stands in for an install without the extra: the finder knows no library of this name.
_WITHOUT = """
import sys
sys.modules["typer"] = None
from millstream_server.cli.start import main
sys.exit(main())
"""


def test_a_base_install_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "millstream: the command line needs typer: "
        "install it with pip install 'millstream[server,cli]'\n"
    )
