"""What is checked of a request before a handler sees it: ids, limits, subscriptions (rule 40 of
the invariants)."""

from dataclasses import replace

from millstream_server.coordinator.assignors import ASSIGNORS, DEFAULT_ASSIGNOR
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.membership import JoinRequest
from millstream_server.coordinator.records import MemberMetadata
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.topic_pattern import PatternError, TopicPattern


class Admission:
    """The checks, with the limits of one configuration."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self._config = config

    def check_group_id(self, group_id: str) -> None:
        """Raises Refusal INVALID_GROUP_ID."""
        size = len(group_id.encode())
        if not 0 < size <= self._config.id_bytes_max:
            raise Refusal(
                "INVALID_GROUP_ID",
                f"the group id has {size} bytes; 1 to {self._config.id_bytes_max} are allowed",
            )

    def check_join(self, request: JoinRequest) -> JoinRequest:
        """The request with defaults and limits put in.

        Raises Refusal INVALID_GROUP_ID, UNSUPPORTED_ASSIGNOR or INVALID_REQUEST.
        """
        self.check_group_id(request.group_id)
        metadata = request.metadata
        for name, text in (
            ("member_id", request.member_id),
            ("instance_id", metadata.instance_id),
            ("client_id", metadata.client_id),
            ("rack", metadata.rack),
        ):
            if len(text.encode()) > self._config.id_bytes_max:
                limit = self._config.id_bytes_max
                raise Refusal("INVALID_REQUEST", f"{name}: longer than {limit} bytes")
        assignor = metadata.assignor or DEFAULT_ASSIGNOR
        if assignor not in ASSIGNORS:
            known = ", ".join(sorted(ASSIGNORS))
            raise Refusal("UNSUPPORTED_ASSIGNOR", f"no assignor {assignor!r}; there are {known}")
        if not metadata.topics and not metadata.topic_pattern:
            raise Refusal("INVALID_REQUEST", "topics: the member subscribes to nothing")
        return replace(
            request,
            metadata=replace(
                metadata,
                assignor=assignor,
                topics=self.check_topics(metadata.topics),
                topic_pattern=self.check_pattern(metadata.topic_pattern),
                session_timeout_ms=self._session_timeout_ms(metadata),
                rebalance_timeout_ms=min(
                    metadata.rebalance_timeout_ms or self._config.rebalance_timeout_ms,
                    self._config.rebalance_timeout_ms_max,
                ),
            ),
        )

    def check_topics(self, topics: tuple[str, ...]) -> tuple[str, ...]:
        """Topic names, sorted and without repetition. Raises Refusal INVALID_REQUEST."""
        if len(topics) > self._config.topics_per_member_max:
            raise Refusal(
                "INVALID_REQUEST",
                f"topics: {len(topics)} names; at most {self._config.topics_per_member_max} are "
                "allowed, use topic_pattern",
            )
        for name in topics:
            if not 0 < len(name) <= 249:
                raise Refusal("INVALID_REQUEST", "topics: a name is empty or too long")
        return tuple(sorted(set(topics)))

    def check_pattern(self, pattern: str) -> str:
        """A pattern that can be understood. Raises Refusal INVALID_REQUEST."""
        if pattern:
            try:
                TopicPattern(pattern)
            except PatternError as error:
                raise Refusal("INVALID_REQUEST", f"topic_pattern: {error}") from None
        return pattern

    def check_offset_count(self, count: int) -> None:
        """Raises Refusal REQUEST_TOO_LARGE."""
        if count > self._config.offsets_per_commit_max:
            raise Refusal(
                "REQUEST_TOO_LARGE",
                f"{count} offsets; at most {self._config.offsets_per_commit_max} go together",
            )

    def _session_timeout_ms(self, metadata: MemberMetadata) -> int:
        asked = metadata.session_timeout_ms or self._config.session_timeout_ms
        return min(
            max(asked, self._config.session_timeout_ms_min), self._config.session_timeout_ms_max
        )
