"""Downloads. Both ends of the file are checked; the kernel discards the bytes in between."""

from __future__ import annotations

import socket

from .client import WrongResponse, receive, request, status_and_headers

__all__ = ["download"]

DISCARD = 1 << 20


def download(sock: socket.socket, port: int, path: str, size: int, mark: bytes) -> None:
    """Receive a file of `size` bytes that begins and ends with `mark`.

    The size has to be above the 64 KB of the first read. Raises WrongResponse.
    """
    sock.sendall(request(path, port))
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(sock, 65536)
    head, _, body = data.partition(b"\r\n\r\n")
    status, headers = status_and_headers(head)
    if status != "200 OK" or headers.get("content-length") != str(size):
        raise WrongResponse(f"{status}, Content-Length: {headers.get('content-length')}")
    while len(body) < len(mark):
        body += receive(sock, len(mark))
    if not body.startswith(mark):
        raise WrongResponse("the file begins with other bytes")
    left = size - len(body)
    buffer = bytearray(DISCARD)
    while left > len(mark):
        taken = sock.recv_into(buffer, min(left - len(mark), DISCARD), socket.MSG_TRUNC)
        if not taken:
            raise WrongResponse(f"the last {left} bytes are missing")
        left -= taken
    end = b""
    while len(end) < left:
        end += receive(sock, left - len(end))
    if end != mark:
        raise WrongResponse("the file ends with other bytes")
