"""A body read from an upstream that breaks off does not look complete to our client."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from apps.upstreams import CLIENTS, FILES, RANDOM
from support.fixtures import served
from support.servers import STREAM_WORKER, Running, connect

DATA = b"of an upstream which may break off in the middle\n" * 20_000
PART = DATA[:300_000]

ANSWERS = {
    "length": (b"Content-Length: %d" % len(DATA), PART),
    "nothing": (b"Content-Length: %d" % len(DATA), b""),
    "chunk": (b"Transfer-Encoding: chunked", b"%x\r\n%b" % (len(DATA), PART)),
    "chunks": (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(PART), PART)),
    "size": (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n5" % (len(PART), PART)),
}
WHOLE = {
    "whole length": (b"Content-Length: %d" % len(DATA), DATA),
    "whole chunks": (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(DATA), DATA)),
    "until it closes": (b"X-A: 1", DATA),
    "empty": (b"Content-Length: 0", b""),
}


class Upstream:
    """A server whose answer breaks off, or does not, as the path says."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client, suppress(OSError):
                path = client.recv(65_536).split(b" ")[1].decode()[1:].replace("%20", " ")
                field, body = {**ANSWERS, **WHOLE}[path]
                client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n\r\n" % field + body)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


running = served("apps.upstreams:app", STREAM_WORKER)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def fetched(running: Running, target: str) -> tuple[int, bytes, bool]:
    with connect(running) as raw:
        head = raw.request("GET", target.replace(" ", "%20"))
        return head.status, *raw.read_all()


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_an_upstream_that_breaks_off_breaks_the_stream_off(
    running: Running, upstream: Upstream, client: str, answer: str
) -> None:
    status, data, complete = fetched(running, f"/{upstream.port}/{client}/{answer}")
    # where nothing was sent there can still be an error instead
    assert (status, complete) in ((200, False), (500, True))
    assert status == 500 or PART.startswith(data)


@pytest.mark.parametrize("answer", WHOLE)
@pytest.mark.parametrize("client", CLIENTS)
def test_an_upstream_that_ends_ends_the_stream(
    running: Running, upstream: Upstream, client: str, answer: str
) -> None:
    sent = WHOLE[answer][1] and DATA
    assert fetched(running, f"/{upstream.port}/{client}/{answer}") == (200, sent, True)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_breaks_the_stream_off(running: Running, name: str) -> None:
    status, data, complete = fetched(running, f"/file/{name}")
    assert (status, complete) in ((200, False), (500, True))
    assert status == 500 or RANDOM.startswith(data)
