"""Applications that bypass WSGI work below a StreamGuard as without it.

flask-sock and Flask-SocketIO take the client's socket, and say at the end by StopIteration, by
an empty body or by a mark of the server's that there is nothing to send.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress

import pytest
from support.fixtures import served
from support.servers import Running, connect

SERVERS = ("gunicorn-StreamWorker", "gunicorn-gevent", "gunicorn-gevent_pywsgi", "gevent-pywsgi")
NORMAL = b"\x03\xe8"  # the status code 1000 (RFC 6455, section 7.4.1)
TEXT, CLOSE = 1, 8

everywhere = pytest.mark.parametrize("where", ["bare", "guarded"])


server = served("apps.websockets:app", *SERVERS)


class WebSocket:
    """A client that sees every byte."""

    def __init__(self, server: Running, path: str) -> None:
        self.sock = connect(server).sock
        self.got = b""
        lines = (
            *(f"GET {path} HTTP/1.1", f"Host: {server.host}", "Connection: Upgrade"),
            *("Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""),
        )
        self.sock.sendall("\r\n".join(lines).encode())
        assert self.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")

    def send(self, opcode: int, data: bytes) -> None:
        """Send a short frame. Its mask is of zeros, which leave the data as it is."""
        self.sock.sendall(bytes((0x80 | opcode, 0x80 | len(data))) + bytes(4) + data)

    def until(self, wanted: bytes) -> bytes:
        """What comes up to `wanted`, and this."""
        while wanted not in self.got:
            data = self.sock.recv(1 << 16)
            assert data, self.got
            self.got += data
        before, found, self.got = self.got.partition(wanted)
        return before + found

    def rest(self) -> bytes:
        """What comes up to the end of the connection, which the client closes if need be."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while data := self.sock.recv(1 << 16):
                self.got += data
        return self.got

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def logged(server: Running, path: str) -> str:
    """What the server has written, once it has answered one more request."""
    with connect(server) as raw:
        raw.request("GET", path, "Connection: close")
        raw.read_all()
    return server.log()


@everywhere
@pytest.mark.parametrize("closes", ["client", "server"])
def test_nothing_follows_the_close_frame_of_flask_sock(
    server: Running, where: str, closes: str
) -> None:
    before = len(server.log())
    with WebSocket(server, f"/{where}/sock/echo") as ws:
        ws.send(TEXT, b"hello")
        ws.until(b"\x81\x05hello")
        ws.send(*((CLOSE, NORMAL) if closes == "client" else (TEXT, b"bye")))
        ws.until(b"\x88\x02" + NORMAL)
        assert ws.rest() == b""
    assert "Traceback" not in logged(server, "/")[before:]


@everywhere
def test_nothing_follows_the_close_frame_of_flask_socketio(server: Running, where: str) -> None:
    before = len(server.log())
    with WebSocket(server, f"/{where}/io/socket.io/?EIO=4&transport=websocket") as ws:
        ws.until(b'"sid"')
        ws.send(TEXT, b"40")  # connect to the namespace
        ws.until(b'40{"sid"')
        ws.send(TEXT, b'42["message","hello"]')
        ws.until(b'42["message","hello"]')
        ws.send(CLOSE, NORMAL)
        ws.until(b"\x88\x02" + NORMAL)
        assert ws.rest() == b""
    assert "Traceback" not in logged(server, "/")[before:]


ENDS = [
    *("stop", "kill", "error", "nothing", "empty", "emptied", "handled"),
    *("stop-started", "kill-started"),
]


@pytest.mark.parametrize("server", SERVERS[:2], indirect=True)
@pytest.mark.parametrize("name", ["exit", "exit-started"])  # it would end a server without workers
def test_system_exit_is_the_same(server: Running, name: str) -> None:
    assert_the_same(server, name)


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_a_call_is_the_same(server: Running, name: str) -> None:
    assert_the_same(server, name)


def assert_the_same(server: Running, name: str) -> None:
    def all_that_comes(where: str) -> tuple[bytes, int]:
        before = len(server.log())
        with connect(server) as raw:
            raw.ask("GET", f"/{where}/{name}", "Connection: close")
            came = raw.read_rest()
        tracebacks = logged(server, "/")[before:].count("Traceback (most")
        return re.sub(rb"Date: [^\r]+", b"", came), tracebacks

    assert all_that_comes("guarded") == all_that_comes("bare")
