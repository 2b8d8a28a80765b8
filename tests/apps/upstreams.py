"""Bodies read from an upstream by each of the usual HTTP clients, and from truncated files."""

import bz2
import gzip
import http.client
import io
import lzma
import random
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import requests
import urllib3

from vento_wsgi import Context, Response, create_app, create_router

RANDOM = random.Random(1).randbytes(200_000)  # no coding makes it shorter


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
