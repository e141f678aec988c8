"""The network is out of reach inside, and only there."""

import socket
import urllib.request

import pytest

from calotype.sharing.offline import offline


def listening() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def test_every_way_out_is_closed_and_noted() -> None:
    with listening() as server:
        address = server.getsockname()
        with offline() as attempts:
            with socket.socket() as client, pytest.raises(ConnectionError, match="the network is out of reach here"):
                client.connect(address)
            with pytest.raises(ConnectionError):
                socket.getaddrinfo("localhost", 80)
            with pytest.raises(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{address[1]}")
        assert [attempt.partition("(")[0] for attempt in attempts] == [
            "socket.connect", "socket.getaddrinfo", "urllib.Request",
        ]  # fmt: skip
        with socket.create_connection(address, timeout=5):
            pass
        assert len(attempts) == 3


def test_the_way_is_open_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), offline():
        _ = 1 / 0
    with listening() as server, socket.create_connection(server.getsockname(), timeout=5):
        pass
