"""House rules that are cheap to check and easy to forget."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {"protos", "services", "metadata_raft", "client_sdk", "deploy", "tests"}
TOP_LEVEL_FILES = {
    "pyproject.toml",
    "Makefile",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "buf.yaml",
    "conftest.py",
}
FILE_LINES_MAX = 400
LINE_CHARACTERS_MAX = 100
FUNCTION_LINES_MAX = 60
BLOB_BYTES_MAX = 512 * 1024
FORBIDDEN_NAMES = {"utils", "util", "common", "manager", "helpers", "misc"}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


FILES = tracked()
GENERATED = re.compile(r"(^|/)v1/[^/]+$|_pb2")
PYTHON = [path for path in FILES if path.suffix == ".py" and not GENERATED.search(str(path))]


def lines(path: Path) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


def test_top_level_is_the_documented_one() -> None:
    folders = {path.parts[0] for path in FILES if len(path.parts) > 1}
    assert folders - {".ci"} == TOP_LEVEL
    files = {path.name for path in FILES if len(path.parts) == 1 and not path.name.startswith(".")}
    assert files == TOP_LEVEL_FILES


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_python_files_are_small_and_lines_are_short(path: Path) -> None:
    content = lines(path)
    assert len(content) <= FILE_LINES_MAX, f"{path} has {len(content)} lines"
    for number, line in enumerate(content, 1):
        assert len(line) <= LINE_CHARACTERS_MAX, f"{path}:{number} has {len(line)} characters"


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_functions_are_short(path: Path) -> None:
    import ast

    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}: {node.name} has {length} lines"


def test_nothing_is_named_after_nothing() -> None:
    for path in FILES:
        for part in (*path.parts[:-1], path.stem):
            assert part.strip("_") not in FORBIDDEN_NAMES, path


def test_no_file_holds_a_path_of_one_machine_unfinished_work_or_a_page_that_is_not_here() -> None:
    machine = re.compile(r"(^|[^A-Za-z0-9_.])/(" + "work|root|farm|home/[a-z]+" + r")/")
    unfinished = re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|X" + "XX)\\b")
    stray = re.compile(r"\b(performance|invariants|conventions|raft|style)\.md")
    for path in FILES:
        if path.suffix in {".bin", ".segment", ".png", ".json"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(lines(path), 1):
            assert not machine.search(line), f"{path}:{number}: {line.strip()}"
            assert not unfinished.search(line), f"{path}:{number}: {line.strip()}"
            if path.name != "test_tidy.py":
                assert not stray.search(line), f"{path}:{number}: {line.strip()}"


def test_no_big_or_generated_rubbish_is_tracked() -> None:
    for path in FILES:
        assert (ROOT / path).stat().st_size <= BLOB_BYTES_MAX, path
        assert "__pycache__" not in path.parts, path
        assert path.suffix not in {".pyc", ".log", ".egg-info"}, path


def test_every_module_says_its_duty() -> None:
    import ast

    for path in PYTHON:
        source = (ROOT / path).read_text(encoding="utf-8")
        if source.strip():
            assert ast.get_docstring(ast.parse(source)), f"{path} has no docstring"


def test_changelog_names_the_current_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(version)})\]", text, re.MULTILINE)


def test_every_make_target_is_phony_and_documented() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z0-9-]+):(.*)$", text, re.MULTILINE)
    assert targets
    for name, rest in targets:
        assert "## " in rest, f"make {name} has no help"
        assert f".PHONY: {name}" in text, f"make {name} is not phony"
