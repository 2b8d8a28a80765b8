"""The client: requests on kept-alive connections, one at a time on each. It checks each response.

A body that equals an earlier, correct one byte for byte, with its framing, is not decoded again.
The client has to be faster than the servers.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from types import TracebackType

__all__ = ["Load", "WrongResponse", "connect", "receive", "request", "status_and_headers"]

TIMEOUT = 30.0
"""Seconds for a response. A server that takes longer hangs."""

CONNECTIONS = 16
"""Enough that the server always has a request to work on."""

LAST_CHUNK = b"0\r\n\r\n"


class WrongResponse(Exception):
    """The response is not the expected one."""


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(path: str, port: int, more: str = "", method: str = "GET") -> bytes:
    """A request without a body. more: header lines, each with its line end."""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n".encode()


def status_and_headers(head: bytes) -> tuple[str, dict[str, str]]:
    """Parse a response head without its empty line. Raises WrongResponse."""
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, _, status = first.partition(" ")
    if protocol != "HTTP/1.1":
        raise WrongResponse(f"it begins with {first!r}")
    pairs = (line.partition(":") for line in lines)
    return status, {name.lower(): value.strip().lower() for name, _, value in pairs}


def receive(sock: socket.socket, limit: int) -> bytes:
    """At most `limit` bytes. Raises WrongResponse if the connection was closed."""
    received = sock.recv(limit)
    if not received:
        raise WrongResponse("the connection was closed")
    return received


class _Connection:
    """One connection. It buffers a response until it is complete."""

    def __init__(self, port: int) -> None:
        self.sock = connect(port)
        self._data = bytearray()
        self._body = 0  # where the body begins; 0 until the head is complete
        self._length: int | None = None

    def receive(self) -> bytes | None:
        """A complete body with its framing, or None while it is incomplete."""
        self._data += receive(self.sock, 65536)
        if not self._body and not self._head():
            return None
        if self._length is None:
            whole = self._data.endswith(LAST_CHUNK)
        else:
            whole = len(self._data) >= self._body + self._length
        if not whole:
            return None
        body = bytes(self._data[self._body :])
        self._data.clear()
        self._body = 0
        return body

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        status, headers = status_and_headers(bytes(self._data[:end]))
        if status != "200 OK":
            raise WrongResponse(f"the status is {status}")
        if headers.get("connection") == "close":
            raise WrongResponse("the connection is not kept alive")
        length = headers.get("content-length")
        if length is None and headers.get("transfer-encoding") != "chunked":
            raise WrongResponse("the body has no framing")
        self._body = end + 4
        self._length = None if length is None else int(length)
        return True

    def decoded(self, body: bytes) -> bytes:
        return _dechunked(body) if self._length is None else body


def _dechunked(body: bytes) -> bytes:
    pieces, at = [], 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        at = end + 2 + size
        pieces.append(body[end + 2 : at])
        if body[at : at + 2] != b"\r\n":
            raise WrongResponse("a chunk is not as long as it says")
        at += 2
        if not size:
            break
    if at != len(body):
        raise WrongResponse("there are bytes after the last chunk")
    return b"".join(pieces)


class Load:
    """Connections that request `path` again and again. right: checks a decoded body."""

    def __init__(
        self,
        port: int,
        path: str,
        right: Callable[[bytes], bool],
        connections: int = CONNECTIONS,
    ) -> None:
        self._request = request(path, port)
        self._right = right
        self._known: set[bytes] = set()
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        for _ in range(connections):
            connection = _Connection(port)
            self._connections[connection.sock.fileno()] = connection
            self._epoll.register(connection.sock, select.EPOLLIN)

    def run(self, count: int) -> None:
        """Receive `count` responses. Raises WrongResponse."""
        first = list(self._connections.values())[:count]
        for connection in first:
            connection.sock.sendall(self._request)
        asked, left = len(first), count
        while left:
            ready = self._epoll.poll(TIMEOUT)
            if not ready:
                raise WrongResponse(f"nothing came for {TIMEOUT:g} s")
            for descriptor, _ in ready:
                connection = self._connections[descriptor]
                body = connection.receive()
                if body is None:
                    continue
                if body not in self._known:
                    self._check(connection, body)
                left -= 1
                if asked < count:
                    connection.sock.sendall(self._request)
                    asked += 1

    def _check(self, connection: _Connection, body: bytes) -> None:
        decoded = connection.decoded(body)
        if not self._right(decoded):
            raise WrongResponse(f"the body is {len(decoded)} bytes: {decoded[:80]!r}…")
        self._known.add(body)

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._epoll.close()
        for connection in self._connections.values():
            connection.sock.close()
