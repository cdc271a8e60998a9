"""The one error of decisions and commands."""


class Refused(Exception):
    """A request or command is refused, and nothing is changed.

    ``reason`` is a name of ``millstream.v1.ErrorReason`` without its prefix, such as
    ``"UNKNOWN_TOPIC"``; the shells turn it into their own error of the same reason.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
