"""Topics of the image, as public calls name them."""

from millstream_raft.image import Image, TopicState
from millstream_server.runtime.errors import ServiceError


def topic_by_name(image: Image, name: str) -> TopicState:
    """A topic. Raises ServiceError UNKNOWN_TOPIC."""
    topic = image.topic(name)
    if topic is None:
        raise ServiceError("UNKNOWN_TOPIC", f"topic {name!r} does not exist")
    return topic


def topic_by_id(image: Image, topic_id: bytes) -> TopicState:
    """A topic. Raises ServiceError UNKNOWN_TOPIC."""
    topic = image.topics.get(topic_id)
    if topic is None:
        raise ServiceError("UNKNOWN_TOPIC", f"no topic has the id {topic_id.hex()}")
    return topic
