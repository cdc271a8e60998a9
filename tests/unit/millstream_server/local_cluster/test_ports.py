"""Reserved ports."""

import socket

import pytest

from millstream_server.local_cluster.ports import PortsTakenError, ReservedPorts


def test_ports_are_distinct_and_usable_by_a_server_beside_the_reservation():
    with ReservedPorts() as ports:
        taken = ports.take_all([0] * 8)
        assert len(set(taken)) == 8
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", taken[0]))
            server.listen()
            with socket.create_connection(("127.0.0.1", taken[0]), timeout=5):
                pass


def test_a_reserved_port_is_refused_to_others():
    with ReservedPorts() as ports, socket.socket() as other:
        port = ports.take()
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_a_port_in_use_is_named():
    with socket.socket() as other, ReservedPorts() as ports:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortsTakenError, match=str(port)):
            ports.take(port)


def test_closing_gives_the_ports_back():
    ports = ReservedPorts()
    port = ports.take()
    ports.close()
    with ReservedPorts() as others:
        assert others.take(port) == port
