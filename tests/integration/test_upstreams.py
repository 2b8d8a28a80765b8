"""A body that is read from elsewhere and breaks off there does not look whole here."""

import bz2
import gzip
import http.client
import io
import lzma
import random
import socket
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import urllib3
from support.servers import Running, connect, serve

from vento_wsgi import Context, Response, create_app, create_router

DATA = b"of an upstream which may break off in the middle\n" * 20_000
RANDOM = random.Random(1).randbytes(200_000)  # no coding makes it shorter
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


def by_http_client(url: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.request("GET", "/" + url.split("/", 3)[3])
    return connection.getresponse()


def by_requests(url: str, *, enforce: bool = True) -> requests.Response:
    response = requests.get(url, stream=True, timeout=30)
    response.raw.enforce_content_length = enforce  # False is the default of urllib3's 1.x
    return response


CLIENTS: dict[str, Callable[[str], Any]] = {
    "urlopen": urllib.request.urlopen,
    "http.client": by_http_client,
    "urlopen, buffered": lambda url: io.BufferedReader(urllib.request.urlopen(url)),
    "urlopen, as text": lambda url: io.TextIOWrapper(urllib.request.urlopen(url), "latin-1"),
    "requests": by_requests,
    "requests, raw": lambda url: by_requests(url).raw,
    "requests of old": lambda url: by_requests(url, enforce=False),
    "requests of old, raw": lambda url: by_requests(url, enforce=False).raw,
    "urllib3": lambda url: urllib3.request("GET", url, preload_content=False),
    "httpx": lambda url: of_httpx(url),
}


def of_httpx(url: str) -> Iterator[bytes]:
    with httpx.stream("GET", url) as response:
        yield from response.iter_bytes()


class Shorter(io.BytesIO):
    """An archive that loses its second half once it is open."""

    def halve(self) -> None:
        self.truncate(len(self.getvalue()) // 2)


def zipped(method: int) -> Any:
    file = Shorter()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("member", RANDOM)
    member = zipfile.ZipFile(file).open("member")  # noqa: SIM115
    file.halve()
    return member


def tarred() -> Any:
    file = Shorter()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("member")
        info.size = len(RANDOM)
        archive.addfile(info, io.BytesIO(RANDOM))
    file.seek(0)
    member = tarfile.open(fileobj=file).extractfile("member")  # noqa: SIM115
    file.halve()
    return member


FILES: dict[str, Callable[[], Any]] = {
    "gzip": lambda: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(RANDOM)[:-9])),
    "bz2": lambda: bz2.BZ2File(io.BytesIO(bz2.compress(RANDOM)[:-9])),
    "lzma": lambda: lzma.LZMAFile(io.BytesIO(lzma.compress(RANDOM)[:-9])),  # noqa: SIM115
    "zip, stored": lambda: zipped(zipfile.ZIP_STORED),
    "zip": lambda: zipped(zipfile.ZIP_DEFLATED),
    "tar": tarred,
}

router = create_router()


@router.get("/file/<name>")
def a_file(ctx: Context) -> Response:
    return ctx.stream(FILES[ctx.params["name"]]())


@router.get("/<int:port>/<client>/<answer>")
def relayed(ctx: Context) -> Response:
    url = f"http://127.0.0.1:{ctx.params['port']}/{ctx.params['answer'].replace(' ', '%20')}"
    return ctx.stream(CLIENTS[ctx.params["client"]](url))


app = create_app()
app.use(router)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp, here = tmp_path_factory.mktemp("upstreams"), Path(__file__).parent
    with serve("gunicorn-StreamWorker", "test_upstreams:app", cwd=here, tmp=tmp) as running:
        yield running


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
