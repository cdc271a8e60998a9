"""Why the coordinator says no: a reason of the error table, without the way to gRPC."""


class Refusal(Exception):
    """A request, or one offset of it, is refused and changed nothing. ``reason`` is a name of
    ``errors.proto``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class IllegalState(AssertionError):
    """A bug here: a change would break what must hold. Nothing was changed."""
