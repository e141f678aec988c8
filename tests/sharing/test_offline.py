"""The network is out of reach inside, and only there."""

import asyncio
import socket
import sys
import threading
import urllib.request

import pytest

from calotype.sharing.offline import WAYS, offline


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
            with pytest.raises(ConnectionError):
                asyncio.run(asyncio.open_connection(*address))
            with socket.socket(type=socket.SOCK_DGRAM) as client, pytest.raises(ConnectionError):
                client.sendto(b"x", address)
        assert [attempt.partition("(")[0] for attempt in attempts] == [
            "socket.connect", "socket.getaddrinfo", "socket.getaddrinfo", "socket.connect", "socket.sendto",
        ]  # fmt: skip
        with socket.create_connection(address, timeout=5):
            pass
        assert len(attempts) == 5


def test_the_way_is_open_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), offline():
        _ = 1 / 0
    with listening() as server, socket.create_connection(server.getsockname(), timeout=5):
        pass


def test_nothing_stays_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook for audit events would, for as long as the process lives."""
    monkeypatch.setattr(sys, "addaudithook", None)
    before = {owner: dict(vars(owner)) for owner in WAYS}
    with offline(), offline() as inner, pytest.raises(ConnectionError):
        socket.gethostbyname("localhost")
    assert len(inner) == 1
    assert {owner: dict(vars(owner)) for owner in WAYS} == before


def test_two_threads_take_turns() -> None:
    def look() -> None:
        with offline():
            pass

    with offline() as attempts:
        other = threading.Thread(target=look)
        other.start()
        other.join(0.05)
        with pytest.raises(ConnectionError):
            socket.gethostbyname("localhost")
    other.join()
    assert len(attempts) == 1 and "connect" not in vars(socket.socket)
