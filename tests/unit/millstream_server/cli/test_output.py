"""Tables and documents."""

import io
import json
from typing import Any

import pytest
import yaml

from millstream_server.cli.output import Column, Output, Table

COLUMNS = (
    Column("name", "name"),
    Column("count", "count", right=True),
    Column("extra", "extra", wide=True),
)
ROWS = [{"name": "a", "count": 5, "extra": [1, 2]}, {"name": "longer", "count": None}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def output(**options: Any) -> Output:
    return Output(**{"stdout": io.StringIO(), "stderr": io.StringIO(), **options})


def written(made: Output) -> str:
    assert isinstance(made.stdout, io.StringIO)
    return made.stdout.getvalue()


def told(made: Output) -> str:
    assert isinstance(made.stderr, io.StringIO)
    return made.stderr.getvalue()


def test_a_pipe_gets_plain_aligned_columns():
    made = output()
    made.show(ROWS, Table(COLUMNS, ROWS))
    assert written(made) == "NAME    COUNT\na           5\nlonger      -\n"


def test_wide_shows_more_columns():
    made = output(form="wide")
    made.show(ROWS, Table(COLUMNS, ROWS))
    assert written(made).splitlines()[0].split() == ["NAME", "COUNT", "EXTRA"]
    assert written(made).splitlines()[1].split() == ["a", "5", "1,2"]


def test_a_terminal_gets_a_drawn_table_without_markup():
    made = output(stdout=Terminal(), color=False)
    made.show(ROWS, Table(COLUMNS, [{"name": "[red]x", "count": 1}], "Title"))
    assert "[red]x" in written(made)
    assert "Title" in written(made)
    assert "─" in written(made)
    assert "\x1b[31m" not in written(made)


def test_json_is_one_document():
    made = output(form="json")
    made.show(ROWS, Table(COLUMNS, ROWS))
    assert json.loads(written(made)) == ROWS


def test_jsonl_is_a_line_for_each_item():
    made = output(form="jsonl")
    made.show(ROWS)
    assert [json.loads(line) for line in written(made).splitlines()] == ROWS


def test_yaml_is_one_document():
    made = output(form="yaml")
    made.show({"rows": ROWS})
    assert yaml.safe_load(written(made)) == {"rows": ROWS}


def test_an_empty_table_says_so_on_stderr():
    made = output()
    made.show([], Table(COLUMNS, [], empty="No topics."))
    assert written(made) == ""
    assert told(made) == "No topics.\n"


def test_cells_are_one_line():
    made = output()
    made.show([], Table(COLUMNS, [{"name": "a\nb", "count": True}]))
    assert written(made).splitlines()[1] == "a b     yes"


def test_quiet_keeps_notes_back():
    made = output(quiet=True)
    made.note("hello")
    assert told(made) == ""


@pytest.mark.parametrize(("verbosity", "expected"), [(0, ""), (1, "more\n")])
def test_details_are_for_the_curious(verbosity: int, expected: str):
    made = output(verbosity=verbosity)
    made.detail("more")
    assert told(made) == expected


def test_without_a_terminal_there_is_no_progress_bar():
    made = output()
    with made.progress("working", 10) as progress:
        progress.advance()
        progress.set(5)
    assert told(made) == ""
