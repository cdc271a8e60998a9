"""The public namespace is exactly what is documented, light, and loads on use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import millstream


def test_every_public_name_exists_and_nothing_else_is_promised() -> None:
    assert sorted(set(millstream.__all__)) == sorted(millstream.__all__)
    for name in millstream.__all__:
        assert getattr(millstream, name) is not None
    assert set(dir(millstream)) == set(millstream.__all__)


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    source = ast.parse(Path(millstream.__file__).read_text())
    checked = {
        alias.name: node.module
        for branch in source.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    at_run_time = {name: f"millstream.{module}" for name, module in millstream._MODULE_OF.items()}
    assert checked == at_run_time
    errors = set(millstream._errors.__all__)
    assert set(checked) | errors | {"__version__"} == set(millstream.__all__)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="Nonsense"):
        getattr(millstream, "Nonsense")  # noqa: B009


def test_importing_the_package_loads_no_client_and_no_server() -> None:
    code = (
        "import sys, millstream, millstream.record;"
        "print([m for m in sys.modules if m in ('grpc', 'asyncio', 'numpy', 'millstream_server')"
        " or m.startswith('millstream._') and 'error' not in m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_clients_need_only_the_base_dependencies() -> None:
    code = (
        "import sys;"
        "sys.modules.update(dict.fromkeys("
        "('numpy', 'pyarrow', 'cramjam', 'structlog', 'pydantic', 'typer', 'backports.zstd')));"
        "from millstream import Admin, AsyncConsumer, AsyncProducer, Consumer, Producer;"
        "print('ok')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "ok"
