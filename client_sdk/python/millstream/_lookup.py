"""How a topic that a watch does not know is looked for before it is called unknown."""

from typing import Any, Final

from millstream import _methods
from millstream._cluster import ClusterCache, TopicInfo
from millstream._errors import (
    InvalidRequestError,
    MillstreamError,
    UnknownTopicError,
)
from millstream._methods import Method
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import metadata_service_pb2 as metadata


class Lookup:
    """The look-up of one topic: from the watch, then by calls that prove whether it exists.

    A watch may lag, so "missing" there is no proof: a linearizable read is. A cluster that makes
    topics by itself does so when asked to publish nothing to it.
    """

    MISSING: Final = "missing"

    def __init__(self, cluster: ClusterCache, name: str) -> None:
        self._cluster = cluster
        self._name = name

    def known(self) -> TopicInfo | None:
        """The topic, as soon as the watch has it with at least one partition."""
        return self._cluster.topics.get(self._name)

    def known_or_missing(self) -> "TopicInfo | str | None":
        """The topic, or MISSING once the watch says so; None until then."""
        found = self._cluster.topics.get(self._name)
        if found is None and self._name in self._cluster.missing:
            return self.MISSING
        return found

    def proofs(self, *, create: bool) -> list[tuple[Method[Any, Any], Any]]:
        """Calls to make one after another; the first that succeeds shows that the topic exists."""
        read = metadata.DescribeTopicsRequest(
            names=[self._name], consistency=metadata.ReadConsistency(linearizable=True)
        )
        calls: list[tuple[Method[Any, Any], Any]] = [(_methods.DESCRIBE_TOPICS, read)]
        if create:
            calls.append((_methods.PUBLISH, broker.PublishRequest(topic=self._name)))
        return calls


def explain_missing(name: str, error: MillstreamError | None) -> MillstreamError:
    """The error to raise when a topic is missing and a proof failed with ``error``."""
    if error is None or isinstance(error, InvalidRequestError):
        return UnknownTopicError(f"no topic is named {name!r}; create it first")
    return error
