"""Patterns of topic names: the common core of regular expressions, always in linear time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream_server.coordinator.topic_pattern import PatternError, TopicPattern

PIECES = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(?:ab|c)", "a*", "b+", "c?", "(ab)*", "a{2}",
     "b{1,2}", "c{0,}", r"\.", r"\d", r"[a-c_]", "|", r"\w*?", "^", "$"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=6), st.text("abc1._-", max_size=8))
def test_matches_what_python_matches(pieces: list[str], name: str) -> None:
    pattern = "".join(pieces)
    assert TopicPattern(pattern).matches(name) == (re.fullmatch(pattern, name) is not None)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("logs-.*", "logs-eu", True),
        ("logs", "logs-eu", False),
        ("^logs-(eu|us)$", "logs-us", True),
        (r"[\w.-]+", "a.b-c_d", True),
        ("[]a]+", "]a", True),
        ("", "", True),
        ("", "a", False),
        ("[^.]*", "a.b", False),
    ],
)
def test_examples(pattern: str, name: str, expected: bool) -> None:
    assert TopicPattern(pattern).matches(name) is expected


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a**", "*a", "[a", "a{2", "a{3,2}", "a{101}", r"\1", r"\bx", "(?=a)", "(?i)a",
     "[b-a]", "x" * 257, "(" * 30 + ")" * 30, "((a{50}){50}){50}", "\\", "a{", "^*"],
)  # fmt: skip
def test_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        TopicPattern(pattern)


def test_what_hangs_a_backtracking_engine_is_harmless() -> None:
    assert not TopicPattern("(a+)+b").matches("a" * 249)
    assert not TopicPattern("(a|a)*" * 20 + "b").matches("a" * 249)
    assert not TopicPattern("a*" * 40 + "b").matches("a" * 249)
