"""Exit codes and sentences of the SDK's errors."""

import pytest

import millstream
from millstream_server.cli.failures import exit_code_of, sentence_of


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (millstream.UnknownTopicError("x"), 64 + 5),
        (millstream.TopicAlreadyExistsError("x"), 64 + 6),
        (millstream.InvalidConfigError("x"), 64 + 3),
        (millstream.UnavailableError("x"), 64 + 14),
        (millstream.TimedOutError("x"), 64 + 4),
        (millstream.OffsetOutOfRangeError("x"), 64 + 11),
        (millstream.ClientClosedError("x"), 1),
    ],
)
def test_exit_codes_are_64_and_the_grpc_code(error: millstream.MillstreamError, expected: int):
    assert exit_code_of(error) == expected


def test_every_sentence_is_one_line_that_says_what_to_do():
    error = millstream.UnknownTopicError("topic 'x' does not exist\n")
    assert sentence_of(error, "a:1") == (
        "topic 'x' does not exist; `millstream topic list` shows them, "
        "`millstream topic create` makes one"
    )
    assert "start one with `millstream up`" in sentence_of(millstream.UnavailableError(""), "a:1")
    assert "raise --timeout" in sentence_of(millstream.TimedOutError("no answer"), "a:1")


def test_a_question_stays_a_question():
    error = millstream.InvalidConfigError("unknown key; did you mean retention.ms?")
    assert "retention.ms? `millstream" in sentence_of(error, "a:1")
