"""How a topic that a watch does not know is looked for before it is called unknown."""

from typing import Final

from millstream._client.cluster import ClusterCache, TopicInfo
from millstream._errors import MillstreamError, UnknownTopicError
from millstream.v1 import metadata_service_pb2 as metadata


class Lookup:
    """The look-up of one topic: from the watch, then by calls that prove whether it exists.

    A watch may lag, so "missing" there is no proof: a linearizable read is.
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

    def proof(self, *, create: bool) -> metadata.DescribeTopicsRequest:
        """The call that succeeds only if the topic exists, after creating it if that is wanted."""
        return metadata.DescribeTopicsRequest(
            names=[self._name],
            consistency=metadata.ReadConsistency(linearizable=True),
            create_missing=create,
        )


def explain_missing(name: str) -> MillstreamError:
    """The error to raise when a topic is missing."""
    return UnknownTopicError(f"no topic is named {name!r}; create it first")
