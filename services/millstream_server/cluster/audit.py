"""A line in the log for every order of an operator: who gave it, and what came of it."""

from typing import Any

import grpc
import structlog

_log = structlog.get_logger("audit")
Context = grpc.aio.ServicerContext[Any, Any]


def order_given(context: Context, order: str, refusal: str, details: dict[str, Any]) -> None:
    """Note an order. ``refusal`` is why it was not carried out, empty if it was."""
    identities = context.peer_identities() or ()
    _log.warning(
        "operator's order",
        order=order,
        peer=context.peer(),
        # Of the client's certificate; nobody is known on a plaintext port.
        identity=[one.decode(errors="replace") for one in identities],
        refusal=refusal,
        **details,
    )
