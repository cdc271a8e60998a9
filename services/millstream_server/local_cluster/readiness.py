"""Asks a node whether it is ready, over its plain HTTP admin port."""

import http.client

_TIMEOUT_S = 2.0


def is_ready(host: str, admin_port: int) -> bool:
    """True if ``/readyz`` answers 200; False on any other answer and on none."""
    connection = http.client.HTTPConnection(host, admin_port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
