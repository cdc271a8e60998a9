"""Which names a topic may have: Kafka's rule."""

import re

from millstream_raft.refusal import Refused

NAME_CHARACTERS_MAX = 249
_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def check_topic_name(name: str) -> None:
    """Raises Refused INVALID_TOPIC_NAME, which says what is wrong."""
    if not name:
        problem = "a topic name is empty"
    elif len(name) > NAME_CHARACTERS_MAX:
        problem = f"a topic name has {len(name)} characters; at most {NAME_CHARACTERS_MAX} may be"
    elif name in (".", ".."):
        problem = f'a topic cannot be named "{name}"'
    elif not _NAME.fullmatch(name):
        problem = f"topic name {name!r} has characters other than a-z A-Z 0-9 . _ -"
    else:
        return
    raise Refused("INVALID_TOPIC_NAME", problem)
