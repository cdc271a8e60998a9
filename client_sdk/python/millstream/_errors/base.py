"""The base class of every error of this package; the tree is in ``_errors``."""

from typing import Any


class MillstreamError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: Name of the reason, for example ``"UNKNOWN_TOPIC"``.
        retriable: The same call may succeed when it is made again.
        refresh_metadata: It may succeed once newer metadata has arrived.
        indeterminate: The change may have happened, or may still happen.
        fatal: This client cannot go on; make a new one.
        abortable: Aborting the transaction would clear it. Always False: there are none yet.
        details: What the server added, by name.
        retry_after_ms: How long the server asks to wait before a retry; zero: no wish.
        failures: In calls about several things: every one that failed, with its error.
    """

    code: str = "UNSPECIFIED"
    retriable: bool = False
    refresh_metadata: bool = False
    indeterminate: bool = False
    fatal: bool = False
    abortable: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        indeterminate: bool | None = None,
        details: dict[str, str] | None = None,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}
        self.retry_after_ms = retry_after_ms
        self.failures: dict[Any, MillstreamError] = {}
        if indeterminate is not None:
            self.indeterminate = indeterminate

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code
