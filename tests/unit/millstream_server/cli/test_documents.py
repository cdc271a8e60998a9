"""Answers of the SDK as documents."""

import dataclasses
from enum import Enum
from typing import NamedTuple

from millstream_server.cli.documents import camel, document


class State(Enum):
    EMPTY = 1


class Place(NamedTuple):
    topic_id: bytes
    log_start_offset: int


@dataclasses.dataclass(frozen=True)
class Found:
    group_id: str
    state: State
    places: tuple[Place, ...]
    configs: dict[str, str]
    leader_id: int | None = None


def test_names_are_those_of_proto_json():
    assert camel("log_start_offset") == "logStartOffset"
    assert camel("name") == "name"


def test_values_become_plain():
    found = Found("g", State.EMPTY, (Place(b"\x00\x01", 5),), {"retention.ms": "1"})
    assert document(found) == {
        "groupId": "g",
        "state": "EMPTY",
        "places": [{"topicId": "AAE=", "logStartOffset": 5}],
        "configs": {"retention.ms": "1"},
        "leaderId": None,
    }
