"""Why the broker says no: a reason of the error table, known before or after the append."""


class Refusal(Exception):
    """A request for one partition is refused. ``reason`` is a name of ``errors.proto``.

    ``indeterminate`` is true if the change may have happened all the same (invariant 39).
    """

    def __init__(
        self, reason: str, message: str, *, indeterminate: bool = False, retry_after_ms: int = 0
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.indeterminate = indeterminate
        self.retry_after_ms = retry_after_ms
