"""Which process holds the other end of a loopback connection (Linux).

The kernel is asked for the one socket by ``sock_diag(7)``; the tables in ``/proc/net`` would have
to be read whole, which takes long on a machine that opened many connections lately.
"""

import os
import socket
import struct
from collections.abc import Iterable

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
# inet_diag_req_v2: family, protocol, extensions, pad, states; then the socket.
_REQUEST = struct.Struct("=BBBBI")
# inet_diag_sockid: ports and addresses in network order, interface, cookie.
_SOCKET_PORTS = struct.Struct("!HH4s12x4s12x")
_SOCKET_REST = struct.Struct("=III")
# inet_diag_msg: four bytes, the socket (48 bytes), expires, two queues, uid, inode.
_INODE_AT = _HEADER.size + 4 + 48 + 16

Address = tuple[str, int]


def owner_of_connection(local: Address, remote: Address, pids: Iterable[int]) -> int | None:
    """The process among ``pids`` that holds the IPv4 socket with these ends; None if none does."""
    inode = _inode(local, remote)
    if not inode:
        return None
    wanted = f"socket:[{inode}]"
    return next((pid for pid in pids if wanted in _open_files(pid)), None)


def _inode(local: Address, remote: Address) -> int:
    request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    request += _SOCKET_PORTS.pack(
        local[1], remote[1], socket.inet_aton(local[0]), socket.inet_aton(remote[0])
    )
    request += _SOCKET_REST.pack(0, _NO_COOKIE, _NO_COOKIE)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(header + request)
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return 0  # an error: the connection is over already
    return int(struct.unpack_from("=I", answer, _INODE_AT)[0])


def _open_files(pid: int) -> set[str]:
    folder = f"/proc/{pid}/fd"
    found = set()
    try:
        for descriptor in os.listdir(folder):
            try:
                found.add(os.readlink(f"{folder}/{descriptor}"))
            except OSError:  # closed meanwhile
                continue
    except OSError:  # the process ended
        pass
    return found
